// The end of a log that grows.

import { getJson } from "./base.js";

const KEPT = 200_000; // characters

/** Shows the end of a log, and what is added to it. */
export class LogTail {
  /**
   * @param {HTMLElement} place a `pre`
   * @param {HTMLInputElement} follow scroll to the end
   * @param {string} missing text where there is no log
   */
  constructor(place, follow, missing) {
    Object.assign(this, { place, follow, missing, url: null, end: null, busy: false, again: false });
    follow.addEventListener("change", () => this.scroll());
  }

  /** Show the log at another URL. */
  async open(url) {
    Object.assign(this, { url, end: null });
    this.place.textContent = "";
    await this.load();
  }

  /** Load what was added; `size` of the file in bytes, if it is known. */
  async load(size = null) {
    if (this.busy) { this.again = true; return; }
    if (size !== null && size === this.end) return;
    this.busy = true;
    const { url } = this;
    try {
      const from = this.end === null ? "" : `${url.includes("?") ? "&" : "?"}from=${this.end}`;
      const part = await getJson(url + from);
      if (url !== this.url) return;
      const text = (this.end === null || part.cut ? "" : this.place.textContent) + part.text;
      if (part.missing) { this.place.textContent = this.missing; return; }
      if (part.text || this.end === null) this.place.textContent = text.slice(-KEPT);
      this.end = part.end;
      this.scroll();
    } catch (error) {
      if (this.end === null && url === this.url) this.place.textContent = error.message;
    } finally {
      this.busy = false;
      if (this.again) { this.again = false; this.load(); }
    }
  }

  scroll() {
    if (this.follow.checked) this.place.scrollTop = this.place.scrollHeight;
  }
}
