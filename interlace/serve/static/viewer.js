// One image at full size, with its parameters and what can be done with it.

import { $, h } from "./dom.js";
import { fileName } from "./gallery.js";

const LARGEST_ZOOM = 5; // small pictures are shown larger, but not endlessly

export class Viewer {
  #gallery;
  #job = null;

  /** `actions`: reuse, edit, again, remove, each called with a job. */
  constructor(gallery, actions) {
    this.#gallery = gallery;
    for (const name of ["reuse", "edit", "again"]) {
      $(`viewer-${name}`).addEventListener("click", () => {
        const job = this.#job;
        $("viewer").close();
        actions[name](job);
      });
    }
    $("viewer-remove").addEventListener("click", () => this.#remove(actions.remove));
    $("viewer-previous").addEventListener("click", () => this.#move(-1));
    $("viewer-next").addEventListener("click", () => this.#move(1));
    $("viewer-close").addEventListener("click", () => $("viewer").close());
    $("viewer").addEventListener("close", () => this.#gallery.focus(this.#job));
    $("viewer").addEventListener("click", (event) => event.target === $("viewer-stage") && $("viewer").close());
    $("viewer").addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.#move(-1);
      if (event.key === "ArrowRight") this.#move(1);
    });
    $("viewer-image").addEventListener("load", ({ target }) => {
      target.style.setProperty("--natural", `${target.naturalWidth * LARGEST_ZOOM}px`);
      target.style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
    });
  }

  open(job) {
    this.#show(job);
    if (!$("viewer").open) $("viewer").showModal();
  }

  #show(job) {
    this.#job = job;
    const url = this.#gallery.url(job);
    Object.assign($("viewer-image"), { src: url, alt: job.prompt });
    $("viewer-prompt").textContent = job.prompt;
    $("viewer-facts").replaceChildren(...facts(job).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    this.#showSources(job);
    Object.assign($("viewer-download"), { href: url, download: fileName(job) });
    const shown = this.#gallery.done;
    $("viewer-place").textContent = `${shown.indexOf(job) + 1} of ${shown.length}`;
    $("viewer-previous").disabled = shown[0] === job;
    $("viewer-next").disabled = shown.at(-1) === job;
  }

  #showSources({ mode, inputs = [] }) {
    $("viewer-sources").querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    $("viewer-sources").hidden = mode !== "edit";
    const images = inputs.map((blob) => h("img", { src: URL.createObjectURL(blob), alt: "The image that was edited" }));
    $("viewer-sources").replaceChildren("Edited from", ...images);
  }

  #move(by) {
    const shown = this.#gallery.done;
    const next = shown[shown.indexOf(this.#job) + by];
    if (next) this.#show(next);
  }

  #remove(remove) {
    const shown = this.#gallery.done;
    const index = shown.indexOf(this.#job);
    const next = shown[index + 1] ?? shown[index - 1];
    remove(this.#job);
    if (next) this.#show(next);
    else $("viewer").close();
  }
}

function facts({ size, settings, timings, at }) {
  const seconds = timings?.total_s;
  return [
    ["Size", size.replace("x", " × ")],
    ["Steps", settings.num_inference_steps],
    ["Seed", settings.seed],
    ["Guidance", settings.guidance_scale],
    ["True CFG", settings.true_cfg_scale],
    ["Avoid", settings.negative_prompt],
    ["Took", seconds == null ? null : `${seconds.toFixed(1)} s`],
    ["Rows a forward", timings?.mean_rows?.toFixed?.(1)],
    ["When", new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })],
  ].filter(([, value]) => value != null && value !== "");
}
