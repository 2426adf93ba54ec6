// Which of a server's models draws; hidden where there is only one.

import { h } from "./dom.js";

export class Models {
  #select;

  /** `chosen(name)` hears when another is taken. */
  constructor(select, chosen) {
    this.#select = select;
    select.addEventListener("change", () => chosen(select.value));
  }

  /** What requests are to name; nothing where there is no choice. */
  get body() {
    return this.#select.hidden ? {} : { model: this.#select.value };
  }

  /** From the answer of /info, whose `loading` lists each model and where it stands. */
  show({ loading = [], model }) {
    const before = this.#select.value;
    this.#select.hidden = loading.length < 2;
    document.getElementById("server-text").hidden = loading.length > 1;
    this.#select.replaceChildren(...loading.map(({ id }) => h("option", { value: id }, id.split("/").at(-1))));
    this.#select.value = loading.some(({ id }) => id === before) ? before : model;
  }
}
