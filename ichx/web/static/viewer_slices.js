// Loading slices: requests, those of neighbours in advance, and the most recent ones in memory.

import { unpackChunk } from "./viewer_chunks.js";

const MEMORY = 96 * 1024 * 1024;
const AHEAD = 10, BEHIND = 3;
const AT_ONCE = 4; // requests
const BLOCK = 16; // slices of one request, as many as the server sends
const BIG_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 0;

/** Request a body of numbers. Throws an Error whose message has the problem and the remedy. */
async function fetchChecked(url, signal) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `ichx ui` still running?");
  }
  if (!response.ok) {
    const text = await response.text();
    let problem = text || `HTTP status ${response.status}`;
    try {
      const { error } = JSON.parse(text);
      problem = `${error.problem} ${error.remedy}`;
    } catch { /* plain text of the server's checks */ }
    throw Object.assign(new Error(problem), { status: response.status });
  }
  return response;
}

function shape(headers) { return [Number(headers.get("X-Rows")), Number(headers.get("X-Columns"))]; }

/** Fetch a body of numbers. Throws an Error whose message has the problem and the remedy. */
export async function getMap(url, signal) {
  const response = await fetchChecked(url, signal), [rows, columns] = shape(response.headers);
  return { buffer: await response.arrayBuffer(), headers: response.headers, rows, columns };
}

/**
 * The pixels of slices by id, at most `MEMORY` bytes of them. The slice that is shown is requested alone, its neighbours
 * in blocks of the list: one request of several slices takes less time of the server than several requests.
 */
export class SliceLoader {
  #loaded = new Map(); // id -> slice; the most recently used one is the last
  #pending = new Map(); // id -> { promise, resolve, reject, request }
  #requests = new Set(); // { ids, shown, controller }
  #bytes = 0;
  #wanted = []; // lists of ids

  /**
   * `urlOf(id)` returns the URL of a slice's pixels, `urlOfBlock(ids)` that of several slices, or null where they can only
   * be requested one by one; `memory` is in bytes.
   */
  constructor(urlOf, { urlOfBlock = () => null, memory = MEMORY } = {}) {
    this.urlOf = urlOf;
    this.urlOfBlock = urlOfBlock;
    this.memory = memory;
  }

