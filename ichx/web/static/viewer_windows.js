// Windows: from HU to grey levels, equal to `ichx.ct.windows`.

const STEEPNESS = Math.fround(2 * Math.log(254));
export const LEVELS = 65536;
const MIN_WIDTH = 1, MAX_WIDTH = 65535, MIN_CENTRE = -32768, MAX_CENTRE = 32767;

/**
 * Return the grey level of every HU from -32768 to 32767.
 * The steps are those of `windows_numpy` in float32, then `rint(255 * x)`.
 * @param {number} centre in HU
 * @param {number} width in HU
 * @param {"linear"|"sigmoid"} shape
 * @returns {Uint8Array}
 */
export function greyLevels(centre, width, shape) {
  const levels = new Uint8Array(LEVELS), c = Math.fround(centre), w = Math.fround(width);
  for (let i = 0; i < LEVELS; i++) {
    let x = Math.fround(Math.fround(i - 32768 - c) / w);
    if (shape === "sigmoid") x = Math.fround(1 / (1 + Math.exp(-Math.fround(x * STEEPNESS))));
    else x = Math.min(1, Math.max(0, Math.fround(x + 0.5)));
    levels[i] = rint(Math.fround(255 * x));
  }
  return levels;
}

/** Return a window within the limits of stored values, in integers. */
export function limited(centre, width) {
  const within = (value, low, high) => Math.min(high, Math.max(low, Math.round(value)));
  return { centre: within(centre, MIN_CENTRE, MAX_CENTRE), width: within(width, MIN_WIDTH, MAX_WIDTH) };
}

/** Return the text of a window in the URL: its name, or `centre:width`. */
export const windowText = (window) => window.name ?? `${window.centre}:${window.width}`;

/** Return the window that `windowText` wrote, or null if `text` is none. `named` has the named windows. */
export function parseWindow(text, named) {
  const found = named.find((one) => one.name === text);
  if (found) return { ...found };
  const match = /^(-?\d{1,6}):(\d{1,6})$/.exec(text ?? "");
  return match && Number(match[2]) > 0 ? { name: null, ...limited(Number(match[1]), Number(match[2])) } : null;
}

function rint(value) {
  const below = Math.floor(value), rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}
