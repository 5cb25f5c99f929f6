import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { events, json, path, send } from "./api.js";
import { Act, Bar, Failure, Table, bytes, usePolled } from "./parts.js";

const CHUNK_BYTES = 8 << 20;
const OVER = ["done", "failed", "cancelled"];

async function upload(file, batch, progress) {
  const made = await json("POST", "/admin/uploads", { name: file.name, size_bytes: file.size, batch });
  for (let offset = 0; offset < file.size;) {
    const answer = await send("PATCH", `/admin/uploads/${made.id}`, file.slice(offset, offset + CHUNK_BYTES),
      { headers: { "upload-offset": `${offset}`, "content-type": "application/offset+octet-stream" } });
    offset = (await answer.json()).offset;
    progress(offset / file.size);
  }
}

function Import({ say, ask }) {
  const [over, setOver] = useState(false);
  const [sent, setSent] = useState(null);
  const take = async (files) => {
    files = [...files];
    const batch = files.length > 1 ? `page-${Date.now()}` : "";
    try {
      for (const file of files) await upload(file, batch, (fraction) => setSent([file.name, fraction]));
      if (batch) await json("POST", "/admin/imports", { batch });
      say(`${files.map((file) => file.name).join(", ")}: sent, the import has begun.`);
    } catch (error) { say(`The upload stopped. ${error.message}`, true); }
    setSent(null); ask();
  };
  return html`<div class=${over ? "drop over" : "drop"} onDragOver=${(event) => { event.preventDefault(); setOver(true); }}
    onDragLeave=${() => setOver(false)} onDrop=${(event) => { event.preventDefault(); setOver(false); take(event.dataTransfer.files); }}>
    <label>Import model files (GGUF, safetensors or PyTorch): drop them here or choose them
      <input type="file" multiple onChange=${(event) => take(event.target.files)} /></label>
    ${sent && html`<p>${sent[0]} <progress aria-label=${`Sent of ${sent[0]}`} value=${sent[1]} /></p>`}</div>`;
}

function Work({ rows, say, ask }) {
  return html`<${Table} label="Downloads and jobs" heads=${["What", "Model", "State", "Progress", ""]} empty="Nothing is being fetched or made.">
    ${rows.map((row) => html`<tr key=${row.from}><td>${row.kind}</td><td>${row.model}</td><td class=${row.state === "failed" ? "bad" : ""}>${row.state} ${row.error || row.doing}</td>
      <td><progress aria-label=${`Progress of ${row.model}`} value=${row.fraction} /></td>
      <td>${!OVER.includes(row.state) && html`<${Act} name="Cancel" about=${`${row.kind} of ${row.model}`} say=${say} act=${() => json("DELETE", row.from).then(ask)} />`}</td></tr>`)}<//>`;
}

export function Models({ say }) {
  const [told, error, ask] = usePolled("/admin/models", 5);
  const [fetched, , askFetched] = usePolled("/admin/downloads", 2);
  const [jobs, , askJobs] = usePolled("/admin/jobs", 2);
  const [wanted, setWanted] = useState("");
  useEffect(() => {
    const end = new AbortController();
    events("/admin/events", end.signal, ask).catch(() => {});  // asking every few seconds does without
    return () => end.abort();
  }, []);
  const askWork = () => { askFetched(); askJobs(); ask(); };
  const pull = async (event) => {
    event.preventDefault();
    try { await json("POST", "/admin/downloads", { model: wanted.trim() }); say(`${wanted}: the download has begun.`); setWanted(""); askWork(); }
    catch (failure) { say(failure.message, true); }
  };
  const work = [
    ...(fetched?.downloads ?? []).map((row) => ({ ...row, kind: "download", from: `/admin/downloads/${row.id}` })),
    ...(jobs?.jobs ?? []).map((row) => ({ ...row, from: `/admin/jobs/${row.id}` })),
  ];
  const memory = told?.memory ?? { budget_bytes: 0, free_bytes: 0 };
  const owners = (told?.models ?? []).filter((model) => model.weight_bytes).map((model) => [model.id, model.weight_bytes]);
  const other = memory.budget_bytes - memory.free_bytes - owners.reduce((sum, [, size]) => sum + size, 0);
  if (other > 0) owners.push(["prompts, answers and work space", other]);
  return html`<${Failure} error=${error} />
  <section><h2>Memory: ${bytes(memory.budget_bytes)}, ${bytes(memory.free_bytes)} free</h2><${Bar} label="Memory" shares=${owners} total=${memory.budget_bytes} /></section>
  <section><h2>Models</h2><${Table} label="Models" heads=${["Model", "State", "#Memory", "#In use", "#Waiting", ""]} empty="No model is offered.">
    ${(told?.models ?? []).map((model) => html`<tr key=${model.id}><th scope="row">${model.id}${model.pinned && html` <span class="quiet">pinned</span>`}</th>
      <td><span class=${{ ready: "good", failed: "bad" }[model.state] ?? "quiet"}>${model.state}</span> <span class="quiet">${model.doing}</span>
        ${model.fraction > 0 && model.fraction < 1 && html` <progress aria-label=${`Progress of ${model.id}`} value=${model.fraction} />`}</td>
      <td class="n">${bytes(model.weight_bytes || model.predicted_bytes)}</td><td class="n">${model.leases}</td><td class="n">${model.waiting}</td>
      <td><div class="row">${(model.state === "ready" ? ["Evict"] : ["Load"]).concat(model.pinned ? "Unpin" : "Pin").map((name) =>
        html`<${Act} key=${name} name=${name} about=${model.id} say=${say} act=${() => json("POST", `/admin/models/${path(model.id)}/${name.toLowerCase()}`).then(ask)} />`)}</div></td></tr>`)}<//></section>
  <section><h2>Fetch and import</h2><form onSubmit=${pull}><label class="wide">Hugging Face id
      <input required placeholder="organisation/name" value=${wanted} onInput=${(event) => setWanted(event.target.value)} /></label><button class="main">Pull</button></form>
    <${Import} say=${say} ask=${askWork} /></section>
  <section><h2>Downloads and jobs</h2><${Work} rows=${work} say=${say} ask=${askWork} /></section>`;
}
