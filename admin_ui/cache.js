import { html, useState } from "./vendor/htm-preact.js";
import { json, path } from "./api.js";
import { Act, Bar, Failure, Table, bytes, number, usePolled } from "./parts.js";

export function Cache({ say, hits }) {
  const [told, error, ask] = usePolled("/admin/cache", 5);
  const [wanted, setWanted] = useState("");
  const [why, setWhy] = useState(null);
  const explain = (event) => {
    event.preventDefault();
    json("GET", `/admin/cache/explain/${path(wanted.trim())}`).then(setWhy, (failure) => { setWhy(null); say(failure.message, true); });
  };
  const { ram, disk, models } = told ?? { ram: { bytes: 0, limit_bytes: 0 }, models: [] };
  const all = Object.values(hits ?? {}).reduce((sum, count) => sum + count, 0);
  return html`<${Failure} error=${error} /><section><h2>Prefixes in memory: ${bytes(ram.bytes)} of ${bytes(ram.limit_bytes)}</h2>
    <${Bar} label="In memory" shares=${models.map((model) => [model.id, model.ram_bytes])} total=${ram.limit_bytes} />
    <p class="quiet">${disk ? `On disk: ${bytes(models.reduce((sum, model) => sum + model.disk_bytes, 0))}` : "Nothing is kept on disk."}</p>
    ${all > 0 && html`<p>Prompt tokens since the start: ${Object.entries(hits).map(([source, count]) => `${source.replaceAll("_", " ")} ${Math.round((100 * count) / all)} %`).join(", ")}</p>`}</section>
  <section><h2>By model</h2><${Table} label="Cache by model" heads=${["Model", "#Prefixes", "#Memory", "#Disk", ""]} empty="No model has a cache open.">
    ${models.map((model) => html`<tr key=${model.id}><th scope="row">${model.id}</th><td class="n">${number(model.extents)}</td><td class="n">${bytes(model.ram_bytes)}</td><td class="n">${bytes(model.disk_bytes)}</td>
      <td><${Act} name="Clear" about=${`cache of ${model.id}`} danger=${`Forget all prefixes of ${model.id}?`} say=${say} act=${() => json("DELETE", `/admin/cache?model=${encodeURIComponent(model.id)}`).then(ask)} /></td></tr>`)}<//></section>
  <section><h2>Why was no more of a prompt reused?</h2><form onSubmit=${explain}><label class="wide">Request id (the answer's x-request-id)
    <input required value=${wanted} onInput=${(event) => setWanted(event.target.value)} /></label><button class="main">Explain</button></form>
    <div aria-live="polite">${why && html`<p>${number(why.reused_tokens)} of ${number(why.prompt_tokens)} tokens reused. ${why.explanation}</p>
      <pre>${why.before}\n— this prompt —\n${why.prompt}\n— what was kept —\n${why.cached}</pre>`}</div></section>`;
}
