// The chooser of columns: their order, and remembering them for all lists, also those of the terminal.

import { postJson, showProblem } from "./base.js";

const readOnly = "readOnly" in document.body.dataset;

/** Save columns unless the server only reads; return false if there was a problem, which is shown. */
async function save(columns) {
  if (readOnly) return true;
  try {
    const { problem } = await postJson("/api/experiments/columns", { columns });
    if (problem) throw new Error(problem);
    return true;
  } catch (error) {
    showProblem(error);
    return false;
  }
}

function moveButton(item, text, label, move) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "move";
  button.textContent = text;
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => { move(); button.focus(); });
  item.append(button);
}

/** Make the chooser sort, save and show columns. */
export function prepareColumns() {
  const menu = document.getElementById("columns");
  if (!menu) return;
  const form = menu.querySelector("form");
  for (const item of menu.querySelectorAll("ol li")) {
    const { value } = item.querySelector("input");
    moveButton(item, "↑", `Move ${value} forward`, () => item.previousElementSibling?.before(item));
    moveButton(item, "↓", `Move ${value} back`, () => item.nextElementSibling?.after(item));
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const chosen = new FormData(form).getAll("columns").map((name) => name.trim()).filter(Boolean);
    const columns = ["number", ...chosen];
    const url = new URL(location.href);
    url.searchParams.delete("page");
    if (await save(columns)) {
      if (readOnly) url.searchParams.set("columns", columns.join(","));
      else url.searchParams.delete("columns");
      location.assign(url);
    }
  });
  menu.querySelector("#default-columns").addEventListener("click", async (event) => {
    event.preventDefault();
    const columns = new URL(event.target.href).searchParams.get("columns").split(",");
    const url = new URL(location.href);
    url.searchParams.delete("columns");
    if (readOnly) url.searchParams.set("columns", columns.join(","));
    if (await save(columns)) location.assign(url);
  });
}
