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

/** A line at the bottom for a few seconds, with a way back where there is one. */
export function toast(text, undo) {
  $("toast-text").textContent = text;
  $("toast-undo").hidden = !undo;
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
