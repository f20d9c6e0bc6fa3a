// Decoding slices as the cache stores them: a blosc2 chunk of one block, LZ4 after a bit shuffle of int16. The server sends
// no other chunks (`browser_chunks.py`), and has verified their checksums.

const HEADER = 32;
const COPIED = 0x02, ZEROS = 0x10, RUN = 0x01;

let planes = new Uint8Array(0); // of the slice that is being decoded

/** Return the pixels of `chunk`, a Uint8Array, as `count` numbers in an Int16Array. Throws an Error if it is damaged. */
export function unpackChunk(chunk, count) {
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength), bytes = 2 * count;
  if (chunk.length < HEADER || view.getInt32(4, true) !== bytes || view.getInt32(12, true) !== chunk.length) damaged();
  const pixels = new Int16Array(count);
  if (chunk[31] === ZEROS) return pixels;
  if (chunk[2] & COPIED) {
    if (chunk.length !== HEADER + bytes) damaged();
    return copyPixels(chunk, HEADER, pixels, 0);
  }
  const start = inside(view, HEADER) ? view.getInt32(HEADER, true) : -1;
  const size = inside(view, start) ? view.getInt32(start, true) : damaged(), data = start + 4;
  if (size > chunk.length - data) damaged();
  if (size === 0) return pixels;
  if (planes.length !== bytes) planes = new Uint8Array(bytes);
  if (size < 0) {
    if (size < -255 || chunk[data] !== RUN) damaged();
    planes.fill(-size);
  } else if (size === bytes) planes.set(chunk.subarray(data, data + size));
  else inflate(chunk, data, data + size, planes);
  unshuffle(planes, pixels);
  return pixels;
}

function inside(view, at) { return at >= HEADER && at + 4 <= view.byteLength; }

function damaged() { throw new Error("The server sent a damaged slice. Reload the page."); }

/** Copy little-endian numbers from `source[from]` to the end of `pixels`, from `pixels[at]` on. */
function copyPixels(source, from, pixels, at) {
  for (let i = at; i < pixels.length; i++, from += 2) pixels[i] = source[from] | (source[from + 1] << 8);
  return pixels;
}

/** Decode a block of LZ4, `source[at]` to `source[end - 1]`, into `target`, which it fills. */
function inflate(source, at, end, target) {
  const full = target.length;
  let to = 0;
  while (at < end) {
    const token = source[at++];
    let length = token >> 4;
    if (length === 15) {
      for (let more = 255; more === 255; length += more) more = at < end ? source[at++] : damaged();
    }
    if (length > end - at || length > full - to) damaged();
    if (length > 32) {
      target.set(source.subarray(at, at + length), to);
      at += length;
      to += length;
    } else for (const stop = at + length; at < stop;) target[to++] = source[at++];
    if (at === end) break; // the last sequence has no match
    if (end - at < 2) damaged();
    const distance = source[at] | (source[at + 1] << 8);
    at += 2;
    length = token & 15;
    if (length === 15) {
      for (let more = 255; more === 255; length += more) more = at < end ? source[at++] : damaged();
    }
    length += 4;
    if (distance === 0 || distance > to || length > full - to) damaged();
    const stop = to + length;
    if (length <= 32) for (let from = to - distance; to < stop;) target[to++] = target[from++];
    else if (distance === 1) target.fill(target[to - 1], to, stop);
    else { // copies of what is there grow until all is there
      for (let from = to - distance; to < stop;) {
        const part = Math.min(to - from, stop - to);
        target.copyWithin(to, from, from + part);
        to += part;
      }
    }
    to = stop;
  }
  if (to !== full) damaged();
}

/** Put the numbers together whose bits `planes` has: bit b of all numbers, eight in a byte, then bit b + 1; the rest follows. */
function unshuffle(planes, pixels) {
  const step = pixels.length >> 3;
  for (let i = 0, o = 0; i < step; i++, o += 8) {
    let p = i;
    // bytes 0 and 1 of the numbers 0 to 3 and 4 to 7: an 8 x 8 matrix of bits is transposed in two words
    let low = planes[p] | (planes[p += step] << 8) | (planes[p += step] << 16) | (planes[p += step] << 24);
    let low4 = planes[p += step] | (planes[p += step] << 8) | (planes[p += step] << 16) | (planes[p += step] << 24);
    let high = planes[p += step] | (planes[p += step] << 8) | (planes[p += step] << 16) | (planes[p += step] << 24);
    let high4 = planes[p += step] | (planes[p += step] << 8) | (planes[p += step] << 16) | (planes[p += step] << 24);
    let t;
    t = (low ^ (low >>> 7)) & 0x00aa00aa; low ^= t ^ (t << 7);
    t = (low4 ^ (low4 >>> 7)) & 0x00aa00aa; low4 ^= t ^ (t << 7);
    t = (high ^ (high >>> 7)) & 0x00aa00aa; high ^= t ^ (t << 7);
    t = (high4 ^ (high4 >>> 7)) & 0x00aa00aa; high4 ^= t ^ (t << 7);
    t = (low ^ (low >>> 14)) & 0x0000cccc; low ^= t ^ (t << 14);
    t = (low4 ^ (low4 >>> 14)) & 0x0000cccc; low4 ^= t ^ (t << 14);
    t = (high ^ (high >>> 14)) & 0x0000cccc; high ^= t ^ (t << 14);
    t = (high4 ^ (high4 >>> 14)) & 0x0000cccc; high4 ^= t ^ (t << 14);
    t = (low ^ (low4 << 4)) & 0xf0f0f0f0; low ^= t; low4 ^= t >>> 4;
    t = (high ^ (high4 << 4)) & 0xf0f0f0f0; high ^= t; high4 ^= t >>> 4;
    pixels[o] = (low & 0xff) | (high << 8);
    pixels[o + 1] = ((low >>> 8) & 0xff) | (high & 0xff00);
    pixels[o + 2] = ((low >>> 16) & 0xff) | ((high >>> 8) & 0xff00);
    pixels[o + 3] = (low >>> 24) | ((high >>> 16) & 0xff00);
    pixels[o + 4] = (low4 & 0xff) | (high4 << 8);
    pixels[o + 5] = ((low4 >>> 8) & 0xff) | (high4 & 0xff00);
    pixels[o + 6] = ((low4 >>> 16) & 0xff) | ((high4 >>> 8) & 0xff00);
    pixels[o + 7] = (low4 >>> 24) | ((high4 >>> 16) & 0xff00);
  }
  copyPixels(planes, 16 * step, pixels, 8 * step);
}
