// The viewer of a study: its state, and what changes it.

import { announce, getJson, remember, remembered, showProblem } from "./base.js";
import { CURVES, curveSign } from "./strip.js";
import { Address, addressOf, readAddress } from "./viewer_address.js";
import { describeSlice, foldText, made, Reviews, showFacts, showProbabilities, showUnknown } from "./viewer_facts.js";
import { GESTURES, listen, listenToKeys, shortcuts } from "./viewer_input.js";
import { ListBar } from "./viewer_list.js";
import { KINDS } from "./viewer_overlay.js";
import { Pane, Predictions } from "./viewer_pane.js";
import { SliceLoader } from "./viewer_slices.js";
import { greyLevels, limited, windowText } from "./viewer_windows.js";

const SAY_DELAY = 400;
const INDEX_DELAY = 1000;
const BRAIN = [40, 80];
const $ = (id) => document.getElementById(id);
const { source, study: studyId, windows: given, labels } = JSON.parse($("shown").textContent);
const windows = given.map((one) => ({ ...one, title: one.name === "file" ? "header" : one.name }));
const path = (kind, ...ids) => `/api/${kind}/${[source, ...ids].map(encodeURIComponent).join("/")}`;

let study = null;
let state = null; // as `readAddress` returns it, with the indices `at` of the series and `index` of the slice
let panes = [];
let direction = 1;
let turn = 0;
let started = null; // when the change began that has not been drawn
let said = null;
const view = { zoom: 1, x: 0, y: 0 };
const tables = new Map(); // grey levels by window

const series = () => study.series[state.at];
const facts = () => series().slices[state.index];
const sized = () => (study.pixels.sizes.length ? { size: Math.max(...study.pixels.sizes) } : {});
const pixelQuery = () => new URLSearchParams({ ...sized(), ...(study.pixels.sizes.length && { stored: 1 }), ...(study.pixels.version && { v: study.pixels.version }) });
const urlOfSlice = (id) => {
  const query = pixelQuery();
  return `${path("pixels", id)}${query.size ? `?${query}` : ""}`;
};
const urlOfBlock = (ids) => {
  if (!study.pixels.sizes.length) return null; // slices of files differ in size, and take a while each
  const query = pixelQuery();
  for (const id of ids) query.append("slice", id);
  return `${path("pixels")}?${query}`;
};
const loader = new SliceLoader(urlOfSlice, { urlOfBlock });
const predictions = new Predictions((of) => `${path("predictions", studyId)}?${new URLSearchParams({ of })}`, source.startsWith("folder@") ? path("predictions") : null);
const address = new Address(() => addressOf(state, { slice: facts()?.id, series: series().series, several: study.series.length > 1, labels }));
const reviews = new Reviews($("reviews"), source, () => showCurves());
const list = new ListBar($("list-bar"), () => address.flush());
const files = /^(folder|predictions)@/.test(source); // in no dataset

// ---- drawing

function bounds(slice) {
  if (state.window.name !== "file") return [state.window.centre, state.window.width];
  return slice.header_window ?? BRAIN;
}

function levels(slice) {
  const key = [...bounds(slice), state.shape].join();
  if (!tables.has(key)) {
    if (tables.size >= 16) tables.clear();
    tables.set(key, greyLevels(...bounds(slice), state.shape));
  }
  return tables.get(key);
}

function measure(name, detail) {
  if (started === null) return;
  performance.clearMeasures(name); // observers have seen the one before
  performance.measure(name, { start: started, end: performance.now(), detail });
  started = null;
}

function drawSlice() {
  const now = ++turn, shown = facts(), loaded = loader.peek(shown.id);
  if (loaded) paint(loaded, true);
  else {
    for (const pane of panes) pane.area.classList.add("loading");
    loader.load(shown.id).then(
      (slice) => { if (now === turn) paint(slice, false); },
      (error) => { if (now === turn && error.name !== "AbortError") fail(error); },
    );
  }
  loader.prefetch(series().slices.map((one) => one.id), state.index, direction);
  showPlace();
}

function paint(slice, prefetched) {
  const shown = facts();
  for (const pane of panes) {
    pane.stage.draw(slice, levels(shown), shown);
    pane.area.classList.remove("loading");
  }
  measure("ichx:slice", { id: slice.id, prefetched });
  for (const pane of panes) pane.showOverlay(shown, state.overlay, state.label);
  showWindow();
  if (!prefetched) showFacts($("facts"), shown, series(), study, slice);
}

function fail(error) {
  for (const pane of panes) {
    pane.stage.fail(error.message, facts());
    pane.area.classList.remove("loading");
    pane.showOverlay(facts(), "none");
  }
  announce(error.message);
}

