// The form: what the user wants, read into jobs; and jobs put back into the form.

import { $, h, plural } from "./dom.js";
import { fit, shapesOf } from "./limits.js";
import { Inputs } from "./inputs.js";
import { chosenAdapters, fillAdapters, showAdapters } from "./loras.js";
import * as memory from "./memory.js";
import { NOUNS, speakOf } from "./words.js";

// What the built-in model draws; see interlace/demo/shapes.py and prompts.py.
const SHAPES = /\b(circles?|squares?|triangles?|stars?|rings?|cross(es)?|hearts?|moons?|disc|disk|ball|box|crescent|donut|doughnut|plus|hoop|dot)\b/i;
const NOTES = {
  shapes: "The built-in model only knows shapes (circle, square, star, heart, …). For anything else start the server with another model.",
  size: "The built-in model draws best with sides of 112 to 192 pixels; smaller pictures come out worse.",
};
const GOOD_FROM = 112; // pixels a side, as in interlace/demo/notes.py
const SEEDS = 1e5; // random ones stay short enough to be read and typed again
const PLACEHOLDERS = {
  pictures: { create: "a large red circle on a blue background", edit: "make the background yellow" },
  film: { create: "a red fox runs through snow", edit: "the fox turns its head" },
  sound: { create: "rain on a tin roof", edit: "rain on a tin roof" },
};

export class Form {
  #all = null;
  #limits = null; // of the mode that is chosen
  #own = new Set(); // ids of fields that have a value of the user's, which other limits leave alone where they can
  #knowsShapesOnly = false;
  inputs;

  /** `submit(jobs)` gets the new jobs once `ready()` says that the limits are known; `pick()` opens the picker. */
  constructor({ ready, submit, pick }) {
    this.inputs = new Inputs(pick, () => this.setMode("edit"));
    $("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const jobs = (await ready()) ? this.#read() : this.#complain("generate", "The server can't be asked right now.");
      if (jobs) submit(jobs);
    });
    $("form").addEventListener("input", ({ target }) => (this.#own.add(target.id || target.name), this.#show()));
    $("prompt").addEventListener("input", () => memory.draft.set($("prompt").value));
    $("prompt").value = memory.draft.get();
    memory.show();
    $("history").addEventListener("change", () => {
      if ($("history").value) this.setPrompt($("history").value);
      $("history").value = "";
    });
    $("seed-clear").addEventListener("click", () => {
      $("seed").value = "";
      this.#show();
      $("seed").focus();
    });
    document.addEventListener("keydown", (event) => {
      const busy = document.querySelector("dialog[open]");
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !busy) $("form").requestSubmit();
    });
    if (/Mac|iPhone|iPad/.test(navigator.platform)) $("shortcut").textContent = "⌘ ↵";
    this.#show();
  }

  get mode() {
    return document.querySelector("[name=mode]:checked").value;
  }

  setMode(mode) {
    document.querySelector(`[name=mode][value=${mode}]`).checked = true;
    this.#show();
  }

  /** Bounds and defaults of what draws and what edits: {create, edit}. */
  setLimits(limits) {
    this.#all = limits;
    this.#show();
  }

  /** Whether the model is the built-in one, which knows nothing but shapes. */
  set knowsShapesOnly(only) {
    this.#knowsShapesOnly = only;
    this.#show();
  }

