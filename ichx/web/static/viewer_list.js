// The worklist from which a slice was opened: its place there, and the slices before and after it.

import { announce, getJson } from "./base.js";
import { made } from "./viewer_facts.js";

const KEPT = ["window", "shape", "overlay", "label", "labels", "curves", "of"]; // what the reader has chosen in the viewer

/** A bar with links to the neighbours in the list; hidden unless the URL names a list. */
export class ListBar {
  #query = new URLSearchParams(location.search);

  /** `flush()` writes the state of the viewer into the URL of the page. */
  constructor(place, flush) {
    this.place = place;
    this.flush = flush;
    this.given = this.#query.has("list");
    place.hidden = !this.given;
    if (this.given) this.#show();
  }

  /** Open the neighbour in a direction, -1 or 1; the list may have changed since the page was opened. */
  async go(direction) {
    if (!this.given) return;
    try {
      const found = await this.#load(), url = direction < 0 ? found.previous : found.next;
      if (url === null) { announce(direction < 0 ? "This is the first row of the list." : "This is the last row of the list."); this.#draw(found); return; }
      this.flush();
      location.assign(withChoices(url));
    } catch (error) {
      this.place.replaceChildren(made("span", error.message, { class: "problem" }));
    }
  }

  async #show() {
    try {
      this.#draw(await this.#load());
    } catch (error) {
      this.place.replaceChildren(made("span", error.message, { class: "problem" }));
    }
  }

  #load() {
    const query = new URLSearchParams(this.#query.get("list"));
    query.set("at", this.#query.get("at") ?? "1");
    query.set("slice", this.#query.get("listed") ?? this.#query.get("slice") ?? "");
    return getJson(`/api/worklist?${query}`);
  }

  #draw(found) {
    const button = (text, direction, url) => {
      const one = made("button", text, { type: "button" });
      one.disabled = url === null;
      one.addEventListener("click", () => this.go(direction));
      return one;
    };
    const count = found.total ? `${Math.min(found.at, found.total)} of ${found.total}` : "empty now";
    this.place.replaceChildren(made("a", "Worklist", { href: found.list }), made("span", count), button("Previous", -1, found.previous), button("Next", 1, found.next));
  }
}

/** Return the URL of a slice with the choices of this page. */
function withChoices(url) {
  const target = new URL(url, location.href), now = new URLSearchParams(location.search);
  for (const name of KEPT) {
    target.searchParams.delete(name);
    for (const value of now.getAll(name)) target.searchParams.append(name, value);
  }
  return target;
}
