// The page of the server: puts form, queue, gallery, viewer and engine together.

import * as api from "./api.js";
import * as store from "./store.js";
import { $, announce, h, plural, toast } from "./dom.js";
import { Engine } from "./engine.js";
import { Form, newId } from "./form.js";
import { Gallery, fileName, isPicture } from "./gallery.js";
import { limitsOf } from "./limits.js";
import { setAdapters } from "./loras.js";
import { Models } from "./models.js";
import { Queue } from "./queue.js";
import { Viewer } from "./viewer.js";
import { NOUNS, examplesFor, nounOf } from "./words.js";
import { zip } from "./zip.js";

let examples = []; // prompts that the empty gallery offers
let declined = false; // the user closed the dialog that asks for a key: then only a new request asks again

const engine = new Engine(() => api.get("v1/stats", { ask: !declined }), heard);
const gallery = new Gallery({ open: (job) => viewer.open(job), cancel, retry, dismiss, reuse, edit, colour: engine.colour });
const viewer = new Viewer(gallery, { reuse, edit, again, variations, remove });
const queue = new Queue(changed);
const form = new Form({ ready, submit: start, pick });

function start(jobs) {
  declined = false;
  jobs.forEach((job) => Object.assign(job.settings, models.body));
  gallery.add(jobs.map((job) => Object.assign(job, { state: "waiting" })));
  queue.add(jobs);
  engine.wake();
  announce(`${plural(jobs.length, NOUNS[jobs[0].makes])} asked for`);
  if (matchMedia("(max-width: 860px)").matches) scrollTo({ top: 0, behavior: "smooth" });
}

function changed(job) {
  if (job.state === "cancelled") {
    const index = gallery.remove(job);
    if (document.activeElement === document.body) gallery.focus(null, index);
    return;
  }
  gallery.update(job);
  if (job.state === "done") {
    store.put(recordOf(job));
    announce(`Done: ${job.prompt}`);
  }
}

const recordOf = ({ id, group, mode, makes, prompt, settings, inputs, mask, blob, size, timings, warnings, at }) => ({
  id, group, mode, makes, prompt, settings, inputs, mask, blob, size, timings, warnings, at,
});

function cancel(job) {
  queue.cancel(job.id);
  toast("Cancelled");
}

function cancelAll() {
  const open = queue.open;
  open.forEach((job) => queue.cancel(job.id));
  toast(`${plural(open.length, "request")} cancelled`);
}

function retry(job) {
  const anew = { ...job, id: newId(), state: "waiting" };
  gallery.add([anew], gallery.remove(job));
  gallery.focus(anew);
  queue.add([anew]);
  engine.wake();
}

function dismiss(job) {
  gallery.focus(null, gallery.remove(job));
}

function reuse(job) {
  form.fill(job);
  $("prompt").focus();
  toast(`Settings taken over, with seed ${job.settings.seed}`, () => $("seed-clear").click(), "New seed each time");
}

function edit(job) {
  form.setMode("edit");
  form.inputs.set([job.blob]);
  form.setPrompt("");
}

function again(job) {
  form.fill(job);
  $("seed").value = "";
  start(form.jobs([job.prompt], { mode: job.mode, n: 1 }));
}

/** Four more of the same with other seeds, shown side by side with the first. */
function variations(job) {
  form.fill(job);
  $("seed").value = "";
  job.group ??= job.id;
  store.put(recordOf(job));
  start(form.jobs([job.prompt], { mode: job.mode, n: 4, group: job.group }));
}

