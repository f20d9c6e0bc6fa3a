// Requests, messages and remembered choices, for all pages.

const token = document.querySelector('meta[name="change-token"]').content;

/** Fetch JSON. Throws an Error whose message has the problem and the remedy; its `code` is that of the server's error. */
export async function getJson(url, options = {}) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `ichx ui` still running?");
  }
  const text = await response.text();
  let value = null;
  try { value = JSON.parse(text); } catch { /* plain text of the server's checks */ }
  if (response.ok && value !== null) return value;
  const problem = value?.error ? `${value.error.problem} ${value.error.remedy}` : text || `HTTP status ${response.status}`;
  throw Object.assign(new Error(problem), { code: value?.error?.code });
}

/** Send a change as JSON and return the answer. */
export function postJson(url, body) {
  const headers = { "Content-Type": "application/json", "X-Ichx-Token": token };
  return getJson(url, { method: "POST", headers, body: JSON.stringify(body) });
}

/** Show an error until the next call; without an argument, remove it. */
export function showProblem(error) {
  const place = document.getElementById("problem");
  place.hidden = !error;
  place.textContent = error ? error.message ?? String(error) : "";
}

/** Announce a change to screen readers. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Return a choice that this browser remembers, or `otherwise`. */
export function remembered(key, otherwise) {
  try { return JSON.parse(localStorage.getItem(`ichx ${key}`)) ?? otherwise; } catch { return otherwise; }
}

/** Remember a choice in this browser. */
export function remember(key, value) {
  try { localStorage.setItem(`ichx ${key}`, JSON.stringify(value)); } catch { /* a private window without storage */ }
}

/** Change parameters of the page's URL; null removes one. `push` adds an entry for the back button. */
export function setQuery(changes, { push = false } = {}) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    url.searchParams.delete(name);
    for (const one of [value ?? []].flat()) url.searchParams.append(name, one);
  }
  if (url.href !== location.href) history[push ? "pushState" : "replaceState"](null, "", url);
}
