// The six probabilities along the head: a line per label and curve, the labels as ticks, and the current slice.

const HEIGHT = 120, ROW = 12, TOP = 8, BOTTOM = 22, RIGHT = 10;
const NARROW = 260; // a strip without room for the names of the labels; their colours remain
const NS = "http://www.w3.org/2000/svg";
/** The order of processing; a later curve of a set is the one to look at first. */
export const CURVES = ["CNN", "TTA", "smoothed", "sequence", "ensemble"];
const SIGNS = { CNN: "circle", TTA: "square", smoothed: "triangle", sequence: "diamond", ensemble: "cross" };

/** Return the key of each curve of a response: its name, with the view if several have the name. */
export function curveKeys(curves) {
  const twice = (name) => curves.filter((one) => one.name === name).length > 1;
  return curves.map((one) => (twice(one.name) ? `${one.name} (${one.view})` : one.name));
}

/** A chart of the slices of a series. */
export class Strip {
  #svg = svg("svg", { class: "chart", role: "img" });
  #cursor = svg("path", { class: "now" });
  #content = null;
  #index = 0;
  #width = 0;

  /** `place` is an empty element; `go(index, final)` is called with the slice under the pointer. */
  constructor(place, go) {
    place.append(this.#svg);
    this.place = place;
    let down = false;
    const at = (event) => {
      const { count, left } = this.#content, share = (event.clientX - this.#svg.getBoundingClientRect().left - left) / this.#plotWidth();
      return Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    };
    this.#svg.addEventListener("pointerdown", (event) => {
      if (!this.#content?.count || event.button) return;
      down = true;
      this.#svg.setPointerCapture(event.pointerId);
      go(at(event), true);
    });
    this.#svg.addEventListener("pointermove", (event) => { if (down) go(at(event), false); });
    for (const name of ["pointerup", "pointercancel"]) this.#svg.addEventListener(name, () => { down = false; });
    new ResizeObserver(() => { if (place.clientWidth !== this.#width) this.#redraw(); }).observe(place);
  }

  /**
   * Show a series.
   * @param {object} content `slices` (of the studies API), `labels` (names), `shown` (names), `curves` (`{ key, name, probabilities }`, the
   *     strongest is the last)
   */
  show(content) {
    const marked = content.slices.some((one) => one.labels), reviewed = content.slices.some((one) => one.reviews);
    this.#content = { ...content, count: content.slices.length, marked, reviewed, left: 44 };
    this.place.hidden = !content.curves.length && !marked && !reviewed; // nothing to draw
    this.#redraw();
  }

  /** Mark the current slice. */
  mark(index) {
    this.#index = index;
    if (!this.#content || !this.#width) return;
    this.#cursor.setAttribute("d", `M${this.#x(index).toFixed(1)} ${TOP - 4}V${this.#height() - BOTTOM}`);
  }

  #height() {
    const { marked, reviewed, labels } = this.#content;
    return TOP + HEIGHT + BOTTOM + ROW * ((marked ? labels.length : 0) + (reviewed ? 1 : 0)) + (marked || reviewed ? 8 : 0);
  }

  #plotWidth() { return Math.max(1, this.#width - this.#content.left - RIGHT); }

  #x(index) { return this.#content.left + (this.#plotWidth() * (index + 0.5)) / this.#content.count; }

  #redraw() {
    this.#width = this.place.clientWidth;
    if (!this.#content || !this.#width) return;
    const named = this.#width >= NARROW && (this.#content.marked || this.#content.reviewed);
    this.#content.left = named ? 118 : 44;
    const { slices, labels, shown, curves, count, marked, reviewed, left } = this.#content;
    const height = this.#height(), y = (p) => TOP + HEIGHT * (1 - p), right = left + this.#plotWidth();
    this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${height}`);
    this.#svg.setAttribute("aria-label", `Probability along the head: ${count} slices; curves: ${curves.map((one) => one.key).join(", ") || "none"}`);
    const parts = [];
    for (const p of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(svg("path", { class: "grid", d: `M${left} ${y(p)}H${right}` }));
      if (p * 2 === Math.round(p * 2)) parts.push(text(left - 6, y(p) + 4, `${100 * p} %`, "end"));
    }
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((n) => (this.#plotWidth() / count) * n >= 30) ?? 1000;
    for (let i = 0; i < count; i++) {
      if (i === 0 || ((i + 1) % step === 0 && this.#x(i) - this.#x(0) >= 26)) parts.push(text(this.#x(i), height - 6, `${i + 1}`, "middle"));
    }
    curves.forEach((curve, number) => {
      const strong = number === curves.length - 1;
      for (const [column, label] of labels.entries()) {
        if (!shown.includes(label)) continue;
        const group = svg("g", { class: `series c${column}${column % 2 === 0 ? " dashed" : ""}${strong ? "" : " thin"}`, "data-label": label, "data-curve": curve.key });
        const points = slices.map((one, i) => [this.#x(i), curve.probabilities[one.id]?.[column]]);
        let path = "", drawing = false;
        for (const [x, p] of points) {
          if (!Number.isFinite(p)) { drawing = false; continue; }
          path += `${drawing ? "L" : "M"}${x.toFixed(1)} ${y(p).toFixed(1)}`;
          drawing = true;
        }
        if (path) group.append(svg("path", { class: "line", d: path }));
        const every = curves.length > 1 ? Math.max(1, Math.ceil(count / 8)) : count > 1 ? Infinity : 1;
        points.forEach(([x, p], i) => {
          if (Number.isFinite(p) && i % every === Math.floor(every / 2) % every) group.append(svg("path", { class: "dot", d: sign(SIGNS[curve.name], x, y(p)) }));
        });
        parts.push(group);
      }
    });
    let row = TOP + HEIGHT + 8;
    const names = [...(marked ? labels : []), ...(reviewed ? ["reviews"] : [])];
    for (const name of names) {
      const column = labels.indexOf(name), middle = row + ROW / 2;
      if (named) parts.push(text(left - 6, middle + 4, name, "end"));
      const group = svg("g", { class: column < 0 ? "series" : `series c${column}`, "data-truth": name });
      slices.forEach((one, i) => {
        if (column < 0 ? one.reviews : one.labels?.[name] > 0.5) group.append(svg("path", { class: "tick", d: `M${this.#x(i).toFixed(1)} ${row + 1}v${ROW - 2}` }));
        else if (column >= 0 && (one.labels?.[name] ?? null) === null) group.append(svg("path", { class: "unknown", d: `M${(this.#x(i) - 2).toFixed(1)} ${middle}h4` }));
      });
      parts.push(group);
      row += ROW;
    }
    this.#svg.replaceChildren(...parts, this.#cursor);
    this.#svg.style.setProperty("--tick", `${Math.max(2, Math.min(9, (this.#plotWidth() / count) * 0.7)).toFixed(1)}px`);
    this.mark(this.#index);
  }
}

/** Return the path of the sign of a curve at (x, y), also used by its switch. */
export function sign(name, x, y) {
  const at = `M${x.toFixed(1)} ${y.toFixed(1)}`;
  if (name === "square") return `${at}m-2.5 -2.5h5v5h-5z`;
  if (name === "triangle") return `${at}m0 -3.5l3.5 6h-7z`;
  if (name === "diamond") return `${at}m0 -4l4 4l-4 4l-4 -4z`;
  if (name === "cross") return `${at}m-1 -3.5h2v2.5h2.5v2h-2.5v2.5h-2v-2.5h-2.5v-2h2.5z`;
  return `${at}m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0z`;
}

/** Return the sign of a curve as a drawing for its switch. */
export function curveSign(name) {
  const drawn = svg("svg", { class: "sign", width: 12, height: 12, "aria-hidden": "true" });
  drawn.append(svg("path", { d: sign(SIGNS[name], 6, 6), fill: "currentColor" }));
  return drawn;
}

function svg(name, attributes) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(x, y, content, anchor) {
  const made = svg("text", { x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor });
  made.textContent = content;
  return made;
}
