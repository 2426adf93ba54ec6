// The server's API: JSON calls, streams of events, and the key. Knows nothing of the document.

const KEY = "interlace-key";
let askForKey = async () => null;

/** `ask` resolves to a key, or to null when the user would rather not. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function send(path, { headers = {}, ask = true, ...options } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const authorization = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch(path, { cache: "no-store", ...options, headers: { ...headers, ...authorization } });
    if (response.ok) return response;
    if (response.status === 401 && key !== sessionStorage.getItem(KEY)) continue; // another call got a new key
    if (response.status === 401 && ask) {
      const given = await askForKey(Boolean(key));
      if (given) {
        sessionStorage.setItem(KEY, given);
        continue;
      }
    }
    throw await errorOf(response);
  }
}

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  const message = error.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  return new ApiError(message, response.status, error.code);
}

/** `ask`: whether the user may be asked for a key. */
export const get = async (path, { ask } = {}) => (await send(path, { ask })).json();
export const cancel = (id) => send(`v1/requests/${encodeURIComponent(id)}`, { method: "DELETE" });

/** Posts a body (an object goes as JSON, a FormData as it is) and yields the events of the answer. */
export async function* stream(path, body, { id, signal }) {
  const json = !(body instanceof FormData);
  const headers = { "X-Request-Id": id, Accept: "text/event-stream", ...(json && { "Content-Type": "application/json" }) };
  const response = await send(path, { method: "POST", headers, body: json ? JSON.stringify(body) : body, signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(event.error.message ?? "The request failed", 500, event.error.code);
    yield event;
  }
}

/** The data of each server-sent event; comments (keep-alives) and other fields are passed over. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
