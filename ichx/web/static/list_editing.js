// The dialog that edits the name, tags and notes of an experiment.

import { announce, getJson, postJson } from "./base.js";

function element(name, text) {
  const created = document.createElement(name);
  created.textContent = text;
  return created;
}

/** Let the buttons "Edit" of the rows open the dialog; `rows` are elements by number of the experiment. */
export function prepareEditing(rows) {
  const dialog = document.getElementById("edit");
  if (!dialog) return;
  const problem = document.getElementById("edit-problem");
  const [name, tag, note] = ["name", "tag", "note"].map((part) => document.getElementById(`edit-${part}`));
  const tags = document.getElementById("edit-tags");
  const notes = document.getElementById("edit-notes");
  let number = 0;
  let changed = false;

  async function attempt(action) {
    problem.textContent = "";
    try { await action(); } catch (error) { problem.textContent = error.message; }
  }

  function showTags(found) {
    tags.replaceChildren(...found.map((text) => {
      const item = element("li", text);
      item.className = "tag";
      const button = element("button", "×");
      button.type = "button";
      button.setAttribute("aria-label", `Remove the tag ${text}`);
      button.addEventListener("click", () => attempt(() => changeTags({ remove: [text] })));
      item.append(button);
      return item;
    }));
    if (!found.length) tags.append(element("li", "none"));
  }

  async function changeTags(body) {
    const found = await postJson("/api/experiments/tags", { experiments: [number], ...body });
    showTags(found.tags[number]);
    changed = true;
    announce("The tags are changed.");
  }

  function showNote({ created, text }) {
    notes.append(element("dt", created), element("dd", text));
  }

  async function open(row) {
    number = Number(row.dataset.experiment);
    changed = false;
    const found = await getJson(`/api/experiments/${number}/annotations`);
    problem.textContent = "";
    document.getElementById("edit-title").textContent = `Experiment ${number}`;
    name.elements.name.value = found.name;
    tag.reset();
    note.reset();
    showTags(found.tags);
    notes.replaceChildren();
    found.notes.forEach(showNote);
    document.getElementById("all-tags").replaceChildren(...found.known_tags.map((text) => {
      const option = document.createElement("option");
      option.value = text;
      return option;
    }));
    dialog.showModal();
  }

  for (const row of rows.values()) {
    row.querySelector(".edit").addEventListener("click", () => open(row).catch((error) => {
      problem.textContent = error.message;
      dialog.showModal();
    }));
  }
  name.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      const found = await postJson(`/api/experiments/${number}/name`, { name: name.elements.name.value });
      name.elements.name.value = found.name;
      changed = true;
      announce("The experiment is renamed.");
    });
  });
  tag.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      await changeTags({ add: [tag.elements.tag.value] });
      tag.reset();
    });
  });
  note.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      const found = await postJson(`/api/experiments/${number}/notes`, { text: note.elements.text.value });
      showNote(found.note);
      note.reset();
      changed = true;
      announce("The note is added.");
    });
  });
  document.getElementById("edit-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { if (changed) location.reload(); });
}
