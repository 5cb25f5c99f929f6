import { html, useState } from "./vendor/htm-preact.js";
import { json, path } from "./api.js";
import { Act, Failure, Table, number, usePolled, when } from "./parts.js";

export function Keys({ say }) {
  const [told, error, ask] = usePolled("/admin/keys", 10);
  const [usage, usageError] = usePolled("/admin/usage?group_by=key,model", 10);
  const [name, setName] = useState("");
  const [scope, setScope] = useState("inference");
  const [made, setMade] = useState(null);
  const create = async (event) => {
    event.preventDefault();
    try { setMade(await json("POST", "/admin/keys", { name: name.trim(), scopes: [scope] })); setName(""); ask(); }
    catch (failure) { say(failure.message, true); }
  };
  return html`<section><h2>Keys</h2><${Failure} error=${error} />
    <form onSubmit=${create}><label class="wide">Name<input required value=${name} onInput=${(event) => setName(event.target.value)} /></label>
      <label>May do<select value=${scope} onChange=${(event) => setScope(event.target.value)}>${["inference", "admin", "metrics"].map((one) => html`<option>${one}</option>`)}</select></label><button class="main">Create</button></form>
    <div aria-live="polite">${made && html`<p>The key of ${made.name}. It is shown only now; copy it.</p><pre id="new-key" role="region" tabindex="0" aria-label="New key">${made.key}</pre>`}</div>
    <${Table} label="Keys" heads=${["Name", "May do", "Models", "Created", "Last used", ""]} empty="There are no keys.">
      ${(told?.data ?? []).map((one) => html`<tr key=${one.id}><th scope="row">${one.name}</th><td>${one.scopes.join(", ")}</td><td>${(one.models ?? []).join(", ") || "all"}</td><td>${when(one.created_at)}</td><td>${when(one.last_used_at)}</td>
        <td><${Act} name="Revoke" about=${one.name} danger=${`Revoke ${one.name}? Its programs are refused from now on.`} say=${say} act=${() => json("DELETE", `/admin/keys/${path(one.id)}`).then(ask)} /></td></tr>`)}<//></section>
  <section><h2>Usage</h2><${Failure} error=${usageError} /><${Table} label="Usage" heads=${["Key", "Model", "#Requests", "#Prompt tokens", "#Cached", "#Generated"]} empty="Nothing has been used yet.">
    ${(usage?.data ?? []).map((row) => html`<tr><th scope="row">${row.key || "no key"}</th><td>${row.model}</td>${["requests", "prompt_tokens", "cached_tokens", "generated_tokens"].map((field) => html`<td class="n">${number(row[field])}</td>`)}</tr>`)}<//></section>`;
}
