// The images to edit: chosen, dropped, pasted or picked.

import { $, h, toast } from "./dom.js";
import { MaskPainter } from "./mask.js";

export const DRAGGED = "application/x-interlace-image";

/** Whether a file is an image that the browser can read, whatever its name says. */
async function isImage(file) {
  if (!/^image\/(png|jpeg|webp)$/.test(file.type)) return false;
  const bitmap = await createImageBitmap(file).catch(() => null);
  bitmap?.close();
  return bitmap !== null;
}

export class Inputs {
  static dragged = null; // a blob of the gallery
  blobs = [];
  mask = null; // a PNG, transparent where the first image may change; null: anywhere
  max = 4;
  #painter = new MaskPainter();
  #canMask = true;
  #added;

  /** `pick()` opens the gallery's picker; `added()` is called when images arrive from outside the form. */
  constructor(pick, added) {
    this.#added = added;
    $("pick").addEventListener("click", pick);
    $("mask-open").addEventListener("click", () => this.#paint());
    $("mask-clear").addEventListener("click", () => {
      this.#setMask(null);
      $("mask-open").focus();
    });
    $("file").addEventListener("change", () => {
      this.add([...$("file").files]);
      $("file").value = "";
    });
    document.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    document.addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("Files") || event.dataTransfer.types.includes(DRAGGED)) {
        event.preventDefault();
        document.body.classList.add("dragging");
      }
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) document.body.classList.remove("dragging");
    });
    document.addEventListener("drop", (event) => {
      document.body.classList.remove("dragging");
      this.#take(event, event.dataTransfer);
    });
  }

  /** What was dropped or pasted: files, or an image of the gallery that is being dragged. */
  #take(event, data) {
    const own = Inputs.dragged && data?.types?.includes(DRAGGED) ? [Inputs.dragged] : null;
    const files = own ?? [...(data?.files ?? [])];
    Inputs.dragged = null;
    if (!files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    this.add(files, { fromOutside: true });
  }

  /** Adds those that are images. Asks what to do where there is one already; the last answer stands. */
  async add(files, { fromOutside = false } = {}) {
    const readable = await Promise.all(files.map(isImage));
    const images = files.filter((_, index) => readable[index]);
    if (images.length < files.length) toast("Only PNG, JPEG and WebP images can be edited.");
    if (!images.length) return;
    if (fromOutside) this.#added();
    const answer = this.blobs.length && (fromOutside || this.max === 1) ? await this.#ask(images.length) : "add";
    if (answer === "replace") this.set(images.slice(0, this.max));
    if (answer !== "add") return;
    const room = this.max - this.blobs.length;
    if (images.length > room) toast(`At most ${this.max} ${this.max === 1 ? "image" : "images"} at once.`);
    this.set([...this.blobs, ...images.slice(0, Math.max(0, room))]);
  }

  #ask(count) {
    const dialog = $("second-dialog");
    $("second-add").hidden = this.blobs.length + count > this.max;
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
  }

  /** Puts these in place of what is there. A mask belongs to its image and goes with it. */
  set(blobs, mask = blobs[0] === this.blobs[0] ? this.mask : null) {
    $("thumbs").querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    this.blobs = [...blobs];
    $("thumbs").replaceChildren(...this.blobs.map((blob, index) => this.#thumb(blob, index)));
    $("drop").classList.toggle("small", this.blobs.length > 0);
    this.#setMask(mask);
  }

  /** Whether what edits can leave a part of an image as it is: films can't. */
  set canMask(can) {
    this.#canMask = can;
    this.#setMask(can ? this.mask : null);
  }

  async #paint() {
    const [image] = this.blobs;
    const mask = await this.#painter.paint(image, this.mask);
    if (mask !== undefined && this.blobs[0] === image) this.#setMask(mask);
    $("mask-open").focus();
  }

  #setMask(mask) {
    this.mask = mask;
    $("mask-open").hidden = !this.#canMask || !this.blobs.length;
    $("mask-open").textContent = mask ? "Only the painted part changes: paint again" : "Paint where to change it";
    $("mask-clear").hidden = !mask;
    $("thumbs").firstElementChild?.classList.toggle("masked", Boolean(mask));
  }

  #thumb(blob, index) {
    const remove = () => {
      this.set(this.blobs.filter((_, other) => other !== index));
      $("file").focus();
    };
    return h(
      "li",
      {},
      h("img", { src: URL.createObjectURL(blob), alt: `Image ${index + 1} to edit` }),
      h("button", { class: "icon", type: "button", "aria-label": `Remove image ${index + 1}`, onclick: remove }, "×"),
    );
  }
}
