import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { download, events, json } from "./api.js";
import { Failure } from "./parts.js";

const LEVELS = ["DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR"];
const MOST = 1000;
const clock = (time) => new Date(typeof time === "number" ? time * 1000 : time).toLocaleTimeString();

export function Logs({ say }) {
  const [level, setLevel] = useState("INFO");
  const [search, setSearch] = useState("");
  const [lines, setLines] = useState([]);
  const [error, setError] = useState(null);
  const query = `/admin/logs?${new URLSearchParams({ level, search, limit: 200 })}`;
  useEffect(() => {
    const end = new AbortController();
    const begin = setTimeout(async () => {
      try {
        setLines((await json("GET", query)).data); setError(null);
        await events(`${query}&follow=true`, end.signal, (line) => setLines((old) => [...old, line].slice(-MOST)));
      } catch (failure) { if (!end.signal.aborted) setError(failure); }
    }, 200);
    return () => { clearTimeout(begin); end.abort(); };
  }, [query]);
  const save = (format) => download(`${query}&format=${format}`, `mlx-gateway-log.${format}`).catch((failure) => say(failure.message, true));
  return html`<${Failure} error=${error} /><section><h2>Log</h2><div class="row"><label>Level and above<select value=${level} onChange=${(event) => setLevel(event.target.value)}>
      ${LEVELS.map((name) => html`<option>${name}</option>`)}</select></label>
    <label class="wide">Search<input type="search" value=${search} onInput=${(event) => setSearch(event.target.value)} /></label>
    <button onClick=${() => save("jsonl")}>Export JSONL</button><button onClick=${() => save("csv")}>Export CSV</button></div>
    <div class="log" role="log" aria-label="Log lines" tabindex="0">${lines.map((line) => html`<div><span class="quiet">${clock(line.time)}</span>
      <span class=${{ ERROR: "bad", WARNING: "warn", SUCCESS: "good" }[line.level] ?? "quiet"}>${line.level}</span><span>${line.message}</span></div>`)}</div></section>`;
}
