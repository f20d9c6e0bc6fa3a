// What is known about a slice: its values, its probabilities and the reviews of readers.

import { announce, getJson, postJson, remember, remembered } from "./base.js";

/** Write the values of a slice into `list`, a `<dl>`. `slice` and `study` are those of the studies API. */
export function showFacts(list, slice, series, study, shown) {
  const window = slice.header_window;
  const rows = [
    ["slice", slice.id],
    ["number", `${series.slices.indexOf(slice) + 1} of ${series.slices.length}, ${series.order}`],
    ["position", slice.position === null ? "unknown" : `${number(slice.position)} mm`],
    ["pixels", `${slice.rows} × ${slice.columns}${shown && (shown.rows !== slice.rows || shown.columns !== slice.columns) ? `, shown as ${shown.rows} × ${shown.columns}` : ""}`],
    ["spacing", slice.spacing ? `${slice.spacing.map(number).join(" × ")} mm` : "unknown: no scale"],
    ["slice distance", slice.thickness == null ? "unknown" : `${number(slice.thickness)} mm`],
    ["sides", slice.side ? `left of the image: ${slice.side.left}` : "unknown"],
    ["header window", window ? `${number(window[0])}, width ${number(window[1])} HU` : "missing: brain is used"],
    ...Object.entries(slice.header ?? {}).map(([name, value]) => [name, typeof value === "number" ? `${number(value)} ${name === "kVp" ? "kV" : "mm"}` : value]),
    ["flags", [...slice.flags, ...series.flags].join(", ") || "none"],
    ["fold", foldText(slice.fold ?? study.fold)],
  ];
  if (slice.weight !== undefined && slice.weight !== null) rows.push(["weight", number(slice.weight)]);
  list.replaceChildren(...rows.flatMap(([name, value]) => [made("dt", name), made("dd", `${value}`)]));
}

/** Return a fold of the studies API in words; -1 trains in every fold. */
export const foldText = (fold) => fold == null ? "none" : fold < 0 ? "none, trains in every fold" : `${fold}`;

/** Write the probabilities of a slice into `table`: a row per label, the truth, and a column per curve of each pane. */
export function showProbabilities(table, slice, labels, panes) {
  const columns = panes.flatMap((pane, i) => pane.curves.map((curve) => ({ title: panes.length > 1 ? `${"AB"[i]}: ${curve.key}` : curve.key, values: curve.probabilities[slice.id] })));
  const head = made("tr");
  head.append(...["label", slice.pseudo && !slice.labels ? "pseudo-label" : "truth", ...columns.map((one) => one.title)].map((title, i) => made("th", title, { scope: "col", class: i > 1 ? "number" : "" })));
  const body = labels.map((label, at) => {
    const row = made("tr"), truth = slice.labels?.[label];
    const name = made("th", label, { scope: "row" });
    name.prepend(made("span", "", { class: `key c${at}${at % 2 === 0 ? " dashed" : ""}`, "aria-hidden": "true" }));
    row.append(name, made("td", truthText(slice, label), { class: truth > 0.5 ? "truth yes" : "truth", title: slice.unknown?.[label] ?? "" }));
    row.append(...columns.map((one) => made("td", probability(one.values?.[at]), { class: "number" })));
    return row;
  });
  const thead = made("thead"), tbody = made("tbody");
  thead.append(head);
  tbody.append(...body);
  table.replaceChildren(thead, tbody);
}

/** Return the label of a slice in words: a soft one is a number, an unknown one a dash, a pseudo-label its range over folds. */
function truthText(slice, label) {
  const truth = slice.labels?.[label], range = slice.pseudo?.[label];
  if (truth !== undefined && truth !== null) return truth === 1 ? "yes" : truth === 0 ? "no" : number(truth);
  if (!range) return "–";
  const [low, high] = range.map(probability);
  return low === high ? low : `${low} to ${high}`;
}

/** Write below the probabilities why labels are unknown, and what pseudo-labels are. */
export function showUnknown(place, slice, labels) {
  const reasons = new Map();
  for (const label of labels) {
    const reason = slice.pseudo?.[label] ? null : slice.unknown?.[label];
    if (reason) reasons.set(reason, [...(reasons.get(reason) ?? []), label]);
  }
  const lines = [...reasons].map(([reason, names]) => `– ${names.length === labels.length ? "all labels" : names.join(", ")}: unknown, ${reason}.`);
  if (slice.pseudo) lines.push("Pseudo-labels: each fold trains on those of its own networks, shown as a range; they are never scored.");
  place.replaceChildren(...lines.map((line) => made("span", line)));
  place.hidden = !lines.length;
}

