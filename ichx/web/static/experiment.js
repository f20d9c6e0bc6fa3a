// The page of an experiment: updates from the server, the log, scores on request, the recipe.

import { announce, setQuery, showProblem } from "./base.js";
import { CurveBoard } from "./curves.js";
import { followEvents } from "./event_stream.js";
import { prepareEditing } from "./list_editing.js";
import { LogTail } from "./log_tail.js";
import { loadTables, loadWhenOpened } from "./score_tables.js";

const at = (id) => document.getElementById(id);
const page = JSON.parse(at("page").textContent);
const api = `/api/experiments/${page.number}`;
const query = new URLSearchParams(location.search);
const live = at("live");

const board = new CurveBoard(
  { main: at("plots"), more: at("more-curves"), controls: at("controls"), folds: at("chosen-folds") }, page.stages,
);

// Updates
let cursor = "", state = at("state").textContent, results = null;

function follow() {
  const end = followEvents(() => `${api}/events?since=${encodeURIComponent(cursor)}`, {
    update: (event) => {
      cursor = event.lastEventId;
      showProblem();
      apply(JSON.parse(event.data));
    },
    end: () => {
      end();
      live.textContent = "complete";
      at("no-curves").hidden = board.folds.length > 0;
    },
  }, (refused) => {
    live.textContent = "no connection";
    if (refused) showProblem("The server refuses the connection. Reload the page if this stays.");
  });
}

function apply(update) {
  if (update.folds) board.update(update.folds, update.replace);
  at("no-curves").hidden = board.folds.length > 0;
  if (!update.status) { live.textContent = "live"; return; }
  const { status } = update;
  if (status.problem) showProblem(status.problem);
  const running = status.runs.some((run) => run.state === "running" || run.state === "stalled");
  live.textContent = running ? "live" : "waiting for a run";
  if (status.state !== undefined && status.state !== state) {
    state = status.state;
    announce(`The experiment is ${state}.`);
  }
  const now = [status.state, status.folds, status.score].join();
  if (results !== null && now !== results) refresh().catch(showProblem);
  results = now;
  for (const [id, value] of [["state", status.state], ["score", status.score], ["tta", status.tta], ["folds-done", status.folds], ["time", status.time]]) {
    if (value != null && at(id).textContent !== value) at(id).textContent = value;
  }
  const rows = at("runs").tBodies[0].rows, errors = [];
  for (const run of status.runs) {
    for (const cell of rows[run.fold]?.querySelectorAll("[data-value]") ?? []) {
      const text = String(run[cell.dataset.value] ?? "-");
      if (cell.textContent !== text) cell.textContent = text;
    }
    if (run.error) errors.push(`fold ${run.fold}: ${run.error}`);
    if (String(run.fold) === fold.value && run.log) log.load(run.log);
  }
  at("errors").replaceChildren(...errors.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

/** Load the parts of the page that a finished run changes: marks, intervals, scores, runs and files. */
async function refresh() {
  const response = await fetch(location.href);
  if (!response.ok) throw new Error("The page cannot be updated. Reload it.");
  const found = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const now of document.querySelectorAll("[data-refreshed]")) {
    const then = found.getElementById(now.id);
    if (!then || then.innerHTML === now.innerHTML) continue;
    const open = now.querySelector("details")?.open;
    now.replaceChildren(...then.childNodes);
    if (open) now.querySelector("details")?.setAttribute("open", "");
  }
  prepareScores();
}

// Log
const fold = at("log-fold");
const log = new LogTail(at("log-text"), at("log-follow"), "There is no log yet. It begins with the run.");
if ([...fold.options].some((option) => option.value === query.get("fold"))) fold.value = query.get("fold");
const openLog = () => log.open(`${api}/log?fold=${fold.value}`);
fold.addEventListener("change", () => { setQuery({ fold: fold.value }); openLog(); });

// Scores, computed when they are wanted
function prepareScores() {
  const details = at("score-details");
  if (!details || details.dataset.ready) return;
  details.dataset.ready = "1";
  const view = at("score-view"), tables = at("score-tables");
  const load = () => loadTables(`${api}/scores?view=${view.value}`, tables);
  const query = new URLSearchParams(location.search);
  if ([...view.options].some(({ value }) => value === query.get("view"))) view.value = query.get("view");
  view.addEventListener("change", () => { setQuery({ view: view.value === "none" ? null : view.value }); load(); });
  details.addEventListener("toggle", () => {
    setQuery({ scores: details.open ? "1" : null });
    if (details.open && !tables.childElementCount) load();
  });
  details.open = query.get("scores") === "1";
}
prepareScores();

loadWhenOpened(at("subgroup-details"), at("subgroup-tables"), "subgroups");
loadWhenOpened(at("operating-details"), at("operating-tables"), "operating");

// Recipe
at("all-values")?.addEventListener("change", ({ target }) => {
  at("recipe-values").classList.toggle("only-changed", !target.checked);
  setQuery({ recipe: target.checked ? "all" : null });
});

prepareEditing(new Map([[page.number, at("annotations")]])); // it does nothing on a read-only page
openLog();
follow();
