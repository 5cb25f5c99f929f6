// Talks to the gateway. The admin key stays in this tab's session storage, and nowhere else.
const KEY = "mlx-gateway-admin-key";
let onSignIn = () => {};

export const key = () => sessionStorage.getItem(KEY) || "";
export const keepKey = (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY));
export const whenKeyIsNeeded = (then) => { onSignIn = then; };

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export async function send(method, path, body, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  const raw = body instanceof Blob;
  if (body !== undefined && !raw) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: raw ? body : JSON.stringify(body), signal: options.signal });
  if (answer.ok) return answer;
  if (answer.status === 401) onSignIn();
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, answer.status === 404 && !told.error?.code
    ? "This server does not offer this." : told.error?.message || `The server answered ${answer.status}.`);
}

export const json = async (method, path, body) => {
  const text = await (await send(method, path, body)).text();
  return text ? JSON.parse(text) : null;
};
export const path = (text) => text.split("/").map(encodeURIComponent).join("/");

// Server-sent events through fetch, because an EventSource sends no key. Ends with the signal or the server.
export async function events(from, signal, take) {
  const answer = await send("GET", from, undefined, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (unread + value).split(/\r?\n\r?\n/);
    unread = frames.pop();
    for (const frame of frames) {
      const data = frame.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data) take(JSON.parse(data));
    }
  }
}

export async function download(from, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await send("GET", from)).blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
