// Tables of scores with intervals, which the server computes when they are wanted.

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
