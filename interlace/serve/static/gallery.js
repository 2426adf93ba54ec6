// The gallery: a card for every job, with its preview while it runs and its image when it is done.

import { $, h, plural } from "./dom.js";
import { DRAGGED, Inputs } from "./inputs.js";
import { nounOf } from "./words.js";

const ENDINGS = { "video/mp4": "mp4", "video/webm": "webm", "image/webp": "webp", "audio/wav": "wav" };

export class Gallery {
  jobs = []; // as shown: newest batch first
  #cards = new Map(); // id -> card
  #urls = new Map(); // id -> object URL of the finished image
  #actions;

  /** `actions`: open, cancel, retry, dismiss, reuse, edit, each called with a job; `colour(id)` is a job's thread. */
  constructor(actions) {
    this.#actions = actions;
  }

  get done() {
    return this.jobs.filter((job) => job.state === "done");
  }

  /** The finished images that are variations of each other, this one among them. */
  siblings(job) {
    return job.group ? this.done.filter((one) => one.group === job.group && isPicture(one)) : [];
  }

  url(job) {
    if (!this.#urls.has(job.id)) this.#urls.set(job.id, URL.createObjectURL(job.blob));
    return this.#urls.get(job.id);
  }

  /** Puts a batch in front, or (`index`) back to where it was. */
  add(jobs, index = 0) {
    const before = this.jobs[index] && this.#cards.get(this.jobs[index].id);
    this.jobs.splice(index, 0, ...jobs);
    for (const job of jobs) {
      const card = h("li", { class: "card" });
      this.#cards.set(job.id, card);
      $("cards").insertBefore(card, before ?? null);
      this.update(job);
    }
    this.#count();
  }

  /** Takes a job out; returns where it was. */
  remove(job) {
    const index = this.jobs.indexOf(job);
    if (index < 0) return index;
    this.jobs.splice(index, 1);
    this.#cards.get(job.id).remove();
    this.#cards.delete(job.id);
    if (this.#urls.has(job.id)) URL.revokeObjectURL(this.#urls.get(job.id));
    this.#urls.delete(job.id);
    this.#count();
    return index;
  }

  /** Puts the keyboard's focus on a job's card, or on the one at `index` when that is gone. */
  focus(job, index = 0) {
    const card = this.#cards.get(job?.id) ?? $("cards").children[Math.min(index, this.jobs.length - 1)];
    (card?.querySelector("button") ?? $("results")).focus({ preventScroll: true });
  }

  update(job) {
    const card = this.#cards.get(job.id);
    if (!card) return;
    card.style.setProperty("--thread", this.#actions.colour(job.id));
    if (card.dataset.state === job.state && job.state === "sent") {
      this.#progress(card, job);
      return;
    }
    const focused = card.contains(document.activeElement);
    card.dataset.state = job.state;
    const content = { waiting: pending, sent: pending, done: finished, failed }[job.state];
    if (content) card.replaceChildren(...content(job, this.#actions, this).filter(Boolean));
    if (job.state === "sent") this.#progress(card, job);
    if (focused) card.querySelector("button")?.focus({ preventScroll: true });
    this.#count();
  }

  #progress(card, job) {
    const bar = card.querySelector("progress");
    bar.max = job.numSteps || 1;
    if (job.step) bar.value = job.step;
    card.querySelector(".card-state").textContent = stateOf(job);
    const image = card.querySelector("img");
    if (job.preview && image.src !== job.preview) {
      image.src = job.preview;
      image.hidden = false;
    }
    const part = job.numSteps ? job.step / job.numSteps : 0;
    image.style.setProperty("--blur", `${(6 * (1 - part)).toFixed(1)}px`);
  }

  #count() {
    const done = this.done.length;
    const open = this.jobs.filter((job) => job.state === "waiting" || job.state === "sent").length;
    const parts = [open && `${open} on the way`, done && plural(done, nounOf(this.done.map((job) => job.makes)))].filter(Boolean);
    $("count").textContent = parts.join(" · ");
    $("empty").hidden = this.jobs.length > 0;
    $("clear").hidden = done === 0;
    $("download-all").hidden = done < 2;
    document.body.classList.toggle("has-images", this.jobs.length > 0);
    $("cancel-all").hidden = open < 2;
  }
}

function stateOf({ running, step, numSteps, position }) {
  if (step) return `Step ${step} of ${numSteps}`;
  if (running) return "Starting";
  return position ? `Number ${position} in the queue` : "Queued";
}

function pending(job, { cancel }) {
  const label = `Cancel: ${job.prompt}`;
  return [
    h(
      "div",
      { class: "picture" },
      h("img", { alt: "", hidden: true, src: job.preview }),
      h("span", { class: "card-state" }, "Queued"),
      h("button", { class: "icon cancel", type: "button", "aria-label": label, title: "Cancel", onclick: () => cancel(job) }, "×"),
      h("progress", { "aria-label": `Progress: ${job.prompt}` }),
    ),
    h("p", { class: "card-prompt" }, job.prompt),
  ];
}

function finished(job, { open, reuse, edit }, gallery) {
  const button = (label, action, name = "") =>
    h("button", { class: `chip ${name}`, type: "button", "aria-label": `${label}: ${job.prompt}`, onclick: () => action(job) }, label);
  return [
    h(
      "div",
      { class: "picture" },
      h(
        "button",
        { class: "picture-open", type: "button", "aria-label": `Open: ${job.prompt}`, onclick: () => open(job) },
        shown(job, gallery.url(job)),
      ),
      h(
        "div",
        { class: "card-actions" },
        h("a", { class: "chip", href: gallery.url(job), download: fileName(job), "aria-label": `Download: ${job.prompt}` }, "Download"),
        button("Reuse", reuse),
        isPicture(job) && button("Edit", edit, "edits"),
      ),
    ),
    h("p", { class: "card-prompt" }, job.prompt),
    h("p", { class: "card-meta" }, ...summary(job)),
    job.warnings?.length > 0 && h("p", { class: "note" }, sentences(job.warnings)),
  ];
}

export const isPicture = (job) => job.blob.type.startsWith("image/") && job.makes !== "film";

/** The picture; a film that plays while it is pointed at; a sound with its controls. */
function shown(job, url) {
  if (job.blob.type.startsWith("video/")) {
    const film = h("video", { src: url, "aria-label": job.prompt, muted: true, loop: true, playsinline: true, preload: "auto" });
    film.muted = true;
    film.addEventListener("pointerenter", () => film.play().catch(() => {}));
    film.addEventListener("pointerleave", () => film.pause());
    return film;
  }
  if (job.blob.type.startsWith("audio/")) return h("span", { class: "sound" }, h("span", { class: "sound-mark", "aria-hidden": "true" }, "♪"), job.size);
  return h("img", { src: url, alt: job.prompt, loading: "lazy", draggable: "true", ondragstart: (event) => drag(event, job) });
}

/** Dragged onto the page's edit field, or anywhere on it, an image becomes the one to edit. */
function drag(event, job) {
  Inputs.dragged = job.blob;
  event.dataTransfer.setData(DRAGGED, job.id);
  event.dataTransfer.effectAllowed = "copy";
}

function failed(job, { retry, dismiss }) {
  return [
    h(
      "div",
      { class: "picture failed" },
      h("p", { role: "alert" }, job.error),
      h(
        "div",
        { class: "row" },
        h("button", { class: "chip", type: "button", onclick: () => retry(job) }, "Try again"),
        h("button", { class: "chip", type: "button", onclick: () => dismiss(job) }, "Dismiss"),
      ),
    ),
    h("p", { class: "card-prompt" }, job.prompt),
  ];
}

function summary({ size, settings }) {
  const parts = [size.replace("x", "×"), `${settings.num_inference_steps} steps`, `seed ${settings.seed}`];
  return parts.map((text) => h("span", {}, text));
}

/** What the server said of a request, as sentences. */
export const sentences = (warnings) => warnings.map((text) => `${text[0].toUpperCase()}${text.slice(1)}.`).join(" ");

/** A name for the file: the prompt in plain letters, and the seed. */
export function fileName({ prompt, settings, blob }) {
  const slug = prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  return `${slug || "image"}-${settings.seed}.${ENDINGS[blob?.type] ?? "png"}`;
}
