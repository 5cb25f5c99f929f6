// The sparklines, from the same metrics that Prometheus reads.
import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { send } from "./api.js";

const MOST_POINTS = 60;
export const SECONDS = 2;

export function read(text) {
  const found = { tokens: 0, running: 0, waiting: 0, sources: {} };
  for (const line of text.split("\n")) {
    const value = Number(line.slice(line.lastIndexOf(" ") + 1));
    if (line.startsWith("vllm:generation_tokens_total")) found.tokens += value;
    else if (line.startsWith("vllm:num_requests_running")) found.running += value;
    else if (line.startsWith("vllm:num_requests_waiting{")) found.waiting += value;
    else if (line.startsWith("mlx_gateway_prompt_tokens_by_source_total")) {
      const source = /source="([^"]*)"/.exec(line)?.[1];
      if (source) found.sources[source] = (found.sources[source] ?? 0) + value;
    }
  }
  return found;
}

// [points of the last two minutes, whether the server answers]
export function useLive() {
  const [state, setState] = useState({ points: [], alive: true });
  useEffect(() => {
    const ask = async () => {
      try {
        const now = { ...read(await (await send("GET", "/metrics")).text()), at: performance.now() };
        setState(({ points }) => {
          const last = points.at(-1);
          now.speed = last && now.tokens >= last.tokens ? (1000 * (now.tokens - last.tokens)) / (now.at - last.at) : 0;
          return { points: [...points, now].slice(-MOST_POINTS), alive: true };
        });
      } catch (error) { setState((old) => ({ ...old, alive: Boolean(error.status) })); }
    };
    ask();
    const timer = setInterval(ask, SECONDS * 1000);
    return () => clearInterval(timer);
  }, []);
  return [state.points, state.alive];
}

export function Spark({ name, values }) {
  const most = Math.max(1, ...values);
  const points = values.map((value, at) => `${(at * 90) / (MOST_POINTS - 1)},${21 - (19 * value) / most}`).join(" ");
  return html`<span class="spark">${name} <b>${Math.round(values.at(-1) ?? 0)}</b><svg width="90" height="22" aria-hidden="true"><polyline points=${points} /></svg></span>`;
}
