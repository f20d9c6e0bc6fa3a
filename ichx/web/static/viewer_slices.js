// Loading slices: requests, those of neighbours in advance, and the most recent ones in memory.

const MEMORY = 96 * 1024 * 1024;
const AHEAD = 10, BEHIND = 3;
const AT_ONCE = 4;
const BIG_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 0;

/** Fetch a body of numbers. Throws an Error whose message has the problem and the remedy. */
export async function getMap(url, signal) {
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
  const buffer = await response.arrayBuffer();
  return { buffer, headers: response.headers, rows: Number(response.headers.get("X-Rows")), columns: Number(response.headers.get("X-Columns")) };
}

/** The pixels of slices by id, at most `MEMORY` bytes of them. */
export class SliceLoader {
  #loaded = new Map(); // id -> slice; the most recently used one is the last
  #pending = new Map(); // id -> { promise, controller }
  #bytes = 0;
  #wanted = [];

  /** `urlOf(id)` returns the URL of a slice's pixels; `memory` is in bytes. */
  constructor(urlOf, { memory = MEMORY } = {}) {
    this.urlOf = urlOf;
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
    if (!this.#pending.has(id)) {
      const controller = new AbortController(), entry = { controller, promise: this.#fetch(id, controller.signal) };
      this.#pending.set(id, entry);
      entry.promise.catch(() => {}).then(() => {
        if (this.#pending.get(id) === entry) this.#pending.delete(id);
        this.#next();
      });
    }
    return this.#pending.get(id).promise;
  }

  /** Load the neighbours of `ids[index]` in advance, more of them in `direction`; cancel requests for others. */
  prefetch(ids, index, direction) {
    const near = [];
    for (let far = 1; far <= AHEAD; far++) {
      near.push(index + far * direction);
      if (far <= BEHIND) near.push(index - far * direction);
    }
    this.#wanted = near.filter((i) => i >= 0 && i < ids.length).map((i) => ids[i]);
    const keep = new Set([ids[index], ...this.#wanted]);
    for (const id of [...this.#pending.keys()]) if (!keep.has(id)) this.#cancel(id);
    this.#next();
  }

  /** Forget all slices, e.g. before another size is loaded. */
  clear() {
    for (const id of [...this.#pending.keys()]) this.#cancel(id);
    this.#loaded.clear();
    this.#wanted = [];
    this.#bytes = 0;
  }

  #cancel(id) {
    this.#pending.get(id).controller.abort();
    this.#pending.delete(id);
  }

  #next() {
    while (this.#wanted.length && this.#pending.size < AT_ONCE) {
      const id = this.#wanted.shift();
      if (!this.#loaded.has(id) && !this.#pending.has(id)) this.load(id);
    }
  }

  async #fetch(id, signal) {
    const { buffer, headers, rows, columns } = await getMap(this.urlOf(id), signal);
    signal.throwIfAborted();
    if (!(rows > 0 && columns > 0) || buffer.byteLength !== 2 * rows * columns) {
      throw new Error(`The server sent ${buffer.byteLength} bytes for ${rows} x ${columns} pixels of ${id}.`);
    }
    if (BIG_ENDIAN) swapBytes(buffer);
    const spacing = headers.get("X-Spacing")?.split(",").map(Number) ?? null; // of these pixels, unlike that of the file
    const slice = { id, rows, columns, spacing, hu: new Int16Array(buffer) };
    this.#loaded.set(id, slice);
    this.#bytes += buffer.byteLength;
    for (const [old, one] of this.#loaded) {
      if (this.#bytes <= this.memory || old === id) break;
      this.#loaded.delete(old);
      this.#bytes -= one.hu.byteLength;
    }
    return slice;
  }
}

function swapBytes(buffer) {
  const view = new DataView(buffer);
  for (let at = 0; at < view.byteLength; at += 2) view.setInt16(at, view.getInt16(at, true), false);
}
