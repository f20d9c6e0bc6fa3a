// The worklist: the list follows its filters at once, and keys move through rows and pages.

import { announce } from "./base.js";

const form = document.getElementById("worklist-filters");

/** Fields that mean nothing for another choice of these are left out of the new URL. */
const DEPENDENT = { source: ["of", "versus", "threshold", "fold", "scanner"], kind: ["threshold"], label: ["threshold"],
  per: ["threshold"], of: ["versus", "threshold"] };

form?.addEventListener("change", (event) => {
  if (!(event.target instanceof HTMLSelectElement)) return;
  for (const name of DEPENDENT[event.target.name] ?? []) form.elements[name]?.setAttribute("disabled", "");
  form.requestSubmit();
});

addEventListener("pageshow", () => { // back: the fields are those of the URL again, not those that were left
  form?.reset();
  for (const field of form?.elements ?? []) field.disabled = false;
});

addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, select, textarea") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  else if (event.key === "n") document.querySelector("a[rel=next]")?.click();
  else if (event.key === "p") document.querySelector("a[rel=prev]")?.click();
});

function move(step) {
  const links = [...document.querySelectorAll(".worklist a.open")];
  if (!links.length) return;
  const at = links.indexOf(document.activeElement?.closest("tr")?.querySelector("a.open"));
  const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), links.length - 1);
  links[next].focus();
  if (next === at) announce(step > 0 ? "This is the last row of the page." : "This is the first row of the page.");
}
