// Gestures on a stage: wheel, mouse, pen and touch become actions.

const WHEEL = 40; // pixels of a wheel per slice; a notch has about 100
const NOTCH = 150;
const START = 8; // pixels before a gesture of two fingers is decided

/**
 * Call `actions` for gestures on `place`:
 * `step(n)` slices, `windowBy(right, down)`, `panBy(x, y)`, `zoomBy(factor, x, y)`, `reset()`; `zoomed()` and `count()` are asked.
 */
export function listen(place, actions) {
  const fingers = new Map();
  let turned = 0, moved = 0, mode = null, before = null;

  place.addEventListener("wheel", (event) => {
    event.preventDefault();
    const delta = event.deltaY * (event.deltaMode === 1 ? 40 : event.deltaMode === 2 ? 400 : 1);
    if (event.ctrlKey || event.metaKey) { actions.zoomBy(Math.exp(-Math.max(-NOTCH, Math.min(NOTCH, delta)) / 400), event.clientX, event.clientY); return; }
    if (Math.sign(delta) !== Math.sign(turned)) turned = 0;
    turned += delta;
    if (Math.abs(turned) < WHEEL) return;
    actions.step(Math.sign(turned) * Math.max(1, Math.round(Math.abs(turned) / NOTCH)));
    turned = 0;
  }, { passive: false });

  const start = () => {
    const [a, b] = [...fingers.values()];
    before = b ? { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, far: Math.hypot(a.x - b.x, a.y - b.y) } : { ...a };
    moved = 0;
  };

  place.addEventListener("pointerdown", (event) => {
    if (event.target.closest("a, button")) return;
    place.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY, fromX: event.clientX, fromY: event.clientY });
    if (fingers.size > 2) return;
    if (event.pointerType === "touch" && fingers.size === 2) mode = "undecided";
    else if (event.button === 2 || event.shiftKey) mode = "window";
    else if (event.button === 1) mode = "pan";
    else mode = actions.zoomed() ? "pan" : "slices";
    if (event.button === 1) event.preventDefault(); // no scrolling by the middle button
    start();
  });

  place.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId) || !mode) return;
    Object.assign(fingers.get(event.pointerId), { x: event.clientX, y: event.clientY });
    const [a, b] = [...fingers.values()];
    const now = b ? { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, far: Math.hypot(a.x - b.x, a.y - b.y) } : { ...a };
    if (mode === "undecided") {
      mode = ofTwo(a, b) ?? mode;
      if (mode === "undecided") return;
    }
    const x = now.x - before.x, y = now.y - before.y;
    if (mode === "window") actions.windowBy(x, y);
    else if (mode === "pan") actions.panBy(x, y);
    else if (mode === "zoom") {
      actions.panBy(x, y);
      if (before.far > 0) actions.zoomBy(now.far / before.far, now.x, now.y);
    } else {
      moved += y;
      const each = Math.max(6, Math.min(24, place.clientHeight / actions.count()));
      const slices = Math.trunc(moved / each);
      if (slices) { moved -= slices * each; actions.step(slices); }
    }
    before = now;
  });

  const end = (event) => {
    fingers.delete(event.pointerId);
    if (fingers.size === 0 || mode !== "slices") mode = null; // the remaining finger of two does nothing
    if (fingers.size) start();
  };
  place.addEventListener("pointerup", end);
  place.addEventListener("pointercancel", end);
  place.addEventListener("contextmenu", (event) => event.preventDefault());
  place.addEventListener("dblclick", () => actions.reset());
}

/** Return the gesture of two fingers: "window" if they move together, "zoom" if they do not, null before that is clear. */
function ofTwo(a, b) {
  const [x, y, u, v] = [a.x - a.fromX, a.y - a.fromY, b.x - b.fromX, b.y - b.fromY];
  const less = Math.min(Math.hypot(x, y), Math.hypot(u, v)), more = Math.max(Math.hypot(x, y), Math.hypot(u, v));
  if (more < START || (less < START / 2 && more < 3 * START)) return null; // the events of the fingers come one after the other
  return less >= START / 2 && x * u + y * v > 0 ? "window" : "zoom";
}

/** The shortcuts: keys, what they do, and the action; `single` marks those of one character, which can be switched off; `listed`: of a worklist. */
export function shortcuts(actions, windows, listed) {
  return [
    { keys: ["ArrowDown", "ArrowRight"], shown: "↓ →", text: "next slice", run: () => actions.step(1) },
    { keys: ["ArrowUp", "ArrowLeft"], shown: "↑ ←", text: "previous slice", run: () => actions.step(-1) },
    { keys: ["PageDown"], shown: "Page Down", text: "5 slices further", run: () => actions.step(5) },
    { keys: ["PageUp"], shown: "Page Up", text: "5 slices back", run: () => actions.step(-5) },
    { keys: ["Home"], shown: "Home", text: "first slice", run: () => actions.jump(0) },
    { keys: ["End"], shown: "End", text: "last slice", run: () => actions.jump(Infinity) },
    ...windows.map(({ title }, index) => ({ keys: [`${index + 1}`], text: `window: ${title}`, run: () => actions.chooseWindow(index), single: true })),
    { keys: ["+", "="], shown: "+", text: "zoom in", run: () => actions.zoomBy(1.25), single: true },
    { keys: ["-"], text: "zoom out", run: () => actions.zoomBy(0.8), single: true },
    { keys: ["0", "r"], shown: "0 r", text: "reset zoom and position", run: () => actions.reset(), single: true },
    { keys: ["o"], text: "overlay on or off", run: () => actions.toggleOverlay(), single: true },
    { keys: ["s"], text: "shape of the window: linear or sigmoid", run: () => actions.toggleShape(), single: true },
    ...(listed ? [
      { keys: ["n"], text: "next row of the worklist", run: () => actions.listed(1), single: true },
      { keys: ["p"], text: "previous row of the worklist", run: () => actions.listed(-1), single: true },
    ] : []),
    { keys: ["m"], text: "review the slice; Escape leaves the form", run: () => actions.review(), single: true },
    { keys: ["?"], text: "this help", run: () => actions.help(), single: true },
  ];
}

/** The gestures, for the help. */
export const GESTURES = [
  ["wheel", "scroll slices"],
  ["drag up or down, one finger", "scroll slices; move the image if it is zoomed"],
  ["right button or shift and drag, two fingers", "window: right is wider, down is darker"],
  ["ctrl and wheel, pinch", "zoom"],
  ["middle button and drag", "move the image"],
  ["double click", "reset zoom and position"],
  ["click or drag on the probabilities", "go to that slice"],
];

/** Run shortcuts for keys that are pressed in the viewer or while nothing has the focus. `enabled()` asks for single characters. */
export function listenToKeys(viewer, table, enabled) {
  document.addEventListener("keydown", (event) => {
    const target = event.target.closest("dialog") ? document.body : event.target; // a dialog keeps the focus for a moment after it closes
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (target.matches("textarea, select, [contenteditable], input:not([type=checkbox], [type=range], [type=radio])")) return;
    const found = table.find((one) => one.keys.includes(event.key));
    if (!found || (found.single && !enabled())) return;
    if (!found.single && !(viewer.contains(target) || target === document.body || target.id === "main")) return;
    if (!found.single && target.matches("input:not([data-slices])")) return; // they change that control
    event.preventDefault();
    found.run();
  });
}
