// The page of a speaking server: a chat whose answers are read aloud while they are made.
import { Player, Recorder, wavOf } from "/static/sound.js";

const by = (id) => document.getElementById(id);
const messages = [];
let files = [];
let running = null;
let info = { voices: [], sample_rate: 24000 };

async function start() {
  try {
    info = await (await fetch("/info")).json();
    by("model").textContent = info.model ?? "";
    for (const voice of info.voices ?? []) by("voice").add(new Option(voice, voice));
    const speaks = (info.voices ?? []).length > 0;
    by("aloud").checked = speaks;
    by("aloud").disabled = by("voice").disabled = !speaks;
  } catch (error) {
    by("status").textContent = String(error);
  }
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function partOf(file) {
  if (file.type.startsWith("image/") && file.type !== "image/gif") {
    return { type: "image_url", image_url: { url: await dataUrl(file) } };
  }
  if (file.type.startsWith("audio/")) {
    const url = await dataUrl(await wavOf(file));
    return { type: "input_audio", input_audio: { data: url.split(",")[1], format: "wav" } };
  }
  return { type: "video_url", video_url: { url: await dataUrl(file) } };
}

function addFiles(list) {
  files = [...files, ...list];
  by("files").replaceChildren(...files.map((file, index) => {
    const item = document.createElement("li");
    const drop = document.createElement("button");
    drop.type = "button";
    drop.textContent = "×";
    drop.setAttribute("aria-label", `Leave out ${file.name}`);
    drop.onclick = () => { files.splice(index, 1); addFiles([]); };
    item.append(`${file.name} `, drop);
    return item;
  }));
}

function show(role, text) {
  const article = document.createElement("article");
  article.className = role;
  const line = document.createElement("p");
  line.textContent = text;
  article.append(line);
  by("log").append(article);
  article.scrollIntoView({ block: "end" });
  return { article, line };
}

function showFile(article, file) {
  const kind = file.type.startsWith("audio/") ? "audio" : file.type.startsWith("video/") ? "video" : "img";
  const element = document.createElement(kind);
  if (kind !== "img") element.controls = true;
  element.src = URL.createObjectURL(file);
  article.append(element);
}

async function send(event) {
  event.preventDefault();
  const text = by("text").value.trim();
  if (running || (!text && !files.length)) return;
  const sent = files;
  const content = [];
  try {
    for (const file of sent) content.push(await partOf(file));
  } catch (error) {
    show("error", `${error}`);
    return;
  }
  if (text) content.push({ type: "text", text });
  const mine = show("user", text);
  for (const file of sent) showFile(mine.article, file);
  messages.push({ role: "user", content });
  by("text").value = "";
  files = [];
  addFiles([]);
  await answer();
}

async function answer() {
  const aloud = by("aloud").checked;
  const player = aloud ? new Player(info.sample_rate ?? 24000) : null;
  const shown = show("assistant", "");
  running = new AbortController();
  by("stop").disabled = false;
  by("send").disabled = true;
  const body = { messages, stream: true, modalities: aloud ? ["text", "audio"] : ["text"] };
  if (aloud) body.audio = { voice: by("voice").value, format: "pcm16" };
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const chunk of eventsOf(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices?.[0]?.delta ?? {};
      if (delta.content) shown.line.textContent += delta.content;
      if (delta.audio?.data) player?.play(delta.audio.data);
      shown.article.scrollIntoView({ block: "end" });
    }
    messages.push({ role: "assistant", content: shown.line.textContent });
  } catch (error) {
    messages.pop();
    if (error.name !== "AbortError") show("error", error.message);
  } finally {
    const sound = player?.file();
    if (sound) showFile(shown.article, sound);
    running = null;
    by("stop").disabled = true;
    by("send").disabled = false;
  }
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const frames = rest.split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const line = frame.split("\n").find((one) => one.startsWith("data: "));
      if (line && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

const recorder = new Recorder();
by("record").onclick = async () => {
  try {
    if (!recorder.running) {
      await recorder.start();
      by("record").textContent = "Done";
    } else {
      by("record").textContent = "Speak";
      addFiles([await recorder.stop()]);
    }
  } catch (error) {
    show("error", `no microphone: ${error.message}`);
  }
};
by("stop").onclick = () => running?.abort();
by("file").onchange = (event) => { addFiles(event.target.files); event.target.value = ""; };
by("form").onsubmit = send;
by("text").onkeydown = (event) => { if (event.key === "Enter" && !event.shiftKey) send(event); };
document.body.ondragover = (event) => { event.preventDefault(); by("form").classList.add("over"); };
document.body.ondragleave = () => by("form").classList.remove("over");
document.body.ondrop = (event) => {
  event.preventDefault();
  by("form").classList.remove("over");
  addFiles(event.dataTransfer.files);
};
start();
