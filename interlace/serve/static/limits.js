// What the server's model can take, from /info, with sensible values where it doesn't say.

/** `info` is the answer of /info, or null. */
export function limitsOf(info) {
  const defaults = info?.defaults ?? {};
  const limits = info?.limits ?? {};
  const width = defaults.width ?? 1024;
  const height = defaults.height ?? 1024;
  const [maxWidth, maxHeight] = sides(limits.max_image_size ?? limits.max_size) ?? [2048, 2048];
  const [minWidth] = sides(limits.min_size) ?? [64];
  return {
    width,
    height,
    minSize: minWidth,
    maxSize: Math.min(maxWidth, maxHeight),
    maxPixels: limits.max_pixels ?? Infinity,
    multiple: limits.multiple_of ?? 16,
    steps: defaults.num_inference_steps ?? 28,
    maxSteps: Math.min(limits.max_steps ?? 100, Math.max(60, 3 * (defaults.num_inference_steps ?? 28))),
    maxN: Math.min(limits.max_n ?? 8, 16),
    maxImages: Math.min(limits.max_input_images ?? 4, 16),
    guidance: defaults.guidance_scale ?? null,
    cfg: defaults.true_cfg_scale ?? null,
  };
}

function sides(value) {
  if (value == null) return null;
  if (typeof value === "number") return [value, value];
  if (Array.isArray(value)) return value.map(Number);
  const numbers = String(value).split(/[x×]/).map(Number);
  return numbers.length === 1 ? [numbers[0], numbers[0]] : numbers;
}

/** The sizes on offer: shapes near the model's own area, as [name, width, height]. */
export function shapesOf(limits) {
  const area = limits.width * limits.height;
  const shape = (name, ratio) => [name, fit(Math.sqrt(area * ratio), limits), fit(Math.sqrt(area / ratio), limits)];
  const shapes = [["Square", 1], ["Wide", 3 / 2], ["Tall", 2 / 3]].map(([name, ratio]) => shape(name, ratio));
  if (limits.width !== limits.height) shapes.unshift(["Usual", limits.width, limits.height]);
  return shapes;
}

/** The nearest side that the model takes. */
export function fit(side, { multiple, minSize, maxSize }) {
  const low = Math.ceil(minSize / multiple) * multiple;
  const high = Math.floor(maxSize / multiple) * multiple;
  return Math.min(high, Math.max(low, Math.round(side / multiple) * multiple));
}
