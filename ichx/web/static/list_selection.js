// Selected experiments, kept for this tab: compare, tag, archive.

import { announce, postJson, showProblem } from "./base.js";

const KEY = "ichx selected experiments";
const MAX_COMPARED = 20;

function load() {
  try { return new Set(JSON.parse(sessionStorage.getItem(KEY)) ?? []); } catch { return new Set(); }
}

function save(selected) {
  try { sessionStorage.setItem(KEY, JSON.stringify([...selected])); } catch { /* no storage */ }
}

/** Keep the checkboxes, the bar of actions and the stored selection alike. */
export function prepareSelection(rows) {
  const bar = document.getElementById("selection");
  if (!bar) return;
  const selected = load();
  const boxes = new Map([...rows].map(([number, row]) => [number, row.querySelector(".pick input")]));
  const all = document.getElementById("select-all");
  let last = null;

  function show() {
    for (const [number, box] of boxes) {
      box.checked = selected.has(number);
      rows.get(number).classList.toggle("selected", box.checked);
    }
    const here = [...boxes.keys()].filter((number) => selected.has(number)).length;
    if (all) {
      all.checked = here > 0 && here === boxes.size;
      all.indeterminate = here > 0 && here < boxes.size;
    }
    bar.hidden = selected.size === 0;
    const elsewhere = selected.size - here;
    document.getElementById("selected-count").textContent =
      `${selected.size} selected${elsewhere ? `, ${elsewhere} of them not on this page` : ""}`;
    const compare = document.getElementById("compare");
    const query = new URLSearchParams([...selected].map((number) => ["exp", number]));
    compare.href = `/compare?${query}`;
    const comparable = selected.size > 1 && selected.size <= MAX_COMPARED;
    compare.toggleAttribute("aria-disabled", !comparable);
    compare.title = comparable ? "" : `Select 2 to ${MAX_COMPARED} experiments`;
    save(selected);
  }

  function choose(numbers, on) {
    for (const number of numbers) {
      if (on) selected.add(number);
      else selected.delete(number);
    }
    show();
    announce(`${selected.size} selected.`);
  }

  for (const [number, box] of boxes) {
    box.hidden = false;
    box.addEventListener("click", (event) => {
      const order = [...boxes.keys()];
      const ends = [order.indexOf(event.shiftKey && last ? last : number), order.indexOf(number)];
      choose(order.slice(Math.min(...ends), Math.max(...ends) + 1), box.checked);
      last = number;
    });
  }
  if (all) {
    all.hidden = false;
    all.addEventListener("change", () => choose(boxes.keys(), all.checked));
  }

  const tag = document.getElementById("selected-tag");
  const actions = {
    clear: null,
    "add-tag": () => ["tags", { add: [tag.value] }],
    "remove-tag": () => ["tags", { remove: [tag.value] }],
    archive: () => ["archive", { archived: true }],
    unarchive: () => ["archive", { archived: false }],
    trash: () => ["trash", {}],
    restore: () => ["restore", {}],
  };
  bar.addEventListener("click", async (event) => {
    const name = event.target.dataset?.change;
    if (name === "clear") choose([...selected], false);
    if (!actions[name]) return;
    if (name.endsWith("-tag") && !tag.value.trim()) {
      tag.focus();
      return;
    }
    const [path, body] = actions[name]();
    event.target.disabled = true;
    try {
      showProblem();
      await postJson(`/api/experiments/${path}`, { experiments: [...selected].map(Number), ...body });
      if (name === "trash" || name === "archive" || name === "restore") selected.clear();
      save(selected);
      location.reload();
    } catch (error) {
      showProblem(error);
      event.target.disabled = false;
    }
  });
  tag?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") bar.querySelector('[data-change="add-tag"]').click();
  });
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    selected.clear();
    for (const number of load()) selected.add(number);
    show();
  });
  show();
}