function drawWindow() {
  const slice = loader.peek(facts().id);
  if (slice) for (const pane of panes) pane.stage.draw(slice, levels(facts()), facts());
  measure("ichx:window", { window: windowText(state.window) });
  showWindow();
}

function showWindow() {
  const [centre, width] = bounds(facts()), name = windows.find((one) => one.name === state.window.name)?.title;
  const sigmoid = state.shape === "sigmoid" ? ", sigmoid" : "";
  for (const pane of panes) pane.stage.describeWindow(`${name ? `${name} ` : ""}${centre} / ${width} HU${sigmoid}`);
  $("window").value = state.window.name ?? "";
  $("shape").value = state.shape;
  for (const [input, value] of [[$("centre"), centre], [$("width"), width]]) if (document.activeElement !== input) input.value = value;
}

function showPlace() {
  const slice = facts(), text = describeSlice(slice, series(), labels, panes);
  $("slider").max = series().slices.length - 1;
  $("slider").value = state.index;
  $("slider").setAttribute("aria-valuetext", text);
  $("count").textContent = `${state.index + 1} / ${series().slices.length}`;
  for (const pane of panes) {
    pane.strip.mark(state.index);
    pane.area.setAttribute("aria-label", text);
  }
  showFacts($("facts"), slice, series(), study, loader.peek(slice.id));
  showProbabilities($("probabilities"), slice, labels, panes);
  showUnknown($("unknown-labels"), slice, labels);
  reviews.show(slice);
  clearTimeout(said);
  said = setTimeout(() => announce(text), SAY_DELAY);
}

function showCurves() {
  const keys = [...new Map(panes.flatMap((pane) => pane.all).map((one) => [one.key, one])).values()].sort((a, b) => CURVES.indexOf(a.name) - CURVES.indexOf(b.name));
  for (const pane of panes) pane.showCurves(series().slices, labels, state.labels, state.curves);
  const on = new Set(panes.flatMap((pane) => pane.curves).map((one) => one.key));
  switches($("curves"), keys.map(({ key, name }) => ({ key, sign: curveSign(name), on: on.has(key) })), (chosen) => { state.curves = chosen; });
  switches($("labels"), (keys.length ? labels : []).map((key, i) => ({ key, sign: made("span", "", { class: `key c${i}${i % 2 === 0 ? " dashed" : ""}` }), on: state.labels.includes(key) })), (chosen) => { state.labels = chosen; });
  showPlace();
}

function switches(place, choices, choose) {
  const now = [...place.querySelectorAll("input")].map((one) => one.value);
  place.hidden = choices.length === 0;
  if (now.join("\n") === choices.map((one) => one.key).join("\n")) {
    for (const [i, input] of [...place.querySelectorAll("input")].entries()) input.checked = choices[i].on;
    return;
  }
  const boxes = choices.map(({ key, sign, on }) => {
    const label = made("label"), box = made("input", "", { type: "checkbox", value: key });
    box.checked = on;
    box.addEventListener("change", () => address.navigate(() => {
      choose([...place.querySelectorAll("input:checked")].map((one) => one.value));
      showCurves();
    }));
    label.append(box, sign, ` ${key}`);
    return label;
  });
  place.replaceChildren(place.querySelector("legend"), ...boxes);
}

// ---- changes

function goTo(index, { push = false } = {}) {
  const to = Math.max(0, Math.min(series().slices.length - 1, index));
  if (to === state.index) return;
  const change = () => {
    started = performance.now();
    direction = to > state.index ? 1 : -1;
    state.index = to;
    drawSlice();
  };
  if (push) address.navigate(change);
  else { change(); address.later(); }
}

function setWindow(window, push) {
  const change = () => {
    started = performance.now();
    state.window = window;
    drawWindow();
  };
  if (push) address.navigate(change);
  else { change(); address.later(); }
}

const arrange = () => { for (const pane of panes) pane.stage.arrange(); };
const actions = {
  step: (slices) => goTo(state.index + slices),
  jump: (index) => goTo(index, { push: true }),
  count: () => series().slices.length,
  zoomed: () => view.zoom > 1.01,
  windowBy: (right, down) => {
    const [centre, width] = bounds(facts()), unit = Math.max(0.5, width / 300);
    setWindow({ name: null, ...limited(centre + down * unit, width + right * unit) });
  },
  chooseWindow: (at) => setWindow({ name: windows[at].name, centre: windows[at].centre, width: windows[at].width }, true),
  panBy: (x, y) => { view.x += x; view.y += y; arrange(); },
  zoomBy: (factor, x, y, stage = panes[0].stage) => { stage.zoomBy(factor, x, y); arrange(); },
  reset: () => { Object.assign(view, { zoom: 1, x: 0, y: 0 }); arrange(); },
  toggleOverlay: () => {
    const last = remembered("overlay", "heat");
    setOverlay(state.overlay !== "none" ? "none" : last === "none" ? "heat" : last, state.label);
  },
  toggleShape: () => setShape(state.shape === "linear" ? "sigmoid" : "linear"),
  listed: (step) => list.go(step),
  review: () => reviews.focus(),
  help: () => $("help").showModal(),
};

