// The page of an Optuna study: new results as trials arrive.

import { announce, showProblem } from "./base.js";
import { followEvents } from "./event_stream.js";

const page = JSON.parse(document.getElementById("page").textContent);
const results = document.getElementById("results"), live = document.getElementById("live");
const api = `/api/tuning/${page.number}`;
let { version } = page, loading = false;

async function load(wanted) {
  if (loading || wanted === version) return;
  loading = true;
  try {
    const response = await fetch(`${api}/study?study=${encodeURIComponent(page.study)}`);
    if (!response.ok) throw new Error("The results cannot be read. Reload the page.");
    const parsed = new DOMParser().parseFromString(await response.text(), "text/html");
    const places = [...results.querySelectorAll(".scroll")].map((place) => place.scrollLeft);
    results.replaceChildren(...parsed.body.childNodes);
    results.querySelectorAll(".scroll").forEach((place, index) => { place.scrollLeft = places[index] ?? 0; });
    results.dispatchEvent(new Event("figures", { bubbles: true }));
    announce(`Results of ${results.querySelectorAll("#trial-table tbody tr").length} trials.`);
    version = wanted;
    showProblem();
  } catch (error) {
    showProblem(error);
  } finally {
    loading = false;
  }
}

followEvents(
  () => `${api}/events`,
  { version: (event) => { live.textContent = "(live)"; load(JSON.parse(event.data)); } },
  () => { live.textContent = "(no connection)"; },
);
