// The adapters that the server offers, in the form: which of them, and how strongly.

import { $, h } from "./dom.js";

const MOST = 1.5; // of a weight; further is for those who write requests themselves

/** Shows what there is; a request's own stay chosen. */
export function setAdapters(names) {
  const before = chosenAdapters();
  $("loras").replaceChildren(...names.map(row));
  $("loras-field").hidden = !names.length;
  fillAdapters(before);
}

/** As a request says it: "outline:0.8, pastel:1"; empty for none. */
export function chosenAdapters() {
  return rows().filter(({ box }) => box.checked).map(({ box, slider }) => `${box.value}:${slider.value}`).join(", ");
}

/** Puts an earlier request's adapters back. */
export function fillAdapters(text = "") {
  const wanted = new Map(text.split(", ").map((one) => [one.slice(0, one.lastIndexOf(":")), one.slice(one.lastIndexOf(":") + 1)]));
  for (const { box, slider } of rows()) {
    box.checked = wanted.has(box.value);
    slider.value = wanted.get(box.value) ?? 1;
  }
  showAdapters();
}

/** The weights beside their sliders, which are there for those that are chosen. */
export function showAdapters() {
  for (const { box, slider, output } of rows()) {
    slider.hidden = output.hidden = !box.checked;
    output.textContent = slider.value;
  }
}

const rows = () => [...$("loras").children].map((item) => ({
  box: item.querySelector("[type=checkbox]"), slider: item.querySelector("[type=range]"), output: item.querySelector("output"),
}));

function row(name) {
  const box = h("input", { type: "checkbox", value: name });
  const slider = h("input", { type: "range", min: 0, max: MOST, step: 0.05, value: 1, "aria-label": `How strongly ${name} counts` });
  return h("li", { class: "slide" }, h("label", { class: "check" }, box, name), h("output"), slider);
}
