// Curves over epochs: a chart per metric with a line per fold, stages as bands, logarithmic axis, smoothing.

import { remember, setQuery } from "./base.js";

/** Titles of the charts that are shown first, in this order; other metrics are below "More curves". */
export const TITLES = {
  loss: "training loss", score: "validation score", lr: "learning rate", images_per_second: "images per second", memory_gb: "memory, GB",
};
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [4, 4], [1, 4], [14, 4], [6, 2, 2, 2, 2, 2], [3, 6], [12, 2]];
const HEIGHT = 230;

/** Return the exponential moving average of `values` without the bias of its start; null stays a gap. */
export function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map((value) => {
    if (value == null) return value;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

/** Return `[positions, ...values of each curve]` for uPlot; undefined where another curve has a point. */
export function aligned(curves) {
  const positions = [...new Set(curves.flatMap(([xs]) => xs))].sort((a, b) => a - b);
  const place = new Map(positions.map((x, index) => [x, index]));
  return [positions, ...curves.map(([xs, ys]) => {
    const column = new Array(positions.length).fill(undefined);
    xs.forEach((x, index) => { column[place.get(x)] = ys[index]; });
    return column;
  })];
}

/** Return a value as axes, tables and readouts show it. */
export function shown(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(5)));
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const element = (tag, text = "", attributes = {}) => {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};

/** All charts of an experiment, and the controls that they share. */
export class CurveBoard {
  /**
   * @param {{main: Element, more: Element, controls: HTMLFormElement, folds: Element}} places
   * @param {{name: string, first: number, last: number}[]} stages
   */
  constructor(places, stages) {
    this.places = places;
    this.stages = stages;
    this.data = new Map(); // metric -> fold -> [positions, values]
    this.charts = new Map();
    this.readUrl();
    places.controls.addEventListener("input", () => this.changeControls());
    places.controls.addEventListener("submit", (event) => event.preventDefault());
    addEventListener("popstate", () => { this.readUrl(); this.drawFolds(); this.redraw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    places.more.addEventListener("toggle", () => this.redraw());
  }

  readUrl() {
    const query = new URLSearchParams(location.search);
    const smooth = Number(query.get("smooth"));
    this.log = query.get("log") === "1";
    this.smooth = smooth > 0 && smooth < 1 ? smooth : 0;
    this.hidden = new Set((query.get("without") ?? "").split(",").filter(Boolean));
    const { log, smooth: slider, amount } = this.places.controls.elements;
    log.checked = this.log;
    slider.value = this.smooth;
    amount.value = this.smooth.toFixed(2);
  }

  changeControls() {
    const { log, smooth, amount } = this.places.controls.elements;
    this.log = log.checked;
    this.smooth = Number(smooth.value);
    amount.value = this.smooth.toFixed(2);
    const boxes = [...this.places.folds.querySelectorAll("input")];
    this.hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    setQuery({ log: this.log ? "1" : null, smooth: this.smooth || null, without: [...this.hidden].join(",") || null });
    remember("curves", { log: this.log, smooth: this.smooth });
    this.redraw();
  }

  /** Add epochs; `replace` lists the folds whose curves start again. */
  update(folds, replace) {
    for (const fold of replace) for (const byFold of this.data.values()) byFold.delete(String(fold));
    for (const [fold, metrics] of Object.entries(folds)) {
      for (const [metric, [xs, ys]] of Object.entries(metrics)) {
        if (!this.data.has(metric)) this.data.set(metric, new Map());
        const known = this.data.get(metric).get(fold);
        this.data.get(metric).set(fold, known ? [known[0].concat(xs), known[1].concat(ys)] : [xs, ys]);
      }
    }
    this.drawFolds();
    this.redraw();
  }

  /** Folds with an epoch, in order. */
  get folds() {
    const found = new Set([...this.data.values()].flatMap((byFold) => [...byFold.keys()]));
    return [...found].sort((a, b) => a - b);
  }

  drawFolds() {
    const names = this.folds, now = [...this.places.folds.querySelectorAll("input")];
    this.places.controls.hidden = names.length === 0;
    if (now.map((box) => box.value).join() !== names.join()) {
      this.places.folds.replaceChildren(...names.map((fold) => {
        const label = element("label");
        label.append(element("input", "", { type: "checkbox", value: fold }), sign(fold), ` fold ${fold}`);
        return label;
      }));
    }
    for (const box of this.places.folds.querySelectorAll("input")) box.checked = !this.hidden.has(box.value);
  }

  redraw() {
    const metrics = [...this.data.keys()].filter((metric) => this.data.get(metric).size);
    const first = Object.keys(TITLES).filter((metric) => metrics.includes(metric));
    const others = metrics.filter((metric) => !(metric in TITLES)).sort();
    this.places.more.hidden = others.length === 0;
    for (const [metric, chart] of this.charts) {
      if (!metrics.includes(metric)) { chart.remove(); this.charts.delete(metric); }
    }
    for (const metric of [...first, ...others]) {
      const place = metric in TITLES ? this.places.main : this.places.more.querySelector("div");
      if (!this.charts.has(metric)) this.charts.set(metric, new CurveChart(this, metric, place));
      if (metric in TITLES || this.places.more.open) this.charts.get(metric).draw();
    }
  }
}

function sign(fold) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 36 16");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(svg.namespaceURI, "path");
  line.setAttribute("d", "M0 8H36");
  line.style.cssText = `stroke: var(--series-${fold % 10}); stroke-width: 4; stroke-dasharray: ${DASHES[fold % 10].join(" ") || "none"}`;
  svg.append(line);
  return svg;
}

class CurveChart {
  constructor(board, metric, place) {
    this.board = board;
    this.title = TITLES[metric] ?? metric.replaceAll("_", " ");
    this.metric = metric;
    this.figure = element("figure");
    this.plot = element("div", "", { class: "plot", tabindex: "0", role: "group", "data-metric": metric });
    this.plot.setAttribute("aria-label", `${this.title} by epoch. The arrow keys read the values; a table follows.`);
    this.readout = element("p", "", { class: "readout", "aria-live": "polite" });
    this.table = element("details");
    this.table.append(element("summary", `Values of ${this.title}`), element("div", "", { class: "scroll" }));
    const caption = element("figcaption");
    caption.append(element("strong", this.title));
    this.figure.append(caption, this.plot, this.readout, this.table);
    place.append(this.figure);
    this.plot.addEventListener("keydown", (event) => this.press(event));
    this.table.addEventListener("toggle", () => this.fillTable());
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  remove() {
    this.chart?.destroy();
    this.figure.remove();
  }

  draw() {
    const byFold = this.board.data.get(this.metric);
    this.visible = [...byFold.keys()].filter((fold) => !this.board.hidden.has(fold)).sort((a, b) => a - b);
    const drawable = (ys) => (this.board.log ? ys.map((y) => (y > 0 ? y : null)) : ys);
    const curves = this.visible.map((fold) => [byFold.get(fold)[0], drawable(byFold.get(fold)[1])]);
    // With smoothing, the values themselves are drawn behind it. A learning rate has no noise.
    this.faint = this.board.smooth > 0 && this.metric !== "lr" ? curves.length : 0;
    const lines = this.faint ? curves.map(([xs, ys]) => [xs, smoothed(ys, this.board.smooth)]) : [];
    this.data = aligned([...curves, ...lines]);
    const look = [this.visible, this.board.log, this.faint, style("--ink"), style("--paper")].join(" ");
    if (this.chart && this.look === look) {
      const [low, high] = [this.chart.scales.x.min, this.chart.scales.x.max];
      this.chart.setData(this.data, !this.zoomed);
      if (this.zoomed) this.chart.setScale("x", { min: low, max: high });
    } else {
      this.chart?.destroy();
      this.look = look;
      this.zoomed = false;
      this.chart = new window.uPlot(this.options(), this.data, this.plot);
      this.chart.ctx.canvas.setAttribute("aria-hidden", "true"); // its values are in the readout and the table
    }
    this.fillTable();
  }

  options() {
    const axis = { stroke: style("--quiet"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const line = (fold, thin) => ({
      stroke: style(`--series-${fold % 10}`), dash: DASHES[fold % 10], width: thin ? 1 : 2, alpha: thin ? 0.35 : 1, points: { size: thin ? 3 : 5, fill: style(`--series-${fold % 10}`) },
    });
    const lines = this.visible.map((fold) => line(fold, this.faint > 0));
    if (this.faint) lines.push(...this.visible.map((fold) => line(fold, false)));
    return {
      width: this.plot.clientWidth, height: HEIGHT, legend: { show: false },
      cursor: { sync: { key: "curves", setSeries: false }, drag: { x: true, y: false }, y: false },
      scales: { x: { time: false, range: (_, low, high) => (low == null ? [0.5, 1.5] : this.zoomed ? [low, high] : [low - 0.5, high + 0.5]) }, y: { distr: this.board.log ? 3 : 1 } },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000], label: "epoch", labelSize: 16, size: 32, labelFont: "12px system-ui, sans-serif" },
        { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : shown(tick))) },
      ],
      series: [{}, ...lines],
      hooks: {
        drawClear: [(chart) => this.drawStages(chart)],
        setCursor: [(chart) => this.read(chart)],
        setSelect: [(chart) => { this.zoomed = chart.select.width > 0; }],
        setScale: [(chart, key) => { if (key === "x" && this.zoomed) this.zoomed = chart.scales.x.min > this.data[0][0] - 0.5 || chart.scales.x.max < this.data[0].at(-1) + 0.5; }],
      },
    };
  }

  drawStages(chart) {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    this.board.stages.forEach((stage, index) => {
      const left = chart.valToPos(stage.first - 0.5, "x", true), right = chart.valToPos(stage.last + 0.5, "x", true);
      ctx.fillStyle = style(index % 2 ? "--paper" : "--panel");
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
      const from = Math.max(left, bbox.left) + 4, width = Math.min(right, bbox.left + bbox.width) - from;
      ctx.fillStyle = style("--quiet");
      if (ctx.measureText(stage.name).width < width) ctx.fillText(stage.name, from, bbox.top + 3 * devicePixelRatio);
    });
    ctx.restore();
  }

  /** Show the values under the cursor. */
  read(chart) {
    const index = chart.cursor.idx;
    if (index == null) { this.readout.textContent = ""; return; }
    this.readout.textContent = this.text(index);
  }

  text(index) {
    const at = this.data[0][index], stage = this.board.stages.find((one) => one.first <= at && at <= one.last);
    const values = this.visible.map((fold, row) => {
      const value = this.data[1 + row][index], line = this.faint ? this.data[1 + this.faint + row][index] : null;
      return value === undefined ? null : `fold ${fold}: ${shown(value)}${this.faint ? ` (smoothed ${shown(line)})` : ""}`;
    });
    return `epoch ${at}${stage ? ` (${stage.name})` : ""}: ${values.filter(Boolean).join(", ")}`;
  }

  press(event) {
    const count = this.data[0].length, now = this.chart.cursor.idx;
    const target = { ArrowRight: (now ?? -1) + 1, ArrowLeft: (now ?? count) - 1, Home: 0, End: count - 1 }[event.key];
    if (event.key === "Escape") this.chart.setCursor({ left: -10, top: -10 });
    if (target === undefined || !count) return;
    event.preventDefault();
    const index = Math.max(0, Math.min(count - 1, target));
    this.chart.setCursor({ left: this.chart.valToPos(this.data[0][index], "x"), top: HEIGHT / 4 });
  }

  resize() {
    const width = this.plot.clientWidth;
    if (this.chart && width && width !== this.chart.width) this.chart.setSize({ width, height: HEIGHT });
  }

  fillTable() {
    if (!this.table.open || !this.data) return;
    const table = element("table"), head = element("tr"), body = element("tbody");
    head.append(element("th", "epoch", { scope: "col" }), ...this.visible.map((fold) => element("th", `fold ${fold}`, { scope: "col", class: "number" })));
    this.data[0].forEach((at, index) => {
      const row = element("tr");
      row.append(element("th", String(at), { scope: "row" }), ...this.visible.map((_, fold) => element("td", shown(this.data[1 + fold][index]), { class: "number" })));
      body.append(row);
    });
    const top = element("thead");
    top.append(head);
    table.append(element("caption", `${this.title} by epoch`), top, body);
    this.table.querySelector("div").replaceChildren(table);
  }
}
