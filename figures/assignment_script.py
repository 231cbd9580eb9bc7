"""What the page of soft assignments computes and draws, from its sliders and from what ``assignment.py`` puts into it.

Everything is computed in double precision. Every number that is shown stands with all its digits in the ``value`` of its
element, so that it can be read and checked.
"""

from __future__ import annotations

SCRIPT = """
(() => {
"use strict";
const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const circle = document.querySelector(".circle");
const total = (values) => values.reduce((sum, value) => sum + value, 0);
const entropy = (p) => -total(p.map((one) => one > 0 ? one * Math.log(one) : 0));
const TINY = 2.2250738585072014e-308;
const logarithm = (p) => Math.log(Math.max(p, TINY));
const mixed = (p, all) => p + data.floor * (all - p);
const mean = (rows) => rows[0].map((_, j) => total(rows.map((row) => row[j])) / rows.length);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1];

function assigned(z, anchors, temperature) {
  const logits = anchors.map((w) => dot(w, z) / temperature), top = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - top)), sum = total(weights);
  return weights.map((weight) => weight / sum);
}

// tl_entropy/functional/information/chance.py: how far off the weight (n - 1)/(2n - 1) is for n random points.
function corrections(rows, all, orders) {
  const k = rows.length, half = all.map((q) => 0.5 / Math.max(q, TINY)), log = all.map(logarithm);
  const divergence = (p) => -entropy(p) - total(p.map((one, j) => one * log[j]));
  const quadratic = (p) => total(p.map((one, j) => (one - all[j]) ** 2 * half[j]));
  const own = rows.map(divergence), ceiling = total(own) / k, spread = total(rows.map(quadratic)) / k;
  const left = (n) => (1 / n - 1 / k) / (1 - 1 / k);
  const found = [];
  if (ceiling < data.least_ceiling) return found;
  for (const n of [2, 3, 4, 6, 8, 16, 32, 64].filter((n) => n <= k / 2)) {
    const whole = [], less = [];  // groups of n, and the same without their last ones
    for (const order of orders) {
      for (let first = 0; first + n <= order.length; first += n) {
        const group = order.slice(first, first + n);
        whole.push(group);
        less.push(group.slice(0, -1));
      }
    }
    const means = (groups) => groups.map((group) => mean(group.map((i) => rows[i])));
    const steadied = (values, of, groups) => controlled(values,
      [of.map(quadratic), groups.map((group) => total(group.map((i) => own[i])) / group.length)],
      [spread * left(groups[0].length), ceiling]);
    const of = means(whole), ofLess = means(less);
    const lost = steadied(of.map(divergence), of, whole);
    const across = steadied(ofLess.map((p) => {
      const gained = p.map((one, j) => log[j] - logarithm(mixed(one, all[j])));
      return total(gained.map((gain, j) => gain * (k * all[j] - (n - 1) * p[j]))) / (k - n + 1);
    }), ofLess, less);
    const lacking = lost + spread / (k - 1), apart = across + lost;
    found.push([n, apart > 0 ? lacking / apart * (2 * n - 1) / (n - 1) : 1]);
  }
  return found;
}

// The mean of values without the noise that they share with controls of known mean.
function controlled(values, controls, known) {
  const average = (of) => total(of) / of.length, product = (a, b) => total(a.map((one, i) => one * b[i]));
  if (values.length < 24) return average(values.map((value, i) => value - controls[0][i])) + known[0];
  let found = average(values);
  const used = [];
  controls.forEach((control, which) => {
    const middle = average(control);
    let centred = control.map((one) => one - middle), excess = middle - known[which];
    for (const [other, itsExcess, itsSize] of used) {
      const slope = product(other, centred) / itsSize;
      centred = centred.map((one, i) => one - slope * other[i]);
      excess -= slope * itsExcess;
    }
    const size = product(centred, centred) + 1e-12 * product(control, control);
    used.push([centred, excess, size]);
    found -= product(centred, values) / size * excess;
  });
  return found;
}

function correction(curve, n) {
  if (!curve.length) return 1;
  const [last, end] = curve[curve.length - 1];
  if (n > last) return 1 + (end - 1) * last / n;
  const at = Math.max(1, curve.findIndex(([size]) => size >= n)), [a, low] = curve[at - 1], [b, high] = curve[at];
  return low + (high - low) * Math.log(n / a) / Math.log(b / a);
}

// tl_entropy/functional/information/cross_fitting.py, each point a fold of its own: both spreads, weighed.
function spread(rows, all, c) {
  const n = rows.length, within = mean(rows), own = total(rows.map(entropy)) / n;
  const across = total(rows.map((p) => -total(p.map((one, j) =>
    one * logarithm(mixed(Math.max(0, n * within[j] - one) / (n - 1), all[j])))))) / n;
  const w = entropy(within) - own, x = across - own;
  return w + c * (n - 1) / (2 * n - 1) * (x - w);
}

function measured(state) {
  const rows = state.points.map((z) => assigned(z, state.anchors, state.temperature)), all = mean(rows);
  const groups = new Map();
  rows.forEach((row, i) => groups.set(state.label[i], [...(groups.get(state.label[i]) || []), row]));
  const n = rows.length, h = entropy(all), own = total(rows.map(entropy)) / n;
  const given = total([...groups.values()].map((of) => of.length * entropy(mean(of)))) / n;
  const several = [...groups.values()].filter((of) => of.length > 1), inside = total(several.map((of) => of.length));
  const corrected = spread(rows, all, 1), curve = corrections(rows, all, state.orders);
  const left = total(several.map((of) => of.length * spread(of, all, correction(curve, of.length)))) / inside;
  const information = inside < data.least ? NaN : corrected - left;
  const group = mean(groups.get(state.label[state.point]));
  return {rows, all, group, inside, values: {
    entropy: h, "entropy-all": h, "entropy-x": entropy(group), "entropy-z": entropy(rows[state.point]),
    most: Math.log(all.length), own, ceiling: h - own, "plug-in": h - given, information, corrected,
    share: information / corrected}};
}

function chosen() {
  const value = (id) => Number(find(id).value);
  const m = value("bins"), n = data.points[value("points")], k = value("labels"), width = 1 / Math.sqrt(2 ** value("kappa"));
  const cloud = data.noise.slice(0, n).map((_, i) => i % k);
  const angles = cloud.map((one, i) => 2 * Math.PI * one / k + 0.3 + width * data.noise[i]);
  const points = angles.map((angle) => [Math.cos(angle), Math.sin(angle)]);
  const label = find("random").checked ? cloud.map((_, i) => Math.floor(data.dealt[i] * k)) : cloud;
  return {points, label, k, point: value("point"), anchors: data.anchors[value("seed")].slice(0, m),
    temperature: data.temperature[m] * 2 ** value("heat"), orders: data.orders[value("points")]};
}

function make(parent, tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
}
const colour = (label, k) => `hsl(${Math.round(360 * label / k + 210) % 360} 70% ${label % 2 && k > 6 ? 62 : 46}%)`;

function draw(state, found) {
  circle.replaceChildren();
  make(circle, "circle", {class: "ring", r: 1, "stroke-width": 0.01});
  const z = state.points[state.point], mine = found.rows[state.point];
  state.anchors.forEach((w, j) => {
    if (mine[j] > 0.004) {
      make(circle, "line", {class: "beam", x1: z[0], y1: -z[1], x2: w[0], y2: -w[1], opacity: Math.sqrt(mine[j])});
    }
  });
  state.points.forEach(([x, y], i) => make(circle, "line", {class: "point", x1: 1.04 * x, y1: -1.04 * y, x2: 1.13 * x,
    y2: -1.13 * y, stroke: colour(state.label[i], state.k), "stroke-width": 0.016}));
  state.anchors.forEach((w, j) => make(circle, "circle", {class: "anchor", cx: w[0], cy: -w[1],
    r: 0.012 + 0.12 * Math.sqrt(found.all[j])}));
  make(circle, "circle", {class: "chosen", cx: 1.085 * z[0], cy: -1.085 * z[1], r: 0.085});
  const order = state.anchors.map((w, j) => [Math.atan2(w[1], w[0]), j]).sort((a, b) => a[0] - b[0]).map(([, j]) => j);
  const highest = Math.max(...found.all, ...found.group, ...mine);
  for (const [id, p, look] of [["all", found.all, "all"], ["label", found.group, "own"], ["point", mine, "anchor"]]) {
    const bars = find("bars-" + id);
    bars.setAttribute("viewBox", `0 0 ${order.length} 1`);
    bars.replaceChildren();
    order.forEach((j, place) => make(bars, "rect", {class: look, x: place + 0.1, width: 0.8, y: 1 - p[j] / highest,
      height: p[j] / highest}));
  }
}

function show() {
  find("point").max = data.points[find("points").value] - 1;
  const state = chosen(), found = measured(state);
  for (const [id, value] of Object.entries(found.values)) {
    const shown = find(id), rounded = value.toFixed(3);
    shown.value = String(value);
    shown.textContent = Number.isNaN(value) ? "–" : Number(rounded) ? rounded.replace("-", "−") : "0.000";
  }
  const write = (id, text) => { document.querySelector(`output[for=${id}]`).textContent = text; };
  write("heat", `${+(2 ** find("heat").value).toPrecision(3)} × ${data.temperature[state.anchors.length].toFixed(3)}`);
  write("kappa", +(2 ** find("kappa").value).toPrecision(3));
  for (const id of ["bins", "seed", "labels", "point"]) write(id, find(id).value);
  write("points", state.points.length);
  find("why").textContent = found.inside < data.least
    ? `only ${found.inside} points have a label that another one has, too; ${data.least} are needed`
    : "two errors of few points, one up and one down, weighed: near 0 for labels that say nothing";
  draw(state, found);
}

for (const input of document.querySelectorAll("input")) input.addEventListener("input", show);
circle.addEventListener("click", (event) => {
  const box = circle.getBoundingClientRect();
  const at = [event.clientX - box.left - box.width / 2, box.top + box.height / 2 - event.clientY];
  const near = chosen().points.map((z) => dot(z, at));
  find("point").value = near.indexOf(Math.max(...near));
  show();
});
show();
})();
"""
