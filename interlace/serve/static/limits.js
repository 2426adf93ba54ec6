// What the server's model can take, from /info, with sensible values where it doesn't say.

const UNKNOWN = { width: 1024, height: 1024, num_inference_steps: 28 };

/** What can be asked for when drawing and when editing; `info` is the answer of /info, or null. */
export function limitsOf(info) {
  const create = ofModel(info, info?.server);
  return { create, edit: info?.editing ? ofModel(info.editing, info.server) : create };
}

function ofModel(model, server = {}) {
  const defaults = { ...UNKNOWN, ...model?.defaults };
  const limits = model?.limits ?? {};
  const width = defaults.width ?? UNKNOWN.width;
  const steps = defaults.num_inference_steps ?? UNKNOWN.num_inference_steps;
  return {
    makes: model?.makes ?? "pictures",
    seconds: lengthOf(defaults),
    width,
    height: defaults.height ?? width,
    minSize: limits.min_size ?? 64,
    maxSize: Math.min(limits.max_size ?? 2048, server.max_image_size ?? 2048),
    multiple: limits.multiple_of ?? 16,
    steps,
    maxSteps: Math.min(server.max_steps ?? 100, Math.max(60, 3 * steps)), // a slider that goes on for ever is no use
    maxN: 10,
    maxImages: model?.several_images ? Math.min(server.max_input_images ?? 4, 8) : 1,
    guidance: defaults.guidance_scale ?? null,
    cfg: defaults.true_cfg_scale ?? null,
    strength: defaults.strength ?? null,
  };
}

/** How long the model's usual film is; of sound, some seconds. */
function lengthOf({ num_frames: frames, fps }) {
  return frames && fps ? Math.round((frames / fps) * 100) / 100 : 5;
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