  get bytes() { return this.#bytes; }

  /** Return a slice that is in memory, else undefined. */
  peek(id) {
    const slice = this.#loaded.get(id);
    if (slice) {
      this.#loaded.delete(id);
      this.#loaded.set(id, slice);
    }
    return slice;
  }

  has(id) { return this.#loaded.has(id); }

  /** Return the promise of a slice: `{ id, rows, columns, spacing, hu }`. An error is not kept: the next call tries again. */
  load(id) {
    const slice = this.peek(id);
    if (slice) return Promise.resolve(slice);
    if (!this.#pending.has(id)) this.#request([id], true);
    return this.#pending.get(id).promise;
  }

  /** Load the neighbours of `ids[index]` in advance, more of them in `direction`; cancel requests for others. */
  prefetch(ids, index, direction) {
    const near = [index];
    for (let far = 1; far <= AHEAD; far++) {
      near.push(index + far * direction);
      if (far <= BEHIND) near.push(index - far * direction);
    }
    const wanted = near.filter((i) => i >= 0 && i < ids.length);
    const keep = new Set(wanted.map((i) => ids[i]));
    for (const request of [...this.#requests]) if (!request.ids.some((id) => keep.has(id))) this.#cancel(request);
    const blocks = new Map(); // blocks start at fixed places: a browser keeps what it has received under the same URL
    for (const i of wanted) {
      if (this.#loaded.has(ids[i]) || this.#pending.has(ids[i])) continue;
      const block = Math.floor(i / BLOCK);
      if (!blocks.has(block)) blocks.set(block, ids.slice(block * BLOCK, (block + 1) * BLOCK));
    }
    this.#wanted = [...blocks.values()];
    if (this.#wanted.length && this.urlOfBlock(this.#wanted[0]) === null) {
      this.#wanted = wanted.slice(1).map((i) => [ids[i]]);
    }
    this.#next();
  }

  /** Forget all slices, e.g. before another size is loaded. */
  clear() {
    for (const request of [...this.#requests]) this.#cancel(request);
    this.#loaded.clear();
    this.#wanted = [];
    this.#bytes = 0;
  }

  #cancel(request) {
    request.controller.abort();
    this.#requests.delete(request);
    for (const id of request.ids) if (this.#pending.get(id)?.request === request) this.#pending.delete(id);
  }

  /** Request what is wanted in advance, after the slice that is shown. */
  #next() {
    if ([...this.#requests].some((one) => one.shown)) return;
    while (this.#wanted.length && this.#requests.size < AT_ONCE) {
      const ids = this.#wanted.shift().filter((id) => !this.#loaded.has(id) && !this.#pending.has(id));
      if (ids.length) this.#request(ids);
    }
  }

  /** Request slices that are neither in memory nor requested; `shown`: somebody waits for it. */
  #request(ids, shown = false) {
    const request = { ids, shown, controller: new AbortController() };
    this.#requests.add(request);
    for (const id of ids) {
      const entry = { request };
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      entry.promise.catch(() => {}); // of a slice that nobody waits for
      this.#pending.set(id, entry);
    }
    const { signal } = request.controller;
    const fetched = ids.length > 1 ? this.#fetchBlock(request, signal) : this.#fetchSlice(ids[0], signal);
    const entries = ids.map((id) => this.#pending.get(id));
    fetched.catch((error) => entries.forEach((entry) => entry.reject(error))).then(() => {
      for (const [i, id] of ids.entries()) if (this.#pending.get(id) === entries[i]) this.#pending.delete(id);
      this.#requests.delete(request);
      this.#next();
    });
  }

  async #fetchSlice(id, signal) {
    const { buffer, headers, rows, columns } = await getMap(this.urlOf(id), signal);
    signal.throwIfAborted();
    const [chunk] = chunkLengths(headers), expected = chunk ?? 2 * rows * columns;
    if (!(rows > 0 && columns > 0) || buffer.byteLength !== expected) {
      throw new Error(`The server sent ${buffer.byteLength} bytes for ${rows} x ${columns} pixels of ${id}.`);
    }
    this.#keep(id, decode(new Uint8Array(buffer), rows * columns, chunk), rows, columns, headers.get("X-Spacing"));
  }

  /** Receive several slices, each of which can be shown as soon as its last byte has arrived and been decoded. */
  async #fetchBlock({ ids }, signal) {
    const response = await fetchChecked(this.urlOfBlock(ids), signal);
    const [rows, columns] = shape(response.headers), chunks = chunkLengths(response.headers);
    const missing = new Set((response.headers.get("X-Missing") || "").split(",").filter(Boolean).map(Number));
    const spacings = (response.headers.get("X-Spacing") || "").split(";");
    const coming = [...ids.keys()].filter((place) => !missing.has(place)), reader = response.body.getReader();
    const bytesOf = (place) => chunks[place] ?? 2 * rows * columns;
    let slice = null, filled = 0, done = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      signal.throwIfAborted();
      for (let at = 0; at < part.value.length && done < coming.length; ) {
        const place = coming[done];
        slice ??= new Uint8Array(bytesOf(place));
        const taken = part.value.subarray(at, at + slice.length - filled);
        slice.set(taken, filled);
        at += taken.length;
        filled += taken.length;
        if (filled < slice.length) continue;
        this.#keep(ids[place], decode(slice, rows * columns, chunks[place]), rows, columns, spacings[place]);
        if (chunks[place] !== undefined) {
          await nextTask(); // decoding takes a while: keys and frames come between two slices
          signal.throwIfAborted();
        }
        [slice, filled] = [null, 0];
        done++;
      }
    }
    if (done < coming.length) throw new Error(`The server sent ${done} of ${coming.length} slices.`);
    for (const place of missing) { // alone, it has the reason
      const entry = this.#pending.get(ids[place]);
      await this.#fetchSlice(ids[place], signal).catch((error) => entry?.reject(error));
    }
  }

  #keep(id, hu, rows, columns, spacing) {
    // of these pixels, unlike that of the file
    const slice = { id, rows, columns, spacing: spacing ? spacing.split(",").map(Number) : null, hu };
    this.#loaded.set(id, slice);
    this.#bytes += hu.byteLength;
    for (const [old, one] of this.#loaded) {
      if (this.#bytes <= this.memory || old === id) break;
      this.#loaded.delete(old);
      this.#bytes -= one.hu.byteLength;
    }
    this.#pending.get(id)?.resolve(slice);
  }
}

/** Return the length of the stored chunk of each slice of a response, undefined for slices that the server decoded. */
function chunkLengths(headers) {
  return (headers.get("X-Chunks") ?? "").split(",").map((text) => (text ? Number(text) : undefined));
}

/** Return the pixels of a slice that has arrived: numbers, or a stored chunk if its length is given. */
function decode(bytes, count, chunk) {
  if (chunk !== undefined) return unpackChunk(bytes, count);
  if (BIG_ENDIAN) swapBytes(bytes.buffer);
  return new Int16Array(bytes.buffer);
}

const tasks = new MessageChannel(), waiting = [];
tasks.port1.onmessage = () => waiting.shift()();

/** Wait until other tasks of the page have run. */
function nextTask() {
  return new Promise((resolve) => {
    waiting.push(resolve);
    tasks.port2.postMessage(0);
  });
}

function swapBytes(buffer) {
  const view = new DataView(buffer);
  for (let at = 0; at < view.byteLength; at += 2) view.setInt16(at, view.getInt16(at, true), false);
}
