// Where an edit may change an image: painted by pointer or keyboard, or by naming a part of it.

import { $, h } from "./dom.js";

const PARTS = {
  "the left half": [0, 0, 0.5, 1],
  "the right half": [0.5, 0, 0.5, 1],
  "the upper half": [0, 0, 1, 0.5],
  "the lower half": [0, 0.5, 1, 0.5],
  "the middle": [0.25, 0.25, 0.5, 0.5],
  "all of it": [0, 0, 1, 1],
};
const PAINT = "#c026d3"; // shown half transparent, by the style sheet
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const SAMPLE = 64; // pixels a side, for the share that is painted

/** A dialog that paints on one image. What is painted is a list of strokes, so that each can be taken back. */
export class MaskPainter {
  #canvas = $("mask-canvas");
  #strokes = [];
  #brush = [0, 0]; // its place, in pixels of the image
  #open = null; // the stroke that the pointer draws

  constructor() {
    const parts = Object.keys(PARTS).map((name) => h("option", { value: name }, name));
    $("mask-part").replaceChildren(h("option", { value: "" }, "Choose a part"), ...parts);
    $("mask-part").addEventListener("change", () => {
      if ($("mask-part").value) this.#add({ box: PARTS[$("mask-part").value] });
      $("mask-part").value = "";
    });
    $("mask-size").addEventListener("input", () => this.#showBrush());
    $("mask-undo").addEventListener("click", () => this.#undo());
    $("mask-none").addEventListener("click", () => this.#set([]));
    $("mask-cancel").addEventListener("click", () => $("mask-dialog").close(""));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#canvas.addEventListener("focus", () => this.#showBrush());
    this.#canvas.addEventListener("pointerdown", (event) => this.#press(event));
    this.#canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const end of ["pointerup", "pointercancel"]) this.#canvas.addEventListener(end, () => (this.#open = null));
    $("mask-dialog").addEventListener("keydown", (event) => {
      if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.#undo();
    });
  }

  /** Resolves to a PNG that is transparent where painted, null where nothing is, or undefined where it was left. */
  async paint(image, mask = null) {
    const picture = await createImageBitmap(image);
    Object.assign(this.#canvas, { width: picture.width, height: picture.height });
    $("mask-image").src = URL.createObjectURL(image);
    $("mask-stage").style.setProperty("--ratio", picture.width / picture.height);
    picture.close();
    this.#brush = [this.#canvas.width / 2, this.#canvas.height / 2];
    this.#set(mask ? [{ mask: await createImageBitmap(mask) }] : []);
    const dialog = $("mask-dialog");
    dialog.returnValue = "";
    dialog.showModal();
    this.#canvas.focus();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    URL.revokeObjectURL($("mask-image").src);
    if (dialog.returnValue !== "done") return undefined;
    return this.#share() ? this.#png() : null;
  }

  /** Of the brush, in pixels of the image. */
  get #width() {
    return (Number($("mask-size").value) / 100) * Math.min(this.#canvas.width, this.#canvas.height);
  }

  get #erases() {
    return document.querySelector("[name=mask-tool]:checked").value === "erase";
  }

  #press(event) {
    if (event.button) return;
    event.preventDefault();
    this.#canvas.focus();
    this.#canvas.setPointerCapture(event.pointerId);
    this.#brush = this.#at(event);
    this.#open = { points: [this.#brush], width: this.#width, erases: this.#erases };
    this.#add(this.#open);
  }

  #drag(event) {
    this.#brush = this.#at(event);
    this.#showBrush();
    if (!this.#open) return;
    this.#open.points.push(this.#brush);
    this.#set(this.#strokes);
  }

  #at({ clientX, clientY }) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    return [((clientX - left) / width) * this.#canvas.width, ((clientY - top) / height) * this.#canvas.height];
  }

  /** Arrows move the brush, with Shift they paint on the way; Space paints, Delete erases. */
  #key(event) {
    const move = MOVES[event.key];
    const erases = event.key === "Delete" || event.key === "Backspace";
    if (!move && event.key !== " " && !erases) return;
    event.preventDefault();
    const from = this.#brush;
    if (move) this.#brush = from.map((one, axis) => this.#inside(one + (move[axis] * this.#width) / 2, axis));
    const stroke = { points: [from, this.#brush], width: this.#width, erases: erases || this.#erases };
    if (!move || event.shiftKey) this.#add(stroke);
    this.#showBrush();
  }

  #inside(value, axis) {
    return Math.min(Math.max(value, 0), axis ? this.#canvas.height : this.#canvas.width);
  }

  #add(stroke) {
    this.#set([...this.#strokes, stroke]);
  }

  #undo() {
    this.#set(this.#strokes.slice(0, -1));
  }

  #set(strokes) {
    this.#strokes = strokes;
    const context = this.#canvas.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    strokes.forEach((stroke) => draw(context, stroke));
    $("mask-undo").disabled = $("mask-none").disabled = !strokes.length;
    const share = this.#share();
    $("mask-said").textContent = share ? `${Math.max(1, Math.round(100 * share))}% of the image may change.` : "Nothing is painted: all of the image may change.";
    this.#showBrush();
  }

  #showBrush() {
    const { width, height } = this.#canvas;
    const style = $("mask-brush").style;
    style.setProperty("--x", `${(100 * this.#brush[0]) / width}%`);
    style.setProperty("--y", `${(100 * this.#brush[1]) / height}%`);
    style.setProperty("--width", `${(100 * this.#width) / width}%`);
    $("mask-size-out").textContent = $("mask-size").value;
  }

  /** How much is painted, 0 to 1. */
  #share() {
    const small = new OffscreenCanvas(SAMPLE, SAMPLE).getContext("2d", { willReadFrequently: true });
    small.drawImage(this.#canvas, 0, 0, SAMPLE, SAMPLE);
    const { data } = small.getImageData(0, 0, SAMPLE, SAMPLE);
    let sum = 0;
    for (let at = 3; at < data.length; at += 4) sum += data[at];
    return sum / (255 * SAMPLE * SAMPLE);
  }

  #png() {
    const { width, height } = this.#canvas;
    const sheet = new OffscreenCanvas(width, height);
    const context = sheet.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.#canvas, 0, 0);
    return sheet.convertToBlob({ type: "image/png" });
  }
}

function draw(context, { points, width, box, mask, erases = false }) {
  const { width: across, height: down } = context.canvas;
  context.globalCompositeOperation = erases ? "destination-out" : "source-over";
  context.fillStyle = context.strokeStyle = PAINT;
  if (box) context.fillRect(box[0] * across, box[1] * down, box[2] * across, box[3] * down);
  if (mask) {
    context.fillRect(0, 0, across, down);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(mask, 0, 0, across, down);
  }
  if (!points) return;
  for (const [x, y] of [points[0], points.at(-1)]) {
    context.beginPath();
    context.arc(x, y, width / 2, 0, 2 * Math.PI);
    context.fill();
  }
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.stroke();
}
