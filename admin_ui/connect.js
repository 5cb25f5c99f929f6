import { html, useState } from "./vendor/htm-preact.js";
import { json } from "./api.js";
import { Failure, usePolled } from "./parts.js";

const SETTINGS = {
  Cline: (url, model) => `API Provider: OpenAI Compatible\nBase URL:     ${url}/v1\nAPI Key:      YOUR_KEY\nModel ID:     ${model}`,
  Continue: (url, model) => `# ~/.continue/config.yaml\nname: mlx-gateway\nversion: 1.0.0\nschema: v1\nmodels:\n  - name: ${model}\n    provider: openai\n    model: ${model}\n    apiBase: ${url}/v1\n    apiKey: YOUR_KEY\n    roles: [chat, edit, apply, autocomplete]`,
  opencode: (url, model) => JSON.stringify({ $schema: "https://opencode.ai/config.json", model: `mlx-gateway/${model}`, provider: { "mlx-gateway": {
    npm: "@ai-sdk/openai-compatible", options: { baseURL: `${url}/v1`, apiKey: "YOUR_KEY" }, models: { [model]: {} } } } }, null, 2),
  codex: (url, model) => `# ~/.codex/config.toml\nmodel = "${model}"\nmodel_provider = "mlx-gateway"\n\n[model_providers.mlx-gateway]\nname = "mlx-gateway"\nbase_url = "${url}/v1"\nwire_api = "responses"\nenv_key = "MLX_GATEWAY_KEY"`,
  "Claude Code": (url, model) => `export ANTHROPIC_BASE_URL=${url}\nexport ANTHROPIC_AUTH_TOKEN=YOUR_KEY\nexport ANTHROPIC_MODEL='${model}'\nexport ANTHROPIC_SMALL_FAST_MODEL='${model}'\nclaude`,
  aider: (url, model) => `export OPENAI_API_BASE=${url}/v1\nexport OPENAI_API_KEY=YOUR_KEY\naider --model 'openai/${model}'`,
};

export function Connect({ say }) {
  const [told, error] = usePolled("/v1/models", 30);
  const [chosen, setChosen] = useState("");
  const [result, setResult] = useState("");
  const models = (told?.data ?? []).map((model) => model.id);
  const model = chosen || models[0] || "";
  const copy = (text, name) => navigator.clipboard.writeText(text).then(() => say(`The settings for ${name} were copied.`), () => say("The browser did not let this page copy.", true));
  const test = async () => {
    setResult("Asking …");
    const began = performance.now();
    try {
      const answer = await json("POST", "/v1/chat/completions", { model, max_tokens: 8, messages: [{ role: "user", content: "Say hello." }] });
      setResult(`It answered in ${Math.round(performance.now() - began)} ms: ${answer.choices[0].message.content}`);
    } catch (failure) { setResult(`It failed: ${failure.message}`); }
  };
  return html`<${Failure} error=${error} /><section><h2>Try it</h2><div class="row"><label class="wide">Model<select value=${model} onChange=${(event) => setChosen(event.target.value)}>
      ${models.map((name) => html`<option>${name}</option>`)}</select></label><button class="main" disabled=${!model} onClick=${test}>Test</button></div><p id="test-result" aria-live="polite">${result}</p></section>
    ${Object.entries(SETTINGS).map(([name, settings]) => { const text = settings(location.origin, model || "MODEL"); return html`<section key=${name}><div class="row"><h2>${name}</h2>
      <button aria-label=${`Copy the settings for ${name}`} onClick=${() => copy(text, name)}>Copy</button></div><pre tabindex="0" aria-label=${`Settings for ${name}`} role="region">${text}</pre></section>`; })}`;
}
