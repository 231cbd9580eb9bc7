"""How the page of tokens looks, and what its script does; ``page_parts`` puts both into the page.

The script colours the tokens by the quantity that is chosen, and writes what is known of one token into the
panel, as text. It needs no network and keeps nothing.
"""

from __future__ import annotations

LIGHT = "--ink:#1b1f24;--soft:#57606a;--line:#d5dae0;--raised:#f6f8fa;--accent:#0b57b0;--on:#fff;"
DARK = "--ink:#e8ebef;--soft:#a3adb9;--line:#333b45;--raised:#1d222a;--accent:#79b8ff;--on:#0b1118;"

STYLES = """
*{box-sizing:border-box}
html{color-scheme:light dark;scroll-padding:1rem 0 2rem}
body{margin:0 auto;padding:1.4rem clamp(.9rem,3vw,2.2rem) 3rem;max-width:78rem;background:var(--page);color:var(--ink);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
h1{font-size:1.35rem;line-height:1.25;margin:0 0 .15rem;overflow-wrap:anywhere}
h2{font-size:.95rem;margin:0 0 .35rem;overflow-wrap:anywhere}
h2 small,.meta,.about,.unit,.place,.hint,.keys{color:var(--soft);font-size:.82rem;font-weight:400}
p{margin:0}
header{margin-bottom:1.1rem}
.tools{margin-bottom:1.3rem}
fieldset,.pick{border:0;margin:0 0 .7rem;padding:0;min-width:0}
legend,.pick label{padding:0;font-size:.82rem;color:var(--soft);display:block;margin-bottom:.25rem}
fieldset div{display:flex;flex-wrap:wrap;gap:.3rem;margin-bottom:.4rem}
fieldset p{font-size:.86rem;margin-bottom:.15rem;overflow-wrap:anywhere}
fieldset label{position:relative;cursor:pointer}
fieldset input{position:absolute;inset:0;opacity:0;margin:0;cursor:pointer}
fieldset span{display:block;padding:.16rem .62rem;border:1px solid var(--line);border-radius:1rem;font-size:.86rem}
fieldset label:hover span{border-color:var(--accent)}
fieldset input:checked+span{background:var(--accent);border-color:var(--accent);color:var(--on)}
fieldset input:focus-visible+span,select:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
select{font:inherit;font-size:.86rem;color:inherit;background:var(--raised);border:1px solid var(--line);border-radius:.4rem;
 padding:.2rem .4rem;max-width:100%}
.bar{height:.8rem;border-radius:.2rem;border:1px solid var(--line)}
.ticks{position:relative;height:1.25rem;font-size:.76rem;color:var(--soft);font-variant-numeric:tabular-nums}
.ticks span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.ticks span:first-child{transform:none}
.ticks span:last-child{transform:translateX(-100%)}
.quantity{display:flex;justify-content:space-between;gap:.6rem;font-size:.86rem;font-weight:600;margin-bottom:.2rem}
.about{min-height:1.3rem}
.doc{margin:0 0 1.9rem}
.text,.token,.top b{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
.text{white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4;font-size:.93rem;line-height:1.85;unicode-bidi:plaintext}
.t{padding:.16em 0;border-radius:.16em;box-shadow:inset 1px 0 0 var(--page);cursor:default;outline:0 solid var(--accent)}
.g{text-decoration:underline dotted;text-underline-offset:.3em}
.js .t:hover{outline:1px solid var(--ink)}
.t[aria-current]{outline:2px solid var(--ink);position:relative}
.t:focus-visible{outline:3px solid var(--accent);position:relative}
b[data-m]{font-weight:400}
b[data-m]::before{content:attr(data-m);opacity:.65}
.panel{display:none;background:var(--raised);border:1px solid var(--line);border-radius:.6rem;padding:.75rem .9rem}
.panel .token{display:inline-block;font-size:1.08rem;padding:.1rem .45rem;border-radius:.25rem;border:1px solid var(--line);
 max-width:100%;overflow-wrap:anywhere;unicode-bidi:isolate}
.place{margin:.25rem 0 .45rem}
table{border-collapse:collapse;width:100%;font-size:.88rem}
td{padding:.1rem 0;vertical-align:baseline;overflow-wrap:anywhere}
td+td,th{text-align:right;font-variant-numeric:tabular-nums;padding-left:.6rem;vertical-align:baseline}
td+td{white-space:nowrap}
th{font-weight:400;color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}
td.now{font-weight:650}
.panel h3{font-size:.82rem;font-weight:400;color:var(--soft);margin:.6rem 0 .2rem}
.top{list-style:none;margin:0;padding:0;font-size:.86rem}
.top li{display:flex;justify-content:space-between;gap:.6rem;padding:.06rem .3rem;margin:0 -.3rem;border-radius:.2rem;
 background:linear-gradient(to right,var(--line) var(--p,0%),transparent var(--p,0%))}
.top b{font-weight:400;overflow-wrap:anywhere;unicode-bidi:isolate;min-width:0}
.top .came b{font-weight:700;text-decoration:underline;text-underline-offset:.2em}
.top span{font-variant-numeric:tabular-nums;white-space:nowrap}
.keys{margin-top:.6rem}
fieldset,.pick{display:none}
.js fieldset,.js .pick,.js .panel{display:block}
@media (min-width:740px){
 .page{display:grid;grid-template-columns:minmax(0,1fr) 17.5rem;gap:2rem;align-items:start}
 .side{grid-column:2;grid-row:1;position:sticky;top:1rem;max-height:calc(100vh - 2rem);overflow:auto;padding:2px}
 main{grid-column:1;grid-row:1}
}
@media (max-width:739.98px){
 .js body{padding-bottom:52vh}
 .js{scroll-padding-bottom:52vh}
 .panel{position:fixed;z-index:2;left:.5rem;right:.5rem;bottom:.5rem;max-height:46vh;overflow:auto;
  box-shadow:0 2px 14px rgba(0,0,0,.25)}
 .panel table:not(.several) tbody{display:grid;grid-template-columns:1fr 1fr;column-gap:1.6rem}
 .panel table:not(.several) tr{display:flex;justify-content:space-between}
 .keys{display:none}
}
@media print{
 fieldset,.pick,.panel{display:none!important}
 .page{display:block}.side{position:static}
 .t,.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""

SCRIPT = """
(() => {
"use strict";
const find = (what) => document.querySelector(what);
const data = JSON.parse(find("#data").textContent);
const panel = find("#panel"), main = find("main");
const cells = [...main.querySelectorAll(".t")];
const row = new Map(cells.map((cell, i) => [cell, i]));
const radios = [...document.querySelectorAll("input[name=quantity]")];
let shown = 0, current = null;

const make = (tag, text, name) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
};
const number = (value) => {
  if (value === null) return "–";
  if (typeof value === "string") return value;
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  if (size > 0 && size < 1e-4) return sign + size.toExponential(2).replace("-", "−");
  return sign + size.toLocaleString("en-GB", {maximumSignificantDigits: 12});
};
const share = (p) => {
  const percent = 100 * p;
  return (percent < 0.01 ? "< 0.01" : percent.toPrecision(percent < 0.1 ? 1 : percent < 1 ? 2 : 3)) + " %";
};
const look = (k, i) => {
  const level = data.quantities[k].levels[i];
  return level === "." ? "" : data.quantities[k].kind + level;
};
const token = (index) => data.strings[data.token[index]];

function show(k) {
  shown = k;
  const quantity = data.quantities[k];
  cells.forEach((cell, i) => {
    cell.className = (data.generated[i] === "1" ? "t g " : "t ") + look(k, i);
  });
  radios[k].checked = true;
  find(".bar").className = "bar " + quantity.kind;
  find(".quantity").replaceChildren(make("span", quantity.name), make("span", quantity.scale, "unit"));
  find(".about").textContent = quantity.about;
  find(".ticks").replaceChildren(...quantity.ticks.map(([place, label]) => {
    const tick = make("span", label);
    tick.style.left = 100 * place + "%";
    return tick;
  }));
  if (current) describe(current);
}

function describe(cell) {
  const i = row.get(cell), quantity = data.quantities[shown];
  const head = make("bdi", token(i), "token " + look(shown, i));
  const section = cell.closest("section").querySelector("h2");
  const place = ["position " + data.position[i], "id " + data.ids[data.token[i]]];
  if (section) place.unshift(section.dataset.name);
  if (!cell.textContent || /<0x[0-9A-F]{2}>|\\ufffd/.test(token(i))) place.push("part of a character");
  if (data.generated[i] === "1") place.push("written by the model");
  const several = data.results.length > 1;
  const table = make("table", undefined, several ? "several" : ""), body = make("tbody");
  if (several) {
    const names = make("tr");
    names.append(make("td"), ...data.results.map((name) => make("th", name)));
    body.append(names);
  }
  for (const key of new Set(data.quantities.map((other) => other.key))) {
    const line = make("tr"), same = data.quantities.filter((other) => other.key === key);
    const name = make("td", key + " ", key === quantity.key ? "now" : "");
    name.append(make("span", same[0].unit, "unit"));
    line.append(name, ...data.results.map((_, source) => {
      const other = same.find((one) => one.source === source);
      return make("td", other ? number(other.values[i]) : "", other === quantity ? "now" : "");
    }));
    body.append(line);
  }
  table.append(body);
  panel.replaceChildren(head, make("p", place.join(" · "), "place"), table);
  const top = data.tops[quantity.source];
  if (top) {
    const list = make("ol", undefined, "top");
    for (let j = i * top.k; j < (i + 1) * top.k; j++) {
      const item = make("li", undefined, top.token[j] === data.token[i] ? "came" : "");
      item.style.setProperty("--p", 100 * top.p[j] + "%");
      item.append(make("b", data.strings[top.token[j]]), make("span", share(top.p[j])));
      list.append(item);
    }
    panel.append(make("h3", "Most probable before it came" + (several ? ": " + data.results[quantity.source] : "")), list);
  }
  panel.append(make("p", "Arrow keys move from token to token.", "keys"));
}

function select(cell) {
  if (cell === current) return;
  if (current) {
    current.removeAttribute("aria-current");
    current.removeAttribute("aria-describedby");
  }
  current = cell;
  describe(cell);
  cell.setAttribute("aria-current", "true");
  cell.setAttribute("aria-describedby", "panel");
}

function move(cell) {
  const text = cell.closest(".text"), before = text.querySelector("[tabindex='0']");
  if (before) before.tabIndex = -1;
  cell.tabIndex = 0;
  select(cell);
  cell.focus();
}

const pointed = (event) => event.target.closest && event.target.closest(".t");
main.addEventListener("mouseover", (event) => { if (pointed(event)) select(pointed(event)); });
main.addEventListener("focusin", (event) => { if (pointed(event)) select(pointed(event)); });
main.addEventListener("click", (event) => { if (pointed(event)) move(pointed(event)); });
main.addEventListener("keydown", (event) => {
  const cell = pointed(event);
  if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
  const there = [...cell.closest(".text").querySelectorAll(".t")], at = there.indexOf(cell);
  const forward = getComputedStyle(cell.closest(".text")).direction === "rtl" ? -1 : 1;
  const to = {ArrowRight: at + forward, ArrowLeft: at - forward, Home: 0, End: there.length - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  if (there[to]) move(there[to]);
});
radios.forEach((radio, k) => radio.addEventListener("change", () => {
  show(k);
  try {
    history.replaceState(null, "", "#" + encodeURIComponent(data.quantities[k].name));
  } catch {
    // Inside a notebook's frame the page has no address of its own.
  }
}));
function follow() {
  let name = location.hash.slice(1);
  try {
    name = decodeURIComponent(name);
  } catch {
    return;
  }
  const k = data.quantities.findIndex((quantity) => quantity.name === name);
  if (k >= 0) show(k);
}
addEventListener("hashchange", follow);
const picker = find("#document");
if (picker) picker.addEventListener("change", () => {
  document.querySelectorAll(".doc").forEach((section) => {
    section.hidden = picker.value !== "" && section.id !== picker.value;
  });
});

document.documentElement.classList.add("js");
cells.forEach((cell) => cell.removeAttribute("title"));
main.querySelectorAll(".text").forEach((text) => {
  const first = text.querySelector(".t");
  if (first) first.tabIndex = 0;
});
show(Math.max(0, radios.findIndex((radio) => radio.checked)));
follow();
})();
"""
