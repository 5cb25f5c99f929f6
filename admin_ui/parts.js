// What several tabs show.
import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { json } from "./api.js";

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  for (; count >= 1000 && unit < 4; unit++) count /= 1000;
  return `${count.toFixed(unit && count < 100 ? 1 : 0)} ${units[unit]}`;
}
export const number = (count) => (count ?? 0).toLocaleString("en");
export const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : "never");

// Asks again every `seconds` while the tab is shown: [what it was told, why it was not, ask now].
export function usePolled(from, seconds) {
  const [told, setTold] = useState({});
  const ask = () => json("GET", from).then((value) => setTold({ value }), (error) => setTold((old) => ({ ...old, error })));
  useEffect(() => { ask(); const timer = setInterval(ask, seconds * 1000); return () => clearInterval(timer); }, [from]);
  return [told.value, told.error, ask];
}

export const Failure = ({ error }) => error && html`<p class="bad" role="alert">${error.status
  ? error.message : "The server does not answer."}</p>`;

export function Act({ name, about, act, say, danger, disabled }) {
  const [busy, setBusy] = useState(false);
  const run = async () => {
    if (danger && !confirm(danger)) return;
    setBusy(true);
    try { await act(); say(`${name}: ${about}. Done.`); }
    catch (error) { say(`${name}: ${about}. ${error.message}`, true); }
    setBusy(false);
  };
  return html`<button disabled=${busy || disabled} aria-label=${`${name} ${about}`} onClick=${run}>${name}</button>`;
}

export function Bar({ label, shares, total }) {
  return html`<div class="bar" role="img" aria-label=${`${label}: ${shares.map(([name, size]) => `${name} ${bytes(size)}`).join(", ")}`}>
    ${shares.map(([name, size], at) => html`<i key=${name} class=${`c${at % 6}`} style=${{ width: `${(100 * size) / (total || 1)}%` }} />`)}
  </div><ul class="key">${shares.map(([name, size], at) => html`<li key=${name}><i class=${`c${at % 6}`} />${name} ${bytes(size)}</li>`)}</ul>`;
}

export function Table({ label, heads, children, empty }) {
  const rows = [children].flat(2).filter(Boolean);
  if (!rows.length) return html`<p class="quiet">${empty}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table><thead><tr>${heads.map((head) =>
    html`<th scope="col" class=${head.startsWith("#") ? "n" : ""}>${head.replace("#", "")}</th>`)}</tr></thead><tbody>${rows}</tbody></table></div>`;
}
