// Jobs: what was asked for, sent to the server a few at a time, with previews, cancelling and trying again.

import * as api from "./api.js";

// A browser opens six connections to one server. Two stay free: for cancelling and for the engine's figures.
const STREAMS = 4;

/**
 * A job is {id, mode, prompt, settings, inputs, state, step, numSteps, preview, blob, size, error, timings, at};
 * state: waiting | sent | done | failed | cancelled. `changed(job)` is called after every change.
 */
export class Queue {
  #jobs = new Map();
  #changed;

  constructor(changed) {
    this.#changed = changed;
  }

  get open() {
    return [...this.#jobs.values()];
  }

  has(id) {
    return this.#jobs.has(id);
  }

  add(jobs) {
    for (const job of jobs) {
      Object.assign(job, { state: "waiting", step: 0, error: null, at: Date.now() });
      this.#jobs.set(job.id, job);
    }
    this.#fill();
  }

  cancel(id) {
    const job = this.#jobs.get(id);
    if (!job) return;
    if (job.state === "sent") {
      const stream = job.abort; // closed after the answer, or at once when there is none: closing aborts the request too
      api.cancel(id).catch(() => {}).finally(() => stream.abort());
    }
    this.#end(job, "cancelled");
  }

  /** Takes steps over from the engine's figures: [{id, step, num_steps}]. */
  follow(running) {
    for (const { id, step, num_steps: numSteps } of running) {
      const job = this.#jobs.get(id);
      if (!job || job.state !== "sent" || (job.step === step && job.numSteps === numSteps)) continue;
      job.step = step;
      job.numSteps = numSteps ?? job.numSteps;
      this.#changed(job);
    }
  }

  #fill() {
    const sent = this.open.filter((job) => job.state === "sent").length;
    const waiting = this.open.filter((job) => job.state === "waiting");
    waiting.slice(0, Math.max(0, STREAMS - sent)).forEach((job) => this.#send(job));
  }

  async #send(job) {
    job.state = "sent";
    job.abort = new AbortController();
    this.#changed(job);
    try {
      await this.#receive(job);
      if (job.state === "sent") this.#end(job, job.blob ? "done" : "failed", "The server ended the stream early.");
    } catch (error) {
      if (job.state === "sent") this.#end(job, "failed", messageOf(error));
    }
  }

  async #receive(job) {
    const path = job.mode === "edit" ? "v1/images/edits" : "v1/images/generations";
    for await (const event of api.stream(path, bodyOf(job), { id: job.id, signal: job.abort.signal })) {
      if (event.type?.endsWith(".partial_image")) {
        setPreview(job, blobOf(bytesOf(event.b64_json)));
      } else if (event.type?.endsWith(".completed")) {
        const bytes = bytesOf(event.b64_json);
        job.blob = blobOf(bytes);
        job.size = sizeOf(bytes);
        job.timings = event.timings ?? null;
        if (event.seed != null) job.settings.seed = event.seed;
      }
      if (job.state === "sent") this.#changed(job);
    }
  }

  #end(job, state, error = null) {
    this.#jobs.delete(job.id);
    setPreview(job, null);
    job.state = state;
    job.error = state === "failed" ? error : null;
    delete job.abort;
    this.#changed(job);
    this.#fill();
  }
}

function messageOf(error) {
  return error instanceof api.ApiError ? error.message : "The server can't be reached, or the connection broke.";
}

function setPreview(job, blob) {
  if (job.preview) URL.revokeObjectURL(job.preview);
  job.preview = blob && URL.createObjectURL(blob);
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const blobOf = (bytes) => new Blob([bytes], { type: "image/png" });

/** Width and height stand first in a PNG's first chunk. */
function sizeOf(bytes) {
  const view = new DataView(bytes.buffer);
  return `${view.getUint32(16)}x${view.getUint32(20)}`;
}

const STREAMED = { n: 1, stream: true, partial_images: 3, output_format: "png" };

function bodyOf({ mode, prompt, settings, inputs }) {
  const fields = { prompt, ...settings, ...STREAMED };
  if (mode !== "edit") return fields;
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
  inputs.forEach((blob, index) => form.append("image[]", blob, `image-${index + 1}.${extension(blob.type)}`));
  return form;
}

const extension = (type) => ({ "image/jpeg": "jpg", "image/webp": "webp" })[type] ?? "png";
