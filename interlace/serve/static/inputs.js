// The images to edit: chosen, dropped, pasted or picked.

import { $, h, toast } from "./dom.js";

export class Inputs {
  blobs = [];
  max = 4;
  #added;

  /** `pick()` opens the gallery's picker; `added()` is called when images arrive from outside the form. */
  constructor(pick, added) {
    this.#added = added;
    $("pick").addEventListener("click", pick);
    $("file").addEventListener("change", () => {
      this.add([...$("file").files]);
      $("file").value = "";
    });
    document.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    document.addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("Files")) {
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

  #take(event, data) {
    const files = [...(data?.files ?? [])];
    if (!files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    this.#added();
    this.add(files);
  }

  add(files) {
    const images = files.filter((file) => /^image\/(png|jpeg|webp)$/.test(file.type));
    if (images.length < files.length) toast("Only PNG, JPEG and WebP images can be edited.");
    const room = this.max - this.blobs.length;
    if (images.length > room) toast(`At most ${this.max} images at once.`);
    this.set([...this.blobs, ...images.slice(0, Math.max(0, room))]);
  }

  set(blobs) {
    $("thumbs").querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
    this.blobs = [...blobs];
    $("thumbs").replaceChildren(...this.blobs.map((blob, index) => this.#thumb(blob, index)));
    $("drop").classList.toggle("small", this.blobs.length > 0);
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
