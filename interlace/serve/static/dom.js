// Small helpers for the document. Text goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** An element: h("li", {class: "x", onclick: f}, "text", otherElement). Falsy children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** Says something to screen readers. */
export function announce(text) {
  $("announce").textContent = text;
}

let hiding = 0;
// A line that stood in a dialog stays when that closes; the event does not bubble.
document.addEventListener("close", () => document.body.append($("toast")), true);

/** A line at the bottom for a few seconds, with a way back (or on: `label`) where there is one. */
export function toast(text, undo, label = "Undo") {
  // What lies outside an open dialog can't be clicked.
  (document.querySelector("dialog[open]") ?? document.body).append($("toast"));
  $("toast-text").textContent = text;
  $("toast-undo").hidden = !undo;
  $("toast-undo").textContent = label;
  $("toast-undo").onclick = () => {
    $("toast").hidden = true;
    undo();
  };
  $("toast").hidden = false;
  announce(text);
  clearTimeout(hiding);
  hiding = setTimeout(() => ($("toast").hidden = true), undo ? 8000 : 3500);
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
