import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { json, keepKey, whenKeyIsNeeded } from "./api.js";
import { Activity } from "./activity.js";
import { Cache } from "./cache.js";
import { Connect } from "./connect.js";
import { Keys } from "./keys.js";
import { Spark, useLive } from "./live.js";
import { Logs } from "./logs.js";
import { Models } from "./models.js";

const TABS = { Models, Activity, Cache, Logs, Connect, Keys };
const NAMES = Object.keys(TABS);
const named = () => NAMES.find((name) => name.toLowerCase() === location.hash.slice(1)) ?? NAMES[0];

function SignIn({ done }) {
  const input = useRef();
  useEffect(() => input.current.focus(), []);
  return html`<section><h2>Sign in</h2><form onSubmit=${(event) => { event.preventDefault(); keepKey(input.current.value.trim()); done(); }}>
    <label class="wide">Admin key<input ref=${input} type="password" autocomplete="off" required /></label><button class="main">Sign in</button></form></section>`;
}

function Tabs({ shown, show }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step ? (NAMES.indexOf(shown) + step + NAMES.length) % NAMES.length : { Home: 0, End: NAMES.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(NAMES[next]);
    document.getElementById(`tab-${NAMES[next]}`).focus();
  };
  return html`<div role="tablist" aria-label="Parts of this page" onKeyDown=${move}>${NAMES.map((name) => html`<button role="tab" id=${`tab-${name}`}
    aria-selected=${name === shown} aria-controls="panel" tabindex=${name === shown ? 0 : -1} onClick=${() => show(name)}>${name}</button>`)}</div>`;
}

function Page() {
  const [shown, setShown] = useState(named());
  const [said, setSaid] = useState({ text: "" });
  const [locked, setLocked] = useState(false);
  const [grafana, setGrafana] = useState("");
  const [points, alive] = useLive();
  whenKeyIsNeeded(() => setLocked(true));
  useEffect(() => { json("GET", "/admin/settings").then((told) => setGrafana(told.grafana_url), () => {}); }, [locked]);
  useEffect(() => { const follow = () => setShown(named()); addEventListener("hashchange", follow); return () => removeEventListener("hashchange", follow); }, []);
  const show = (name) => { location.hash = name.toLowerCase(); setShown(name); };
  const say = (text, failed = false) => setSaid({ text, failed });
  const Tab = TABS[shown];
  return html`<header><h1>mlx-gateway</h1><div class="sparks" aria-label="Live figures" role="group"><${Spark} name="tokens/s" values=${points.map((point) => point.speed)} />
      <${Spark} name="running" values=${points.map((point) => point.running)} /><${Spark} name="waiting" values=${points.map((point) => point.waiting)} /></div>
      ${/^https?:/.test(grafana) && html`<a href=${grafana} rel="noreferrer">History in Grafana</a>`}</header>
    <main><div role="status" id="said">${said.text && html`<p class=${said.failed ? "banner bad" : "banner good"}>${said.text}</p>`}</div>
      <div role="alert" id="dead">${!alive && html`<p class="banner bad">The server does not answer. This page goes on trying.</p>`}</div>
      <${Tabs} shown=${shown} show=${show} />
      <div id="panel" role="tabpanel" aria-labelledby=${`tab-${shown}`}>${locked ? html`<${SignIn} done=${() => setLocked(false)} />` : html`<${Tab} key=${shown} say=${say} hits=${points.at(-1)?.sources} />`}</div></main>`;
}

document.getElementById("page").textContent = "";
render(html`<${Page} />`, document.getElementById("page"));
