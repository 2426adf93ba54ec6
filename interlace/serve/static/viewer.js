// One image at full size, with its parameters and what can be done with it.

import { BeforeAfter, Variations } from "./compare.js";
import { $, h, plural } from "./dom.js";
import { fileName, isPicture, sentences } from "./gallery.js";

const LARGEST_ZOOM = 5; // small pictures are shown larger, but not endlessly

export class Viewer {
  #gallery;
  #job = null;
  #beforeAfter = new BeforeAfter();
  #variations;

  /** `actions`: reuse, edit, again, remove, each called with a job. */
  constructor(gallery, actions) {
    this.#gallery = gallery;
    this.#variations = new Variations({ pick: (job) => this.#show(job), url: (job) => gallery.url(job) });
    for (const name of ["reuse", "edit", "again", "variations"]) {
      $(`viewer-${name}`).addEventListener("click", () => {
        const job = this.#job;
        // After the viewer has given the keyboard's focus back to the gallery: these put it into the form.
        $("viewer").addEventListener("close", () => actions[name](job), { once: true });
        this.#close();
      });
    }
    history.scrollRestoration = "manual"; // or going back from the viewer would scroll away from the form
    $("viewer-remove").addEventListener("click", () => this.#remove(actions.remove));
    $("viewer-previous").addEventListener("click", () => this.#move(-1));
    $("viewer-next").addEventListener("click", () => this.#move(1));
    $("viewer-close").addEventListener("click", () => this.#close());
    $("viewer").addEventListener("close", () => {
      $("viewer-film").pause();
      $("viewer-sound").pause();
      this.#gallery.focus(this.#job);
      if (history.state?.viewer) history.back();
    });
    addEventListener("popstate", () => this.#close());
    $("viewer").addEventListener("click", (event) => event.target === $("viewer-stage") && this.#close());
    $("viewer").addEventListener("keydown", (event) => {
      if (event.target === $("viewer-split")) return; // it has arrow keys of its own
      if (event.key === "ArrowLeft") this.#move(-1);
      if (event.key === "ArrowRight") this.#move(1);
    });
    $("viewer-image").addEventListener("load", ({ target }) => {
      $("viewer-shown").style.setProperty("--natural", `${target.naturalWidth * LARGEST_ZOOM}px`);
      $("viewer-shown").style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
    });
  }

  open(job) {
    this.#show(job);
    if ($("viewer").open) return;
    history.pushState({ viewer: true }, ""); // the browser's Back closes the viewer
    $("viewer").showModal();
  }

  #close() {
    if ($("viewer").open) $("viewer").close();
  }

  #show(job) {
    this.#job = job;
    const url = this.#gallery.url(job);
    this.#play(job, url);
    $("viewer-prompt").textContent = job.prompt;
    $("viewer-facts").replaceChildren(...facts(job).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    this.#showSources(job);
    $("viewer-notes").textContent = sentences(job.warnings ?? []);
    $("viewer-notes").hidden = !job.warnings?.length;
    this.#beforeAfter.open(job.mode === "edit" && isPicture(job) ? (job.inputs?.[0] ?? null) : null);
    this.#variations.open(job, this.#gallery.siblings(job));
    Object.assign($("viewer-download"), { href: url, download: fileName(job) });
    const shown = this.#gallery.done;
    $("viewer-place").textContent = `${shown.indexOf(job) + 1} of ${shown.length}`;
    $("viewer-previous").disabled = shown[0] === job;
    $("viewer-next").disabled = shown.at(-1) === job;
  }

  /** The picture, or a player in its place. */
  #play(job, url) {
    const kind = job.blob.type.split("/")[0];
    for (const [id, own] of [["viewer-image", "image"], ["viewer-film", "video"], ["viewer-sound", "audio"]]) {
      $(id).hidden = kind !== own;
      if (kind === own) $(id).src = url;
      else if (own !== "image") $(id).removeAttribute("src");
    }
    $("viewer-shown").hidden = kind !== "image";
    $("viewer-image").alt = job.prompt;
    $("viewer-edit").hidden = !isPicture(job);
    if (kind === "video") $("viewer-film").play().catch(() => {});
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
    else this.#close();
  }
}

/** How many requests shared its passes of the model, on average; nothing where it was alone. */
function companyOf(rows) {
  const others = Math.round((rows ?? 1) - 1);
  return others > 0 ? plural(others, "other") : null;
}

function facts({ size, settings, mask, timings, at }) {
  const seconds = timings?.total_s;
  return [
    [size.endsWith(" s") ? "Length" : "Size", size.replace("x", " × ")],
    ["Seconds", size.endsWith(" s") ? null : settings.seconds],
    ["Steps", settings.num_inference_steps],
    ["Seed", settings.seed],
    ["Strength", settings.strength],
    ["Changed", mask ? "the painted part" : null],
    ["Guidance", settings.guidance_scale],
    ["Prompt strength", settings.true_cfg_scale],
    ["Avoid", settings.negative_prompt],
    ["Adapters", settings.lora],
    ["Took", seconds == null ? null : `${seconds.toFixed(1)} s`],
    ["Drawn together with", companyOf(timings?.mean_rows)],
    ["When", new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })],
  ].filter(([, value]) => value != null && value !== "");
}
