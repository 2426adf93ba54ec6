// What the form remembers until its tab is closed: the prompt that is being written, and those that were sent.

import { $, h } from "./dom.js";

const DRAFT = "interlace-draft";
const HISTORY = "interlace-prompts";
const KEPT = 30;

/** Private windows may have no storage: then nothing is remembered. */
function read(key, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    // full, or not allowed
  }
}

export const draft = { get: () => read(DRAFT, ""), set: (text) => write(DRAFT, text) };

/** Puts a prompt in front of those that were sent. */
export function remember(text) {
  if (!text.trim()) return;
  write(HISTORY, [text, ...read(HISTORY, []).filter((one) => one !== text)].slice(0, KEPT));
  show();
}

/** Fills the list of earlier prompts; it is hidden while there are none. */
export function show() {
  const texts = read(HISTORY, []);
  const short = (text) => (text.length > 70 ? `${text.slice(0, 69)}…` : text).replaceAll("\n", " · ");
  const options = texts.map((text) => h("option", { value: text }, short(text)));
  $("history").replaceChildren(h("option", { value: "" }, "Earlier prompts"), ...options);
  $("history").hidden = texts.length === 0;
}