async function downloadAll() {
  const archive = await zip(gallery.done.map((job) => [fileName(job), job.blob]));
  const link = h("a", { href: URL.createObjectURL(archive), download: "interlace.zip" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function remove(job) {
  const index = gallery.remove(job);
  store.remove(job.id);
  toast("Removed", () => {
    gallery.add([job], Math.min(index, gallery.jobs.length));
    store.put(recordOf(job));
  });
}

function clear() {
  const done = gallery.done;
  done.forEach((job) => (gallery.remove(job), store.remove(job.id)));
  toast(`${plural(done.length, nounOf(done.map((job) => job.makes)))} removed`, () => {
    gallery.add(done, gallery.jobs.length);
    done.forEach((job) => store.put(recordOf(job)));
  });
}

function pick() {
  const choices = gallery.done.filter(isPicture).map((job) => {
    const take = () => {
      form.inputs.add([job.blob]);
      $("picker").close();
      $("prompt").focus();
    };
    const image = h("img", { src: gallery.url(job), alt: job.prompt });
    return h("li", {}, h("button", { type: "button", onclick: take, "aria-label": job.prompt }, image));
  });
  if (!choices.length) toast("The gallery is empty so far.");
  else {
    $("picks").replaceChildren(...choices);
    $("picker").showModal();
  }
}

let reachable = null;

/** Hears the engine's figures, or null when the server gave none. True while something of ours is on its way. */
function heard(stats) {
  if (stats) queue.follow(stats);
  if (reachable !== Boolean(stats)) {
    reachable = Boolean(stats);
    $("server").classList.toggle("off", !reachable);
    if (reachable) introduce();
    else $("server-text").textContent = declined ? "Needs a key" : "Server not reachable";
  }
  return reachable && queue.open.length > 0;
}

const models = new Models($("model"), choose);
let known = false; // what the model can take
let adapters = []; // of the model that the server began with

async function introduce({ ask = false } = {}) {
  const info = await api.get("info", { ask }).catch(() => null);
  if (!info) return;
  known = true;
  $("server-text").textContent = info.model;
  models.show(info);
  take(info);
  const { data } = await api.get("v1/loras", { ask }).catch(() => ({ data: [] }));
  adapters = data.map((one) => one.id);
  setAdapters(adapters);
}

/** The chosen model's limits and kind; of one that isn't loaded nothing is known before its first picture. */
async function choose(name) {
  const info = await api.get(`info?model=${encodeURIComponent(name)}`).catch(() => null);
  if (info) take(info);
  else form.setLimits(limitsOf(null));
  setAdapters(name === $("server-text").textContent ? adapters : []);
}

function take(info) {
  const limits = limitsOf(info);
  form.setLimits(limits);
  engine.noun = nounOf([limits.create.makes]);
  showExamples(examplesFor(info));
  form.knowsShapesOnly = info.model === "demo";
  document.body.classList.toggle("draws-only", info.editing === null);
}

async function ready() {
  if (!known) await introduce({ ask: true });
  return known;
}

function askForKey(again) {
  const dialog = $("key-dialog");
  if (!dialog.open) {
    $("key").value = "";
    $("key-title").textContent = again ? "That key was not accepted" : "This server asks for a key";
    dialog.returnValue = "";
    dialog.showModal();
  }
  return new Promise((resolve) => {
    const closed = () => {
      declined = dialog.returnValue !== "given" || !$("key").value.trim();
      resolve(declined ? null : $("key").value.trim());
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}

function showExamples(prompts) {
  examples = prompts;
  const items = prompts.map((prompt) =>
    h("li", {}, h("button", { type: "button", onclick: () => form.setPrompt(prompt) }, prompt)),
  );
  $("examples").replaceChildren(...items);
}

api.onKeyWanted(askForKey);
form.setLimits(limitsOf(null));
showExamples(examplesFor(null));
$("run-examples").addEventListener("click", async () => {
  if (await ready()) start(form.jobs(examples, { mode: "create", n: 1 }));
});
$("cancel-all").addEventListener("click", cancelAll);
$("clear").addEventListener("click", clear);
$("download-all").addEventListener("click", downloadAll);
$("picker-close").addEventListener("click", () => $("picker").close());
const kept = await store.all();
gallery.add(kept.reverse().map((record) => ({ ...record, state: "done" })), gallery.jobs.length);
