// What the model makes, in the page's words. The document's own texts say {noun}, {nouns} or {Nouns} in `data-words`
// and `data-label`; what stands in the markup is for images.

import { $ } from "./dom.js";

export const NOUNS = { pictures: "image", film: "film", sound: "sound" };

// What to start from; the built-in model knows shapes only.
const EXAMPLES = {
  shapes: [
    "a large red circle on a blue background",
    "a yellow star above a green square on a white background",
    "a pink heart in the center on a black background",
    "a small white moon on a purple background",
  ],
  pictures: [
    "a lighthouse on a cliff at dusk",
    "a watercolour of a fox in the snow",
    "a bowl of oranges on a wooden table",
    "an isometric drawing of a tiny village",
  ],
  film: ["a red fox runs through fresh snow", "waves break on a rocky shore at dusk"],
  sound: ["rain on a tin roof", "a dog barks twice, far away", "a calm piano in a large hall"],
};

/** The noun for jobs of these kinds: of several kinds "result". */
export function nounOf(kinds) {
  const [kind, ...more] = new Set([...kinds].map((one) => one ?? "pictures"));
  return more.length ? "result" : NOUNS[kind];
}

/** Prompts to start from with a model, of /info. */
export const examplesFor = (info) => EXAMPLES[info?.model === "demo" ? "shapes" : info?.makes] ?? EXAMPLES.shapes;

/** Has the document speak of what a model `makes`. */
export function speakOf(makes) {
  const noun = NOUNS[makes] ?? "image";
  const fill = (text) =>
    text.replace("{Nouns}", `${noun[0].toUpperCase()}${noun.slice(1)}s`).replace("{nouns}", `${noun}s`).replace("{noun}", noun);
  for (const element of document.querySelectorAll("[data-words]")) element.textContent = fill(element.dataset.words);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = fill(element.dataset.label);
  $("empty-title").textContent = { film: "What should it show?", sound: "What should it sound like?" }[makes] ?? "What should it draw?";
}
