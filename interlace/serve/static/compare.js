// Images beside each other in the viewer: an edit over the image before, and variations as a grid.

import { $, h } from "./dom.js";

/** A divider over an edit: left of it is the image before. Moved by the slider below, or on the image itself. */
export class BeforeAfter {
  constructor() {
    $("viewer-split").addEventListener("input", () => this.#show());
    const drag = (event) => {
      if ($("viewer-split-field").hidden || !(event.buttons & 1)) return;
      const { left, width } = $("viewer-shown").getBoundingClientRect();
      $("viewer-split").value = Math.round((100 * (event.clientX - left)) / width);
      this.#show();
    };
    $("viewer-shown").addEventListener("pointerdown", (event) => {
      if (!$("viewer-split-field").hidden) $("viewer-shown").setPointerCapture(event.pointerId);
      drag(event);
    });
    $("viewer-shown").addEventListener("pointermove", drag);
  }

  /** `before` is the image that was edited, or null where there was none. */
  open(before) {
    URL.revokeObjectURL($("viewer-old").src);
    $("viewer-old").hidden = $("viewer-split-field").hidden = !before;
    if (before) $("viewer-old").src = URL.createObjectURL(before);
    else $("viewer-old").removeAttribute("src");
    $("viewer-split").value = 0;
    this.#show();
  }

  #show() {
    const share = Number($("viewer-split").value);
    $("viewer-shown").style.setProperty("--split", `${share}%`);
    $("viewer-shown").classList.toggle("split", share > 0 && !$("viewer-split-field").hidden);
    $("viewer-split").ariaValueText = share === 0 ? "the image after" : share === 100 ? "the image before" : `${share}% of the image before`;
  }
}

/** The variations of an image side by side. */
export class Variations {
  #jobs = [];
  #pick;
  #url;

  /** `pick(job)` is called with the one that is chosen; `url(job)` is its image. */
  constructor({ pick, url }) {
    [this.#pick, this.#url] = [pick, url];
    $("viewer-siblings").addEventListener("click", () => this.#show($("viewer-siblings").ariaPressed !== "true"));
  }

  /** `jobs` are all variations, `job` among them; fewer than two are none. */
  open(job, jobs) {
    this.#jobs = jobs;
    $("viewer-siblings").hidden = jobs.length < 2;
    const images = jobs.map((one, index) => {
      const name = `Variation ${index + 1} of ${jobs.length}`;
      const image = h("img", { src: this.#url(one), alt: "" });
      return h("li", {}, h("button", { type: "button", "aria-label": name, "aria-current": one === job && "true", onclick: () => this.#pick(one) }, image));
    });
    $("viewer-grid").replaceChildren(...images);
    this.#show(false);
  }

  #show(grid) {
    $("viewer-grid").hidden = !grid;
    $("viewer-single").hidden = grid;
    if (grid) $("viewer-stage").scrollIntoView({ block: "nearest" });
    $("viewer-siblings").ariaPressed = String(grid);
    $("viewer-siblings").textContent = grid ? "Show one image" : `Show ${this.#jobs.length} variations side by side`;
  }
}