function setShape(shape) {
  address.navigate(() => {
    started = performance.now();
    state.shape = shape;
    drawWindow();
  });
}

function setOverlay(kind, label) {
  if (kind !== "none") remember("overlay", kind);
  address.navigate(() => {
    state.overlay = kind;
    state.label = label;
    showOverlayTools();
    if (loader.has(facts().id)) for (const pane of panes) pane.showOverlay(facts(), kind, label);
  });
}

function showOverlayTools() {
  $("overlay").value = state.overlay;
  $("label").value = state.label;
  $("label-tool").hidden = state.overlay === "none";
  $("opacity-tool").hidden = state.overlay === "none";
  for (const pane of panes) pane.stage.opacity = $("opacity").value / 100;
}

// ---- building

function buildPanes() {
  const chosen = state.of.length ? state.of : [null];
  if (panes.length === chosen.length && panes.every((pane, i) => pane.of === chosen[i])) return;
  const known = panes;
  for (const pane of known) pane.closed = !chosen.includes(pane.of);
  panes = chosen.map((of) => known.find((pane) => pane.of === of) ?? newPane(of));
  $("panes").replaceChildren(...panes.map((pane) => pane.element));
  $("first").value = state.of[0] ?? "";
  $("second").value = state.of[1] ?? "";
}

function newPane(of) {
  const name = of ? predictorName(study.predictors.find((one) => one.of === of) ?? { of }) : "Image";
  const overlayUrl = (id, kind, label, from) => `${path("overlays", id)}?${new URLSearchParams({ kind, label, ...sized(), ...(from && { of: from }) })}`;
  const pane = new Pane({ of, name, view, overlayUrl, go: (index, final) => goTo(index, { push: final }) });
  listen(pane.area, { ...actions, zoomBy: (factor, x, y) => actions.zoomBy(factor, x, y, pane.stage) });
  pane.predict(predictions, () => { if (panes.includes(pane)) showCurves(); });
  return pane;
}

const predictorName = (one) => [one.of === "file:1" && one.name ? null : one.of.replace(":", " "), one.name, one.score == null ? null : one.score.toFixed(4)].filter(Boolean).join(" · ");

/** Return what to show if the URL names no predictions: the last choice in this browser, else the best that are stored. */
function usual() {
  const known = study.predictors.map((one) => one.of);
  if (files) return known.filter((of) => of === "file:1");
  const last = remembered(`predictions of ${source}`, null);
  return last?.filter((of) => known.includes(of)) ?? known.slice(0, 1);
}

/** Take over the state of the URL. */
function restore() {
  address.forget();
  const wanted = readAddress(windows, labels), before = state;
  let at = study.series.findIndex((one) => one.series === wanted.series);
  const holder = study.series.findIndex((one) => one.slices.some((slice) => slice.id === wanted.slice));
  showProblem(wanted.slice !== null && holder < 0 ? new Error(`Slice ${wanted.slice} is not in this study.`) : null);
  if (holder >= 0) at = holder;
  at = Math.max(0, at);
  const found = study.series[at].slices.findIndex((one) => one.id === wanted.slice);
  const index = found >= 0 ? found : Math.floor((study.series[at].slices.length - 1) / 2);
  if (before && before.at === at && before.index > index) direction = -1; else direction = 1;
  const usually = !before && !wanted.of.length ? usual() : [];
  if (usually.length) wanted.of = usually;
  state = { ...wanted, at, index };
  if (usually.length) address.later(); // the back button returns to them
  $("series").value = at;
  buildPanes();
  showOverlayTools();
  started = performance.now();
  showCurves();
  drawSlice();
}

