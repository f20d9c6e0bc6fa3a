// Tables of scores with intervals, which the server computes when they are wanted.

import { setQuery } from "./base.js";

/** Load the tables at `data-source` of `details` into `place` when it is opened first; the address has `name=1` then. */
export function loadWhenOpened(details, place, name) {
  details.addEventListener("toggle", () => {
    setQuery({ [name]: details.open ? "1" : null });
    if (details.open && !place.childElementCount) loadTables(details.dataset.source, place);
  });
  details.open = new URLSearchParams(location.search).get(name) === "1";
}

/** Replace the content of `place` by the tables at `url`, or by the server's error. */
export async function loadTables(url, place) {
  place.textContent = "Computing …";
  const response = await fetch(url);
  const text = await response.text();
  if (response.ok) {
    place.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.children);
    return;
  }
  let error = {};
  try { error = JSON.parse(text).error; } catch { /* plain text */ }
  place.textContent = error.problem ? `${error.problem} ${error.remedy}` : text;
}
