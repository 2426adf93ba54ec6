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

/** Cancels a request, or drops its result. */
export const remove = (id, { keepalive } = {}) => send(`v1/requests/${id}`, { method: "DELETE", keepalive, ask: false });

/** The image that a finished request made. */
export const picture = async (id) => (await send(`v1/requests/${id}/content`)).blob();

/** Posts an asynchronous request: an object goes as JSON, a FormData as it is. */
export async function submit(path, body, id) {
  const json = !(body instanceof FormData);
  const headers = { "X-Request-Id": id, ...(json && { "Content-Type": "application/json" }) };
  return (await send(path, { method: "POST", headers, body: json ? JSON.stringify(body) : body })).json();
}

/** What happens to a request, as [name, data], until it ends. */
export async function* events(id, signal) {
  const response = await send(`v1/requests/${id}/events`, { signal });
  yield* eventsOf(response.body);
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const data = field(block, "data");
        if (data) yield [field(block, "event"), JSON.parse(data)];
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The value of a server-sent event's field; comments (keep-alives) have none. */
function field(block, name) {
  const lines = block.split(/\r?\n/).filter((line) => line.startsWith(`${name}:`));
  return lines.map((line) => line.slice(name.length + 1).trimStart()).join("\n");
}