/** Return what a screen reader says about a slice. */
export function describeSlice(slice, series, labels, panes) {
  const said = [`Slice ${series.slices.indexOf(slice) + 1} of ${series.slices.length}, ${slice.id}`];
  for (const pane of panes) {
    const values = pane.curves.at(-1)?.probabilities[slice.id];
    if (values) said.push(`${pane.name}: ${labels.map((label, i) => `${label} ${probability(values[i])}`).join(", ")}`);
  }
  const present = labels.filter((label) => slice.labels?.[label] > 0.5);
  const unknown = labels.filter((label) => slice.labels && slice.labels[label] === null);
  if (slice.labels) said.push(`labels: ${present.join(", ") || "none"}${unknown.length ? `; unknown: ${unknown.join(", ")}` : ""}`);
  return said.join(". ");
}

/** The reviews of the current slice and the form that adds one; `changed(slice)` is called after one was stored or withdrawn. */
export class Reviews {
  #slice = null;
  #source;
  #changed;

  constructor(place, source, changed) {
    this.place = place;
    this.#source = source;
    this.#changed = changed;
    this.form = place.querySelector("form");
    this.list = place.querySelector("ul");
    this.problem = place.querySelector(".problem");
    if (this.form) this.form.elements.reader.value = remembered("reader", "");
    this.form?.addEventListener("submit", async (event) => {
      event.preventDefault();
      const slice = this.#slice, { finding, label, note, reader } = Object.fromEntries(new FormData(this.form));
      const button = this.form.querySelector("button");
      button.disabled = true;
      try {
        await postJson("/api/reviews", { source, slice: slice.id, finding, label: label || null, note: note.trim(), reader: reader.trim() || null });
        slice.reviews += 1;
        remember("reader", reader.trim());
        this.form.reset();
        this.form.elements.reader.value = reader;
        this.problem.textContent = "";
        announce(`Review of ${slice.id} saved.`);
        this.#changed(slice);
        if (slice === this.#slice) await this.#list();
      } catch (error) {
        this.problem.textContent = error.message;
      } finally {
        button.disabled = false;
        if (document.activeElement === document.body) button.focus(); // a disabled button loses the focus
      }
    });
    this.form?.addEventListener("keydown", (event) => { if (event.key === "Escape") document.activeElement.blur(); });
  }

  /** Move the focus to the form. */
  focus() { this.form?.elements.finding.focus(); }

  /** Show the reviews of `slice`. */
  show(slice) {
    if (slice === this.#slice) return;
    this.#slice = slice;
    this.problem.textContent = "";
    this.list.replaceChildren();
    if (slice.reviews) this.#list();
  }

  #item(review) {
    const slice = this.#slice, item = made("li", [review.finding, review.label, review.note, review.reader && `(${review.reader})`].filter(Boolean).join(" · "));
    if (!this.form) return item;
    const button = made("button", "Withdraw", { type: "button", "aria-label": `Withdraw the review ${review.finding}` });
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await postJson(`/api/reviews/${review.id}/withdraw`, {});
        slice.reviews = Math.max(0, slice.reviews - 1);
        item.remove();
        this.problem.textContent = "";
        announce(`Review of ${slice.id} withdrawn.`);
        this.#changed(slice);
      } catch (error) {
        this.problem.textContent = error.message;
        button.disabled = false;
      }
    });
    item.append(" ", button);
    return item;
  }

  async #list() {
    const slice = this.#slice;
    try {
      const found = await getJson(`/api/reviews/${encodeURIComponent(this.#source)}/${encodeURIComponent(slice.id)}`);
      if (slice !== this.#slice) return;
      this.list.replaceChildren(...found.reviews.map((one) => this.#item(one)));
    } catch (error) {
      if (slice === this.#slice) this.problem.textContent = error.message;
    }
  }
}

/** Return an element with a text; `text` is never read as HTML. */
export function made(name, text = "", attributes = {}) {
  const one = document.createElement(name);
  one.textContent = text;
  for (const [key, value] of Object.entries(attributes)) if (value !== "") one.setAttribute(key, value);
  return one;
}

const number = (value) => Number(value.toFixed(3)).toString();
const probability = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");