  #applyLimits(limits) {
    if (JSON.stringify(limits) === JSON.stringify(this.#limits)) return;
    this.#limits = limits;
    this.inputs.max = (this.#all.edit ?? limits).maxImages;
    speakOf(limits.makes);
    $("seconds-field").hidden = limits.makes === "pictures";
    if (!this.#own.has("seconds")) $("seconds").value = limits.seconds;
    $("shapes-field").hidden = limits.makes === "sound";
    this.#setRange("n", { max: limits.maxN, value: $("n").value });
    this.#setRange("steps", { max: limits.maxSteps, value: limits.steps });
    for (const [id, value] of [["guidance", limits.guidance], ["cfg", limits.cfg]]) {
      $(`${id}-field`).hidden = value == null;
      if (value != null) this.#setRange(id, { max: Math.max(10, 2 * value), value });
    }
    if (limits.strength != null) this.#setRange("strength", { max: 1, value: limits.strength });
    this.inputs.canMask = limits.makes === "pictures";
    for (const [id, value] of [["width", limits.width], ["height", limits.height]]) {
      const own = Number($(id).value);
      Object.assign($(id), { min: limits.minSize, max: limits.maxSize, step: limits.multiple });
      if (!this.#own.has(id) || own !== fit(own, limits)) $(id).value = value;
    }
    this.#drawShapes();
  }

  /** A slider's end, and its value unless the user has set another within it. */
  #setRange(id, { max, value }) {
    const own = $(id).value;
    $(id).max = max;
    $(id).value = this.#own.has(id) && own <= max ? own : value;
  }

  /** The settings of an earlier job, ready to be changed. */
  fill({ mode, prompt, settings, inputs = [], mask = null }) {
    this.setMode(mode);
    this.inputs.set(inputs, mask);
    $("prompt").value = prompt;
    $("each-line").checked = !prompt.includes("\n");
    this.#fillSize(settings.size);
    for (const [id, name] of [["steps", "num_inference_steps"], ["guidance", "guidance_scale"], ["cfg", "true_cfg_scale"], ["strength", "strength"]]) {
      if (settings[name] != null) (this.#own.add(id), ($(id).value = settings[name]));
    }
    if (settings.seconds) (this.#own.add("seconds"), ($("seconds").value = settings.seconds));
    $("negative").value = settings.negative_prompt ?? "";
    fillAdapters(settings.lora);
    $("seed").value = settings.seed ?? "";
    $("n").value = 1;
    memory.draft.set(prompt);
    this.#show();
  }

  setPrompt(prompt) {
    $("prompt").value = prompt;
    memory.draft.set(prompt);
    this.#show();
    $("prompt").focus();
  }

  /** Jobs for these prompts with the settings as they are. Those of one prompt are variations, of one group. */
  jobs(prompts, { mode = this.mode, n = Number($("n").value), group = null } = {}) {
    const seed = $("seed").value.trim();
    const [inputs, mask] = mode === "edit" ? [this.inputs.blobs, this.inputs.mask] : [[], null];
    const makes = this.#limits?.makes ?? "pictures";
    return prompts.flatMap((prompt) => {
      const own = group ?? (n > 1 ? newId() : null);
      return Array.from({ length: n }, (_, index) => {
        const settings = this.#settings(mode, seed === "" ? randomSeed() : Number(seed) + index);
        return { id: newId(), group: own, mode, makes, prompt, settings, inputs, mask, numSteps: settings.num_inference_steps };
      });
    });
  }

  #settings(mode, seed) {
    const settings = { size: this.#size(mode), num_inference_steps: Number($("steps").value), seed };
    if (this.#limits && this.#limits.makes !== "pictures") settings.seconds = $("seconds").value.trim();
    if (this.#limits?.makes === "sound") delete settings.size;
    if (this.#limits?.guidance != null) settings.guidance_scale = Number($("guidance").value);
    if (this.#limits?.cfg != null) settings.true_cfg_scale = Number($("cfg").value);
    if (mode === "edit" && this.#limits?.strength != null) settings.strength = Number($("strength").value);
    if (chosenAdapters()) settings.lora = chosenAdapters();
    if ($("negative").value.trim()) settings.negative_prompt = $("negative").value.trim();
    return settings;
  }

  #read() {
    const problem = this.#problem();
    if (problem) return this.#complain(...problem);
    $("problem").hidden = true;
    memory.remember($("prompt").value.trim());
    return this.jobs(this.#prompts());
  }

  #complain(id, text) {
    $("problem").textContent = text;
    $("problem").hidden = false;
    if ($(id).closest("details")) $("more").open = true;
    $(id).focus();
    return null;
  }

  /** [id of the field, what is wrong], or nothing. */
  #problem() {
    if (!this.#prompts().length) return ["prompt", `Write what you would like to ${this.#limits.makes === "sound" ? "hear" : "see"}.`];
    if (this.mode === "edit" && !this.inputs.blobs.length) return ["file", this.#limits.makes === "film" ? "Add the image that the film begins with." : "Add the image that you want to edit."];
    if (!/^\d*$/.test($("seed").value.trim()) || Number($("seed").value) >= 2 ** 53) {
      return ["seed", "A seed is a whole number, or nothing for a random one."];
    }
    if (this.#limits.makes !== "pictures" && !/^\d{1,4}(\.\d{1,3})?$/.test($("seconds").value.trim())) {
      return ["seconds", "A length is a number of seconds, such as 2.5."];
    }
    if (this.#limits.makes !== "sound" && this.#shape() === "custom") return this.#sizeProblem("width") ?? this.#sizeProblem("height");
    return null;
  }

  #sizeProblem(id) {
    const { minSize, maxSize, multiple } = this.#limits;
    const side = Number($(id).value);
    if (side === fit(side, this.#limits)) return null;
    return [id, `The ${id} has to be a multiple of ${multiple} from ${minSize} to ${maxSize}.`];
  }

  #prompts() {
    const text = $("prompt").value.trim();
    if (!text) return [];
    return $("each-line").checked ? linesOf(text) : [text];
  }

  #shape() {
    return document.querySelector("[name=shape]:checked")?.value ?? "auto";
  }

  #size(mode) {
    const shape = this.#shape();
    if (shape === "custom") return `${Number($("width").value)}x${Number($("height").value)}`;
    if (shape === "auto" && mode !== "edit") return `${this.#limits?.width}x${this.#limits?.height}`;
    return shape;
  }

  #fillSize(size = "auto") {
    ["shape", "width", "height"].forEach((name) => this.#own.add(name));
    const known = document.querySelector(`[name=shape][value="${CSS.escape(size)}"]`);
    if (known) known.checked = true;
    else {
      document.querySelector("[name=shape][value=custom]").checked = true;
      [$("width").value, $("height").value] = size.split("x");
    }
  }

  #drawShapes() {
    const before = this.#own.has("shape") ? nameOf(document.querySelector("[name=shape]:checked")) : null;
    const shapes = shapesOf(this.#limits).map(([name, width, height]) => {
      const scale = 18 / Math.max(width, height);
      return choice(`${width}x${height}`, icon(width * scale, height * scale), h("b", {}, name), h("small", {}, `${width} × ${height}`));
    });
    const auto = choice("auto", h("b", {}, "Same as the image"));
    auto.id = "shape-auto";
    auto.hidden = true; // until an edit shows and takes it
    const other = choice("custom", icon(18, 18, "dashed"), h("b", {}, "Other"), h("small", {}, "you choose"));
    $("shapes").replaceChildren(auto, ...shapes, other);
    const own = [...shapes, other].find((one) => nameOf(one.querySelector("input")) === before);
    (own ?? shapes[0]).querySelector("input").checked = true;
  }

  #show() {
    const editing = this.mode === "edit";
    if (this.#all) this.#applyLimits(this.#all[this.mode]);
    $("inputs").hidden = !editing;
    $("strength-field").hidden = !editing || this.#limits?.strength == null;
    const changes = editing && this.#limits?.makes === "pictures"; // a film only begins with its image
    $("prompt-label").textContent = changes ? "What to change" : "Prompt";
    $("prompt").placeholder = PLACEHOLDERS[this.#limits?.makes ?? "pictures"][this.mode];
    this.#showAuto(editing);
    $("custom").hidden = this.#shape() !== "custom";
    showAdapters();
    for (const id of ["n", "steps", "guidance", "cfg", "strength"]) $(`${id}-out`).textContent = $(id).value;
    const lines = linesOf($("prompt").value).length;
    $("lines").hidden = lines < 2;
    $("prompt-hint").hidden = lines >= 2;
    $("lines-text").textContent = `${lines} prompts, one a line`;
    const count = this.#prompts().length * Number($("n").value);
    $("generate-text").textContent = `${changes ? "Edit" : "Generate"}${count > 1 ? ` ${plural(count, NOUNS[this.#limits?.makes] ?? "image")}` : ""}`;
    if ($("prompt").value) $("problem").hidden = true;
    $("seed-clear").hidden = $("seed").value === "";
    this.#note(editing);
  }

  /** What the built-in model does not know: anything but shapes, and small sizes. */
  #note(editing) {
    const strange = this.#prompts().some((prompt) => !SHAPES.test(prompt));
    const small = this.#limits && String(this.#size(this.mode)).split("x").some((side) => Number(side) < GOOD_FROM);
    const said = [strange && NOTES.shapes, small && NOTES.size].filter(Boolean);
    $("shapes-note").textContent = said.join(" ");
    $("shapes-note").hidden = editing || !this.#knowsShapesOnly || !said.length;
  }

  #showAuto(editing) {
    const auto = $("shape-auto");
    if (!auto || auto.hidden === !editing) return;
    auto.hidden = !editing;
    const other = auto.nextElementSibling.querySelector("input");
    (editing ? auto.querySelector("input") : other).checked = true;
  }
}

const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const randomSeed = () => Math.floor(Math.random() * SEEDS);

/** A request's id: never used before, as the server remembers the old ones. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(9)); // randomUUID is missing where the page is served without TLS
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function choice(value, ...content) {
  return h("label", {}, h("input", { type: "radio", name: "shape", value }), h("span", {}, ...content));
}

/** What a choice of shape is called; its size may be another for another model. */
const nameOf = (input) => input?.parentElement.querySelector("b").textContent;

function icon(width, height, name) {
  const element = h("i", { "aria-hidden": "true", class: name });
  element.style.width = `${width}px`;
  element.style.height = `${height}px`;
  return element;
}
