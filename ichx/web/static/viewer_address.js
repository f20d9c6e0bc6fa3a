// The state of the viewer in the URL of the page, so that it can be shared and the back button works.

import { setQuery } from "./base.js";
import { KINDS } from "./viewer_overlay.js";
import { parseWindow, windowText } from "./viewer_windows.js";

const DELAY = 200; // browsers refuse frequent changes of the URL

/** Return the state that the URL describes: ids instead of indices, defaults for what is missing. */
export function readAddress(windows, labels) {
  const query = new URLSearchParams(location.search), list = (name) => (query.has(name) ? query.get(name).split(",").filter(Boolean) : null);
  const kind = query.get("overlay"), label = query.get("label"), shown = list("labels");
  return {
    slice: query.get("slice"),
    series: query.get("series"),
    of: [...new Set(query.getAll("of").filter(Boolean))].slice(0, 2),
    window: parseWindow(query.get("window"), windows) ?? parseWindow("brain", windows),
    shape: query.get("shape") === "sigmoid" ? "sigmoid" : "linear",
    overlay: KINDS.some(([name]) => name === kind) ? kind : "none",
    label: labels.includes(label) ? label : "any",
    curves: list("curves"),
    labels: shown ? labels.filter((one) => shown.includes(one)) : labels,
  };
}

/** Writes the state into the URL: at once with an entry for the back button, or a little later without one. */
export class Address {
  #timer = null;
  #describe;

  /** `describe()` returns the parameters of the URL; null removes one. */
  constructor(describe) { this.#describe = describe; }

  /** Write the state soon. */
  later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), DELAY);
  }

  /** Write what `later` has not written. */
  flush() {
    if (this.#timer === null) return;
    this.forget();
    setQuery(this.#describe());
  }

  /** Write nothing later: the URL has changed. */
  forget() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Add an entry for the state after `change()`. */
  navigate(change) {
    this.flush();
    change();
    this.forget();
    setQuery(this.#describe(), { push: true });
  }
}

/** Return the parameters of a state; `several`: whether the study has several series. */
export function addressOf(state, { slice, series, several, labels }) {
  return {
    slice: slice ?? null,
    series: several ? series : null,
    of: state.of.length ? state.of : null,
    window: windowText(state.window),
    shape: state.shape === "linear" ? null : state.shape,
    overlay: state.overlay === "none" ? null : state.overlay,
    label: state.label === "any" ? null : state.label,
    curves: state.curves ? state.curves.join(",") : null,
    labels: state.labels.length === labels.length ? null : state.labels.join(","),
  };
}
