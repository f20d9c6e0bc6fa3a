// Overlays: masks and heat maps in colours over a slice, and the legend that explains them.

import { getMap } from "./viewer_slices.js";

export const KINDS = [["none", "none"], ["mask", "mask of the dataset"], ["predicted_mask", "predicted mask"], ["heat", "heat map"]];
const MASK = [255, 176, 0]; // seen on grey by everyone
// Inferno at 0, 1/16, ..., 1: the scale of the reports.
const INFERNO = ["000004", "0b0724", "210c4a", "3b0964", "550f6d", "6d186e", "86216b", "9e2a63", "b73557", "cd4347", "e05536", "ee6c24",
  "f98b0b", "fcab0f", "f9cc37", "f3ec74", "fcffa4"].map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const IGNORED = [90, 170, 255, 70]; // pixels of a pseudo-mask that trainings leave out
const MEMORY = 64;

/** Maps of the slices of one predictor, the most recent ones in memory. */
export class OverlayLoader {
  #maps = new Map();
  #controller = null;

  /** `urlOf(id, kind, label)` returns the URL of a map. */
  constructor(urlOf) { this.urlOf = urlOf; }

  /** Return whether a map is in memory. */
  has(id, kind, label) { return this.#maps.has(this.urlOf(id, kind, label)); }

  /** Return a map, or `{ missing: message }` if the slice has none; cancels the request before. */
  async load(id, kind, label) {
    const url = this.urlOf(id, kind, label);
    this.#controller?.abort();
    if (this.#maps.has(url)) return this.#maps.get(url);
    const { signal } = this.#controller = new AbortController();
    let map;
    try {
      const { buffer, headers, rows, columns } = await getMap(url, signal);
      if (buffer.byteLength !== rows * columns) throw new Error(`The server sent ${buffer.byteLength} bytes for ${rows} x ${columns} pixels.`);
      map = { rows, columns, values: new Uint8Array(buffer), maximum: Number(headers.get("X-Maximum")), meaning: headers.get("X-Meaning") ?? "" };
    } catch (error) {
      if (error.status !== 404) throw error;
      map = { missing: error.message };
    }
    this.#maps.set(url, map);
    if (this.#maps.size > MEMORY) this.#maps.delete(this.#maps.keys().next().value);
    return map;
  }
}

/** Draw `map` into `canvas`, in the size of the map. A mask of the dataset has one colour and an outline. */
export function drawOverlay(canvas, map, kind) {
  const { rows, columns, values } = map;
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  const colours = kind === "mask" ? null : Array.from({ length: 256 }, (_, level) => heatColour(level / 255));
  for (let i = 0; i < values.length; i++) {
    if (!values[i]) continue;
    if (colours) { image.data.set(colours[values[i]], 4 * i); continue; }
    if (values[i] < 255) { image.data.set(IGNORED, 4 * i); continue; }
    const x = i % columns;
    const edge = x === 0 || x === columns - 1 || [i - 1, i + 1, i - columns, i + columns].some((at) => values[at] !== 255);
    image.data.set([...MASK, edge ? 255 : 110], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

/** Write into `place` what the colours of an overlay mean, or why there is none. */
export function describeOverlay(place, map, kind) {
  place.replaceChildren();
  if (kind === "none") return;
  if (map.missing) { place.textContent = map.missing; return; }
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  if (kind === "mask") {
    swatch.style.background = `rgb(${MASK})`;
    place.append(swatch, ` ${map.meaning || "marked by a reader"}`);
    if (map.values.some((value) => value > 0 && value < 255)) {
      const ignored = swatch.cloneNode();
      ignored.style.background = `rgb(${IGNORED.slice(0, 3)})`;
      place.append(" ", ignored, " not sure: left out of the training");
    }
    return;
  }
  swatch.classList.add("scale");
  swatch.style.background = `linear-gradient(to right, ${INFERNO.map((colour) => `rgb(${colour})`)})`;
  const maximum = Number.isFinite(map.maximum) ? map.maximum.toPrecision(3).replace(/\.?0+$/, "") : "maximum";
  place.append("0 ", swatch, ` ${maximum}: ${map.meaning}`);
}

/** Return the colour [red, green, blue, alpha] of a share of the maximum, as in the reports. */
export function heatColour(share) {
  const at = share * (INFERNO.length - 1), low = Math.min(INFERNO.length - 2, Math.floor(at)), rest = at - low;
  const mixed = INFERNO[low].map((value, i) => Math.round(value + rest * (INFERNO[low + 1][i] - value)));
  return [...mixed, Math.round(190 * Math.sqrt(share))];
}
