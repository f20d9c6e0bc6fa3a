// A pane: the slice with the overlay of one predictor, and its probabilities along the head.

import { getJson, postJson } from "./base.js";
import { CURVES, curveKeys, Strip } from "./strip.js";
import { made } from "./viewer_facts.js";
import { describeOverlay, OverlayLoader } from "./viewer_overlay.js";
import { Stage } from "./viewer_stage.js";

const POLL = 1000; // ms
const HEAT_DELAY = 250; // a heat map is computed: not for slices that are only passed

/** Predictions of a study by predictor; each is requested once. */
export class Predictions {
  #found = new Map();

  /** `urlOf(of)` returns the URL of a predictor's predictions; `source` is the URL that starts them for files, else null. */
  constructor(urlOf, source) {
    this.urlOf = urlOf;
    this.source = source;
  }

  /** Return how far the prediction of the files is; stored predictions are done. */
  async state(of) { return this.source ? getJson(`${this.source}?${new URLSearchParams({ of })}`) : { state: "done" }; }

  /** Start the prediction of the files and return how far it is. */
  start(of) { return postJson(this.source, { of }); }

  /** Return the predictions of `of`; an error is not kept. */
  load(of) {
    if (!this.#found.has(of)) {
      const promise = getJson(this.urlOf(of));
      promise.catch(() => this.#found.delete(of));
      this.#found.set(of, promise);
    }
    return this.#found.get(of);
  }
}

/** One of the panes next to each other; all show the same slice. */
export class Pane {
  all = []; // curves: { key, name, probabilities }
  curves = []; // those that are switched on
  #timer = null;
  #turn = 0;

  /**
   * @param {object} options `of` (a predictor, or null), `name`, `view` (shared by the stages), `overlayUrl(id, kind, label, of)`,
   *     `go(index, final)` for the strip
   */
  constructor({ of, name, view, overlayUrl, go }) {
    this.of = of;
    this.name = name;
    this.element = made("section", "", { class: "pane" });
    this.title = made("h2", name, { title: name });
    this.area = made("div", "", { class: "stage", tabindex: "0", role: "img" });
    this.legend = made("p", "", { class: "overlay-legend" });
    this.note = made("p", "", { class: "strip-note quiet" });
    const strip = made("div", "", { class: "strip" });
    this.element.setAttribute("aria-label", name);
    this.element.append(this.title, this.area, this.legend, strip, this.note);
    this.stage = new Stage(this.area, view);
    this.strip = new Strip(strip, go);
    this.overlays = new OverlayLoader((id, kind, label) => overlayUrl(id, kind, label, of));
  }

  /** Load the predictions, then call `loaded()`. */
  async predict(predictions, loaded) {
    if (!this.of) { this.note.textContent = "Choose predictions to see the probabilities along the head."; return; }
    this.note.textContent = "Loading predictions …";
    try {
      if (!(await this.#predicted(predictions))) return;
      const found = await predictions.load(this.of), keys = curveKeys(found.curves);
      const order = (curve) => CURVES.indexOf(curve.name);
      this.all = found.curves.map((curve, i) => ({ ...curve, key: keys[i] })).sort((a, b) => order(a) - order(b));
      this.note.textContent = found.problem ?? (this.all.length ? "" : "There are no predictions of this study.");
      if (this.all.length && !found.out_of_fold) this.title.append(" ", made("span", "not out-of-fold", { class: "mark", title: "The networks may have been trained on this patient." }));
    } catch (error) {
      this.note.textContent = error.message;
    }
    loaded();
  }

  /** Wait until the files are predicted: return false if this pane is closed before. A button starts the prediction. */
  async #predicted(predictions) {
    let { state, ...progress } = await predictions.state(this.of);
    while (state !== "done") {
      if (this.closed) return false;
      if (state === "running") {
        this.note.textContent = `Predicting: ${progress.what}${progress.total ? `, ${progress.done} of ${progress.total}` : ""} …`;
        await new Promise((resolve) => { setTimeout(resolve, POLL); });
        ({ state, ...progress } = await predictions.state(this.of));
        continue;
      }
      const button = made("button", `Predict with ${this.name}`, { type: "button" });
      this.note.replaceChildren(...(progress.problem ? [made("span", `${progress.problem} ${progress.remedy ?? ""} `, { class: "problem" })] : []), button);
      await new Promise((resolve) => { button.addEventListener("click", resolve, { once: true }); });
      this.note.textContent = "Starting …";
      ({ state, ...progress } = await predictions.start(this.of));
    }
    this.note.textContent = "Loading predictions …";
    return true;
  }

  /** Show the curves in `chosen`, the last of the processing if it is null. */
  showCurves(slices, labels, shown, chosen) {
    this.curves = chosen ? this.all.filter((one) => chosen.includes(one.key)) : this.all.slice(-1);
    this.strip.show({ slices, labels, shown, curves: this.curves });
  }

  /** Show the overlay of a slice, or none while it is loaded. */
  async showOverlay(facts, kind, label) {
    const turn = ++this.#turn;
    clearTimeout(this.#timer);
    if (kind === "none") { this.stage.showOverlay(null); describeOverlay(this.legend, null, kind); return; }
    if (kind !== "mask" && !this.of) { this.stage.showOverlay(null); this.legend.textContent = "Choose predictions to see their overlay."; return; }
    if (kind === "mask" && !facts.mask && !facts.pseudo_mask) { this.stage.showOverlay(null); this.legend.textContent = "This slice has no mask in the dataset."; return; }
    if (this.area.dataset.overlaySlice !== facts.id) this.stage.showOverlay(null);
    try {
      if (kind !== "mask" && !this.overlays.has(facts.id, kind, label)) {
        this.legend.textContent = "Computing …";
        await new Promise((resolve) => { this.#timer = setTimeout(resolve, HEAT_DELAY); });
      }
      const map = await this.overlays.load(facts.id, kind, label);
      if (turn !== this.#turn) return;
      this.stage.showOverlay(map.missing ? null : map, kind);
      this.area.dataset.overlaySlice = facts.id;
      describeOverlay(this.legend, map, kind);
    } catch (error) {
      if (error.name === "AbortError" || turn !== this.#turn) return;
      this.stage.showOverlay(null);
      this.legend.textContent = error.message;
    }
  }
}
