// The area that shows a slice: its canvas, the overlay, the marks of the sides, the millimetre scale, zoom and pan.

import { createPainter } from "./viewer_gl.js";
import { drawOverlay } from "./viewer_overlay.js";

const MAX_ZOOM = 20;
const SCALE_SHARE = 0.3; // the longest scale, as a share of the width

/** A slice on the screen. `view` ({ zoom, x, y }, shared by all stages) moves it; x and y are in pixels of the screen. */
export class Stage {
  #painter = createPainter();
  #overlay = element("canvas", "overlay");
  #frame = element("div", "frame");
  #marks = { left: element("span", "side left"), right: element("span", "side right") };
  #scale = element("div", "ruler");
  #window = element("span", "shown-window");
  #value = element("span", "value");
  #message = element("p", "message");
  #slice = null;
  #facts = null;
  #pointer = null; // the last event of the pointer over the area

  /** `place` is an empty element that keeps the size that the style gives it. */
  constructor(place, view) {
    this.place = place;
    this.view = view;
    this.#overlay.hidden = this.#message.hidden = true;
    this.#painter.canvas.className = "pixels";
    this.#frame.append(this.#painter.canvas, this.#overlay);
    this.#scale.append(element("i", ""), element("span", ""));
    place.append(this.#frame, this.#marks.left, this.#marks.right, this.#scale, this.#window, this.#value, this.#message);
    place.dataset.painter = this.#painter.kind;
    new ResizeObserver(() => this.arrange()).observe(place);
    place.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") this.#point(event); });
    place.addEventListener("pointerleave", () => this.#point(null));
  }

  /** Draw `slice` (`{ id, rows, columns, spacing, hu }`) with `levels`; `facts` are those of the studies API. */
  draw(slice, levels, facts) {
    const sized = this.#slice?.rows !== slice.rows || this.#slice.columns !== slice.columns;
    this.#painter.draw(slice, levels);
    this.#frame.hidden = false;
    this.#message.hidden = true;
    this.#slice = slice;
    const changed = facts !== this.#facts;
    this.#facts = facts;
    this.place.dataset.shown = slice.id;
    if (sized || changed) this.arrange();
    if (this.#pointer) this.#point(this.#pointer);
  }

  /** Show `text` instead of a slice. */
  fail(text, facts) {
    this.#frame.hidden = true;
    this.#slice = null;
    this.#facts = facts;
    this.#message.textContent = text;
    this.#message.hidden = false;
    this.place.dataset.shown = "";
    this.arrange();
  }

  /** Show the values of the window. */
  describeWindow(text) { this.#window.textContent = text; }

  /** Show `map` over the slice; null shows none. */
  showOverlay(map, kind) {
    this.#overlay.hidden = !map;
    this.place.dataset.overlay = map ? kind : "";
    if (!map) return;
    drawOverlay(this.#overlay, map, kind);
    this.map = map;
    this.#placeOverlay();
  }

  set opacity(share) { this.#overlay.style.opacity = share; }

  /** Place the slice, the marks and the scale for the size of the area and `view`. */
  arrange() {
    const width = this.place.clientWidth, height = this.place.clientHeight, facts = this.#facts;
    if (!width || !height) return;
    for (const side of ["left", "right"]) {
      this.#marks[side].textContent = facts?.side?.[side] ?? "";
      this.#marks[side].hidden = !facts?.side?.[side];
    }
    this.#scale.hidden = !this.#slice || !facts?.spacing;
    if (!this.#slice) return;
    const [row, column] = pixelSize(this.#slice, facts);
    const high = this.#slice.rows * row, wide = this.#slice.columns * column;
    const unit = Math.min(width / wide, height / high); // pixels of the screen per mm, or per pixel without a spacing
    const view = this.view;
    const limit = (value, size, area) => Math.min(Math.max(value, -reach(size, area)), reach(size, area));
    const reach = (size, area) => Math.max(0, (size * unit * view.zoom - area) / 2) + (view.zoom > 1 ? area / 4 : 0);
    view.x = limit(view.x, wide, width);
    view.y = limit(view.y, high, height);
    Object.assign(this.#frame.style, {
      width: `${wide * unit}px`, height: `${high * unit}px`, left: `${(width - wide * unit) / 2}px`, top: `${(height - high * unit) / 2}px`,
      transform: `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`,
    });
    this.place.dataset.zoom = view.zoom.toFixed(3);
    this.#placeOverlay();
    if (this.#scale.hidden) return;
    const length = roundLength((SCALE_SHARE * width) / (unit * view.zoom));
    this.#scale.firstChild.style.width = `${length * unit * view.zoom}px`;
    this.#scale.lastChild.textContent = length >= 1 ? `${length} mm` : `${Math.round(length * 1000)} µm`;
  }

  /** Show the HU of the pixel under the pointer. */
  #point(event) {
    this.#pointer = event;
    const box = event && this.#painter.canvas.getBoundingClientRect(), slice = this.#slice;
    let text = "";
    if (box?.width && slice) {
      const column = Math.floor(((event.clientX - box.left) / box.width) * slice.columns), row = Math.floor(((event.clientY - box.top) / box.height) * slice.rows);
      if (column >= 0 && row >= 0 && column < slice.columns && row < slice.rows) text = `${slice.hu[row * slice.columns + column]} HU`;
    }
    this.#value.textContent = text;
  }

  #placeOverlay() {
    const { map } = this, slice = this.#slice;
    if (!map || !slice) return;
    // A square map on pixels that are not square covers the square around them, as caches do.
    const edge = map.rows === map.columns ? Math.max(slice.rows, slice.columns) : 0;
    const high = edge ? edge / slice.rows : 1, wide = edge ? edge / slice.columns : 1;
    Object.assign(this.#overlay.style, { width: `${100 * wide}%`, height: `${100 * high}%`, left: `${50 * (1 - wide)}%`, top: `${50 * (1 - high)}%` });
  }

  /** Change the zoom by `factor`; the point at (x, y) of the window stays, or the centre without one. */
  zoomBy(factor, x, y) {
    const box = this.place.getBoundingClientRect(), view = this.view;
    const zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom * factor)), change = zoom / view.zoom;
    const [dx, dy] = x === undefined ? [0, 0] : [x - box.left - box.width / 2, y - box.top - box.height / 2];
    view.x = dx - (dx - view.x) * change;
    view.y = dy - (dy - view.y) * change;
    view.zoom = zoom;
  }
}

/** Return the height and the width of a pixel in mm; without a spacing, both are 1. */
export function pixelSize(slice, facts) {
  if (slice.spacing) return slice.spacing;
  const [row, column] = facts?.spacing ?? [1, 1];
  if (!facts?.rows || (slice.rows === facts.rows && slice.columns === facts.columns)) return [row, column];
  // a cache has the square around the slice, at another size
  const share = Math.max(facts.rows, facts.columns) / slice.rows;
  return [row * share, column * share];
}

/** Return the largest of 1, 2 and 5 times a power of ten that is at most `length`. */
export function roundLength(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  return [5, 2, 1].map((factor) => Number((factor * power).toPrecision(1))).find((one) => one <= length * (1 + 1e-9));
}

function element(name, kind) {
  const made = document.createElement(name);
  made.className = kind;
  return made;
}
