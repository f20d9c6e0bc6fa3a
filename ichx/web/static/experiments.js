// The list of experiments: filters, the switch, states that follow running experiments.

import { announce, getJson } from "./base.js";
import { prepareColumns } from "./list_columns.js";
import { prepareEditing } from "./list_editing.js";
import { prepareSelection } from "./list_selection.js";

const RUNNING_SECONDS = 3;
const IDLE_SECONDS = 15;

/** Submit only what is filled in, so that URLs stay short. */
function prepareFilters() {
  const form = document.getElementById("filters");
  form.addEventListener("submit", () => {
    for (const field of form.elements) field.disabled ||= field.name && field.value.trim() === "";
  });
  // the back button may restore the page as it was left
  addEventListener("pageshow", () => { for (const field of form.elements) field.disabled = false; });
  for (const select of form.querySelectorAll("select")) select.addEventListener("change", () => form.requestSubmit());
  for (const menu of form.querySelectorAll(".menu")) {
    const chosen = () => [...menu.querySelectorAll("input:checked")].map((box) => box.value).join();
    let before = chosen();
    menu.addEventListener("toggle", () => {
      if (menu.open) before = chosen();
      else if (chosen() !== before) form.requestSubmit();
    });
  }
}

/** Close menus with Escape and by a click elsewhere. */
function prepareMenus() {
  const menus = document.querySelectorAll("details.menu");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of menus) {
      if (!menu.open) continue;
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
  document.addEventListener("click", (event) => {
    for (const menu of menus) if (!menu.contains(event.target)) menu.open = false;
  });
}

function prepareSwitch() {
  document.getElementById("differing")?.addEventListener("change", (event) => {
    const url = new URL(location.href);
    if (event.target.checked) url.searchParams.set("differing", "1");
    else url.searchParams.delete("differing");
    location.assign(url);
  });
}

/** Show a cell as the server formats it. */
function fill(cell, { text, marks }) {
  const present = cell.textContent.replace(/\s+/g, " ").trim();
  const wanted = [text, ...marks].join(" ");
  if (present === wanted) return;
  cell.replaceChildren(text, ...marks.flatMap((mark) => {
    const span = document.createElement("span");
    span.className = "mark";
    span.textContent = mark;
    return [" ", span];
  }));
}

/** Refresh the cells that change while experiments run, as long as the page is visible. */
function follow(rows, { newest, columns }) {
  const query = new URLSearchParams({ columns: columns.join(",") });
  for (const number of rows.keys()) query.append("exp", number);
  let running = [...rows.values()].some((row) => "running" in row.dataset);
  const news = document.getElementById("news");
  async function refresh() {
    if (document.hidden) return;
    const found = await getJson(`/api/experiments/live?${query}`);
    for (const [number, cells] of Object.entries(found.cells)) {
      const row = rows.get(number);
      for (const [name, value] of Object.entries(cells)) {
        const cell = row.querySelector(`[data-column="${name}"]`);
        if (cell) fill(cell, value);
      }
      const state = row.querySelector("[data-state]");
      if (state && state.dataset.state !== found.states[number]) {
        state.dataset.state = found.states[number];
        announce(`Experiment ${number}: ${found.states[number]}.`);
      }
    }
    running = found.running.length > 0;
    if (found.newest > newest && news.hidden) {
      news.hidden = false;
      news.prepend("There are new experiments. ");
      announce("There are new experiments.");
    }
  }
  async function loop() {
    for (;;) {
      await new Promise((done) => { setTimeout(done, 1000 * (running ? RUNNING_SECONDS : IDLE_SECONDS)); });
      try { await refresh(); } catch { /* the server has ended or is busy; the next attempt shows */ }
    }
  }
  document.addEventListener("visibilitychange", () => { refresh().catch(() => {}); });
  loop();
}

const rows = new Map([...document.querySelectorAll("[data-experiment]")].map((row) => [row.dataset.experiment, row]));
prepareFilters();
prepareMenus();
prepareSwitch();
prepareColumns();
prepareEditing(rows);
prepareSelection(rows);
const live = JSON.parse(document.getElementById("live").textContent);
if (document.getElementById("count")) follow(rows, live);
