// The page of an ensemble: its scores with intervals, computed when they are wanted.

import { setQuery } from "./base.js";
import { loadTables } from "./score_tables.js";

const details = document.getElementById("score-details"), tables = document.getElementById("score-tables");

details.addEventListener("toggle", () => {
  setQuery({ scores: details.open ? "1" : null });
  if (details.open && !tables.childElementCount) loadTables(details.dataset.source, tables);
});
details.open = new URLSearchParams(location.search).get("scores") === "1";
