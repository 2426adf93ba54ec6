// Jobs: handed to the server all at once, so that its engine can run them together; followed, cancelled, collected.

import * as api from "./api.js";

// A browser opens six connections to one server. Two stay free: for short calls and for the engine's figures.
const FOLLOWED = 4;
const FULL_MS = 1000; // before a full server is asked again

/**
 * A job is {id, mode, prompt, settings, inputs, state, running, step, numSteps, position, preview, blob, size, error,
 * timings, at}; state: waiting (here) | sent (the server has it) | done | failed | cancelled.
 *
 * Jobs go to the server as asynchronous requests. The first few are followed by their events, with previews; the others
 * by the engine's figures, until it is their turn. `changed(job)` is called after every change.
 */
export class Queue {
  #jobs = new Map();
  #changed;
  #submitting = false;

  constructor(changed) {
    this.#changed = changed;
    addEventListener("pagehide", () => this.#leave());
  }

  get open() {
    return [...this.#jobs.values()];
  }

  get #sent() {
    return this.open.filter((job) => job.state === "sent");
  }

  add(jobs) {
    for (const job of jobs) {
      Object.assign(job, { state: "waiting", running: false, step: 0, error: null, at: Date.now() });
      this.#jobs.set(job.id, job);
    }
    this.#submitAll();
  }

  cancel(id) {
    const job = this.#jobs.get(id);
    if (!job) return;
    if (job.state === "sent") api.remove(id).catch(() => {}); // it may have ended a moment ago
    this.#end(job, "cancelled");
  }

  /** Takes over the engine's figures: {running, waiting}, each [{id, step, num_steps, position}]. */
  follow({ running, waiting }) {
    const known = new Map([...running, ...waiting].map((request) => [request.id, request]));
    for (const job of this.#sent.filter((one) => !one.follower && !one.settling)) {
      const request = known.get(job.id);
      if (request) this.#progress(job, request, running.includes(request));
      else this.#settle(job);
    }
  }

  async #submitAll() {
    if (this.#submitting) return;
    this.#submitting = true;
    for (let job; (job = this.open.find((one) => one.state === "waiting")); ) await this.#submit(job);
    this.#submitting = false;
  }

  async #submit(job) {
    try {
      await api.submit(pathOf(job), bodyOf(job), job.id);
    } catch (error) {
      if (error.status === 429 && this.#sent.length) await new Promise((resolve) => setTimeout(resolve, FULL_MS));
      else if (job.state === "waiting") this.#end(job, "failed", messageOf(error));
      return;
    }
    if (job.state !== "waiting") {
      api.remove(job.id).catch(() => {}); // cancelled meanwhile
      return;
    }
    job.state = "sent";
    this.#changed(job);
    this.#followMore();
  }

  #followMore() {
    const sent = this.#sent;
    const room = FOLLOWED - sent.filter((job) => job.follower).length;
    sent.filter((job) => !job.follower && !job.lost).slice(0, Math.max(0, room)).forEach((job) => this.#follow(job));
  }

  async #follow(job) {
    job.follower = new AbortController();
    try {
      for await (const [name, data] of api.events(job.id, job.follower.signal)) {
        if (name === "preview") setPreview(job, previewOf(data));
        if (name === "done") return this.#collect(job, data);
        if (name === "error") return this.#end(job, "failed", data.error?.message);
        if (job.state === "sent") this.#progress(job, data, name !== "queued");
      }
    } catch {
      // the connection broke, or the job was cancelled
    }
    job.lost = true; // from now on by the engine's figures
    delete job.follower;
  }

  #progress(job, { step, num_steps: numSteps, position }, running) {
    if (step != null) job.step = Math.max(job.step, step);
    if (numSteps) job.numSteps = numSteps;
    job.running = running;
    job.position = position ?? null;
    this.#changed(job);
  }

  /** A job that the engine no longer has: done, failed, or forgotten by the server. */
  async #settle(job) {
    job.settling = true; // figures that come meanwhile ask no second time: its result may be collected by then
    try {
      const request = await api.get(`v1/requests/${job.id}`);
      if (job.state !== "sent") return;
      if (request.status === "completed") await this.#collect(job, request);
      if (request.status === "failed") this.#end(job, "failed", request.error?.message);
    } catch (error) {
      if (error.status === 404) this.#end(job, "failed", "The server no longer knows this request.");
    }
    job.settling = false;
  }

  async #collect(job, request) {
    if (job.collecting) return;
    job.collecting = true;
    try {
      job.blob = await api.picture(job.id);
      job.size = job.makes === "sound" ? `${job.settings.seconds} s` : job.makes === "film" ? request.size : sizeOf(await job.blob.arrayBuffer());
      job.timings = request.parts?.[0]?.timings ?? null;
      job.warnings = request.warnings ?? [];
      this.#end(job, "done");
    } catch (error) {
      this.#end(job, "failed", messageOf(error));
    }
    api.remove(job.id).catch(() => {});
  }

  #end(job, state, error = null) {
    if (!this.#jobs.delete(job.id)) return;
    job.follower?.abort();
    setPreview(job, null);
    job.state = state;
    job.error = state === "failed" ? (error ?? "The request failed.") : null;
    this.#changed(job);
    this.#followMore();
  }

  #leave() {
    this.#sent.forEach((job) => api.remove(job.id, { keepalive: true }).catch(() => {}));
  }
}

function messageOf(error) {
  return error instanceof api.ApiError ? error.message : "The server can't be reached, or the connection broke.";
}

function setPreview(job, blob) {
  if (job.preview) URL.revokeObjectURL(job.preview);
  job.preview = blob && URL.createObjectURL(blob);
}

function previewOf({ b64_json: base64, output_format: format }) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: `image/${format}` });
}

/** Width and height stand first in a PNG's first chunk. */
function sizeOf(buffer) {
  const view = new DataView(buffer);
  return `${view.getUint32(16)}x${view.getUint32(20)}`;
}

function pathOf({ mode, makes }) {
  if (makes === "film") return "v1/videos";
  if (makes === "sound") return "v1/audio/generate";
  return mode === "edit" ? "v1/images/edits" : "v1/images/generations";
}

function bodyOf({ mode, makes, prompt, settings, inputs, mask }) {
  if (makes === "sound") return { prompt, ...settings, async: true };
  if (makes === "film" && mode !== "edit") return { prompt, ...settings };
  if (makes === "film") {
    const form = new FormData();
    for (const [name, value] of Object.entries({ prompt, ...settings })) form.append(name, String(value));
    inputs.forEach((blob, index) => form.append("input_reference", blob, `image-${index + 1}.${extension(blob.type)}`));
    return form;
  }
  const fields = { prompt, ...settings, n: 1, async: true, partial_images: 3, output_format: "png" };
  if (mode !== "edit") return fields;
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
  inputs.forEach((blob, index) => form.append("image[]", blob, `image-${index + 1}.${extension(blob.type)}`));
  if (mask) form.append("mask", mask, "mask.png");
  return form;
}

const extension = (type) => ({ "image/jpeg": "jpg", "image/webp": "webp" })[type] ?? "png";
