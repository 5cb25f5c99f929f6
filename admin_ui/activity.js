import { html } from "./vendor/htm-preact.js";
import { json } from "./api.js";
import { Act, Failure, Table, number, usePolled } from "./parts.js";

export function Activity({ say }) {
  const [told, error, ask] = usePolled("/admin/requests", 1);
  return html`<${Failure} error=${error} /><section><h2>Running and queued requests</h2>
  <${Table} label="Requests" heads=${["Request", "Model", "State", "Class", "#Prompt", "#Cached", "#Generated", "#Seconds", ""]} empty="Nothing runs or waits.">
    ${(told?.data ?? []).map((row) => html`<tr key=${row.id}><th scope="row">${row.id}</th><td>${row.model}</td><td>${row.state}
      ${row.state === "prefill" && html` <progress aria-label="Prompt ready" value=${row.prefilled_tokens} max=${row.prompt_tokens || 1} />`}</td>
      <td>${row.class}</td><td class="n">${number(row.prompt_tokens)}</td><td class="n">${number(row.cached_tokens)}</td>
      <td class="n">${number(row.generated_tokens)}</td><td class="n">${row.seconds.toFixed(1)}</td>
      <td><${Act} name="Cancel" about=${row.id} say=${say} act=${() => json("POST", `/admin/requests/${row.id}/cancel`).then(ask)} /></td></tr>`)}<//></section>`;
}
