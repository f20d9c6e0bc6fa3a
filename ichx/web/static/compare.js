// Compute the differences of the scores after the page is shown: for a full dataset this takes a minute.

import { announce } from "./base.js";

/** Replace the content of a comparison by what the server computes. */
async function load(section) {
  const place = section.querySelector("div");
  place.textContent = "Computing the difference with its interval over patients…";
  try {
    const response = await fetch(section.dataset.source);
    const text = await response.text();
    if (!response.ok) throw new Error(`The server answers with status ${response.status}.`);
    place.innerHTML = text; // escaped by the server
    announce(`${section.querySelector("h3").textContent}: ready.`);
  } catch (error) {
    const link = document.createElement("a");
    link.href = section.dataset.source;
    link.textContent = "Try again";
    link.addEventListener("click", (event) => { event.preventDefault(); load(section); });
    place.replaceChildren(`${error.message} `, link);
  }
  section.dataset.state = "ready";
}

for (const select of document.querySelectorAll("#options select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
document.getElementById("options")?.addEventListener("submit", (event) => {
  for (const field of event.target.elements) field.disabled = field.value === "" || field.value === "none";
});
addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("#options *")) field.disabled = false;
});
for (const section of document.querySelectorAll(".comparison")) await load(section);