function options(select, choices) {
  select.replaceChildren(...choices.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
}

function buildTools() {
  options($("series"), study.series.map((one, i) => [i, `${i + 1}: ${one.series}, ${one.slices.length} slices`]));
  $("series-tool").hidden = study.series.length < 2;
  const choices = study.predictors.map((one) => [one.of, predictorName(one)]);
  for (const of of readAddress(windows, labels).of) if (!choices.some(([one]) => one === of)) choices.push([of, of.replace(":", " ")]);
  for (const id of ["first", "second"]) options($(id), [["", "none"], ...choices]);
  options($("window"), [...windows.map((one, i) => [one.name, `${i + 1} ${one.title}`]), ["", "custom"]]);
  options($("overlay"), KINDS);
  $("opacity").value = remembered("opacity", 100);
  $("more").open = remembered("more tools", false);
  $("more").addEventListener("toggle", () => remember("more tools", $("more").open));
  const on = (id, run, kind = "change") => $(id).addEventListener(kind, run);
  on("series", () => address.navigate(() => {
    state.at = Number($("series").value);
    state.index = Math.floor((series().slices.length - 1) / 2);
    showCurves();
    drawSlice();
  }));
  for (const id of ["first", "second"]) on(id, () => address.navigate(() => {
    state.of = [...new Set([$("first").value, $("second").value].filter(Boolean))];
    if (!files) remember(`predictions of ${source}`, state.of);
    buildPanes();
    showOverlayTools();
    showCurves();
    drawSlice();
  }));
  on("window", () => { const at = windows.findIndex((one) => one.name === $("window").value); if (at >= 0) actions.chooseWindow(at); else showWindow(); });
  for (const id of ["centre", "width"]) on(id, () => {
    const [centre, width] = ["centre", "width"].map((one) => $(one).valueAsNumber);
    if (Number.isFinite(centre) && Number.isFinite(width)) setWindow({ name: null, ...limited(centre, width) }, true);
    else showWindow();
  });
  on("shape", () => setShape($("shape").value));
  for (const id of ["overlay", "label"]) on(id, () => setOverlay($("overlay").value, $("label").value));
  on("opacity", () => { remember("opacity", Number($("opacity").value)); showOverlayTools(); }, "input");
  on("slider", () => goTo(Number($("slider").value)), "input");
  on("previous", () => actions.step(-1), "click");
  on("next", () => actions.step(1), "click");
  on("zoom-in", () => actions.zoomBy(1.25), "click");
  on("zoom-out", () => actions.zoomBy(0.8), "click");
  on("reset", actions.reset, "click");
  on("help-button", actions.help, "click");
}

function buildHelp() {
  const table = shortcuts(actions, windows, list.given), rows = [...table.map((one) => [one.shown ?? one.keys.join(" "), one.text]), ...GESTURES];
  $("help").querySelector("tbody").replaceChildren(...rows.map(([key, text]) => {
    const row = made("tr");
    row.append(made("th", key, { scope: "row" }), made("td", text));
    return row;
  }));
  const single = $("single-keys");
  single.checked = remembered("single keys", true);
  single.addEventListener("change", () => remember("single keys", single.checked));
  listenToKeys($("viewer"), table, () => single.checked);
}

/** Show a problem and its remedy; commands between backticks are set as code. */
function showNotice(...texts) {
  $("notice").replaceChildren(...texts.filter(Boolean).map((text) => {
    const line = made("p");
    line.append(...text.split("`").map((part, i) => (i % 2 ? made("code", part) : part)));
    return line;
  }));
  $("notice").hidden = false;
}

async function open() {
  $("summary").textContent = "Loading the study …";
  while (study === null) {
    try {
      study = await getJson(path("studies", studyId));
    } catch (error) {
      $("summary").textContent = error.code === "not_ready" ? error.message : "";
      if (error.code !== "not_ready") { showNotice(error.message); return; }
      await new Promise((resolve) => { setTimeout(resolve, INDEX_DELAY); }); // its source is being indexed
    }
  }
  const slices = study.series.reduce((sum, one) => sum + one.slices.length, 0);
  $("summary").textContent = [files ? "opened files" : source, study.patient && `patient ${study.patient}`, study.fold != null && `fold ${foldText(study.fold)}`, study.positive?.length && `labels of the study: ${study.positive.join(", ")}`, `${study.series.length} series, ${slices} slice${slices === 1 ? "" : "s"}`].filter(Boolean).join(" · ");
  if (study.pixels.problem) showNotice(study.pixels.problem, study.pixels.remedy);
  $("defects").hidden = study.defects.length === 0;
  $("defects").querySelector("ul").replaceChildren(...study.defects.map((one) => made("li", [one.defect, one.detail].filter(Boolean).join(": "))));
  study.series = study.series.filter((one) => one.slices.length);
  if (!study.series.length) { if (!study.pixels.problem) showNotice("This study has no slices to show."); return; }
  $("viewer").hidden = false;
  $("reviews").hidden = files; // readers review the slices of datasets
  buildTools();
  buildHelp();
  restore();
  addEventListener("popstate", restore);
  addEventListener("pagehide", () => address.flush());
}

await open();
