// The engine, live: a thread for every request, and a tile in each forward that the request shared.

import { $, h, plural } from "./dom.js";

const THREADS = 8;
const LANES = 8; // shown at once
const PITCH = 14; // pixels from one forward to the next
const BUSY_MS = 250;
const IDLE_MS = 1500;
const LINGER_MS = 20_000; // open after the last request

export class Engine {
  #lanes = Array(LANES).fill(null); // request ids
  #threads = new Map(); // id -> number of its colour
  #forwards = []; // newest last: [{lane, thread}]
  #count = -1;
  #load;
  #follow;
  #lastBusy = -Infinity;
  noun = "image"; // what the figures speak of
  #byHand = null; // whether it is open, where the user has said so

  /** `load()` resolves to /v1/stats; `follow(stats)` hears of each and says whether to look again soon. */
  constructor(load, follow) {
    this.#load = load;
    this.#follow = follow;
    new ResizeObserver(() => this.#draw()).observe($("weave"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    $("engine-fold").addEventListener("click", () => {
      this.#byHand = $("loom").hidden;
      this.#fold(false);
    });
    document.addEventListener("visibilitychange", () => !document.hidden && this.wake());
    this.wake();
  }

  /** The colour of a request: the same on its card, its lane and its tiles. */
  colour = (id) => `var(--thread-${this.#thread(id)})`;

  /** Looks now, and keeps looking. */
  wake() {
    clearTimeout(this.timer);
    this.#look();
  }

  async #look() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const stats = await this.#load().catch(() => null);
    if (stats) this.#show(stats);
    const soon = this.#follow(stats) || (stats && stats.running.length + stats.waiting.length > 0);
    if (turn === this.turn && !document.hidden) this.timer = setTimeout(() => this.#look(), soon ? BUSY_MS : IDLE_MS);
  }

  #thread(id) {
    if (!this.#threads.has(id)) {
      const taken = new Set([...this.#threads.values()].slice(-THREADS + 1));
      const free = Array.from({ length: THREADS }, (_, index) => index).find((index) => !taken.has(index));
      this.#threads.set(id, free ?? this.#threads.size % THREADS);
    }
    return this.#threads.get(id);
  }

  #show(stats) {
    const running = new Map(stats.running.map((request) => [request.id, request]));
    this.#lanes = this.#lanes.map((id) => (running.has(id) ? id : null));
    for (const id of running.keys()) {
      const free = this.#lanes.indexOf(null);
      if (free >= 0 && !this.#lanes.includes(id)) this.#lanes[free] = id;
    }
    this.#note(stats);
    if (running.size) $("about").hidden = true;
    this.#fold(running.size > 0);
    const sharing = new Set(stats.forwarding);
    $("lanes").replaceChildren(...this.#lanes.map((id) => this.#lane(running.get(id), sharing)));
    this.#sentence(stats);
    this.#draw();
  }

  /** Open while something runs and for a while after; once the user has folded it by hand, as that left it. */
  #fold(busy) {
    if (busy) this.#lastBusy = Date.now();
    const open = this.#byHand ?? Date.now() - this.#lastBusy < LINGER_MS;
    if ($("loom").hidden === !open) return;
    $("loom").hidden = !open;
    $("engine-why").hidden = !open;
    $("engine-fold").ariaExpanded = String(open);
    $("engine-fold").textContent = open ? "Hide" : "Show";
    this.#draw();
  }

  #note({ forwards, forwarding }) {
    const count = Object.values(forwards ?? {}).reduce((sum, value) => sum + value, 0);
    if (!forwarding?.length || count === this.#count) return;
    this.#count = count;
    const tiles = forwarding.map((id) => ({ lane: this.#lanes.indexOf(id), thread: this.#thread(id) }));
    this.#forwards.push(tiles.filter(({ lane }) => lane >= 0));
    this.#forwards = this.#forwards.slice(-200);
  }

  #lane(request, sharing) {
    if (!request) return h("li", { class: "lane idle", "aria-hidden": "true" });
    const lane = h(
      "li",
      { class: `lane${sharing.has(request.id) ? " now" : ""}` },
      h("i", { "aria-hidden": "true" }),
      h("span", { class: "lane-prompt" }, request.prompt ?? "another request"),
      h("span", { class: "lane-step" }, request.num_steps ? `${request.step}/${request.num_steps}` : ""),
    );
    lane.style.setProperty("--thread", this.colour(request.id));
    return lane;
  }

  #sentence({ running, waiting, forwarding, mean_rows: rows, images_per_s: rate }) {
    const sharing = forwarding?.length ?? 0;
    const unseen = running.length - this.#lanes.filter(Boolean).length;
    const parts = [
      sharing > 1 ? `${sharing} requests share this pass` : running.length ? plural(running.length, "request") : "Idle",
      unseen > 0 && `${unseen} more running`,
      waiting.length > 0 && `${waiting.length} waiting`,
    ];
    $("engine-now").textContent = parts.filter(Boolean).join(" · ");
    const most = Math.max(0, ...Object.values(rows ?? {}));
    const figures = [["together", most], [`${this.noun}s/s`, rate]].filter(([, value]) => value > 0);
    $("figures").replaceChildren(
      ...figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value.toFixed(value < 10 ? 1 : 0)))),
    );
  }

  #draw() {
    const canvas = $("weave");
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const colours = Array.from({ length: THREADS }, (_, index) => style.getPropertyValue(`--thread-${index}`));
    const row = height / LANES;
    const middle = (lane) => (lane + 0.5) * row;
    pen.fillStyle = style.getPropertyValue("--line");
    for (let lane = 0; lane < LANES; lane++) pen.fillRect(0, Math.round(middle(lane)), width, 1);
    const shown = this.#forwards.slice(-Math.ceil(width / PITCH));
    shown.forEach((tiles, index) => {
      const age = shown.length - 1 - index;
      this.#column(pen, tiles, width - PITCH * (age + 1) + 3, { middle, colours, age, style, width });
    });
  }

  #column(pen, tiles, x, { middle, colours, age, style, width }) {
    const lanes = tiles.map(({ lane }) => lane);
    pen.globalAlpha = age === 0 ? 1 : Math.max(0.08, 0.8 * (1 - (age * PITCH) / width));
    if (lanes.length > 1) {
      pen.fillStyle = style.getPropertyValue("--ink-soft");
      const top = middle(Math.min(...lanes));
      pen.fillRect(x + 4, top, 1, middle(Math.max(...lanes)) - top);
    }
    for (const { lane, thread } of tiles) {
      pen.fillStyle = colours[thread];
      pen.beginPath();
      pen.roundRect(x, middle(lane) - 4.5, 9, 9, 2.5);
      pen.fill();
    }
    pen.globalAlpha = 1;
  }
}
