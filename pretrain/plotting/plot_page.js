"use strict";
// Draws the curves of plot_page.html as SVG, and lets one point, choose, smooth and look closer.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const WINDOWS = [1, 3, 5, 9, 15, 25, 41, 65, 101, 161, 251];
const DASHES = ["", "7 4", "2 3", "8 3 2 3"];
const EDGE = { left: 52, right: 10, top: 10, bottom: 22 };
const HEIGHT = 210, WIDE_HEIGHT = 420, SPIKE = 4, NEAR = 12;
const state = { axis: data.axis, window: data.smooth, hidden: new Set(), zoom: null };
const colour = (run) => `var(--run-${run % data.colours})`;
const dash = (run) => DASHES[Math.floor(run / data.colours) % DASHES.length];
const known = (values) => values.filter((value) => value !== null);
const shown = (panel) => data.runs.map((_, run) => run).filter((run) => !state.hidden.has(run) && data.runs[run].values[panel]);

function element(name, attributes, parent, text) {
  const isDrawn = ["svg", "path", "line", "text", "rect", "circle", "g"].includes(name);
  const made = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function word(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return size >= 1e4 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(size >= 1 ? 4 : 3)));
}

function tickWord(value) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(4)) + letter;
  return value !== 0 && Math.abs(value) < 1e-3 ? Number(value.toPrecision(4)).toExponential() : String(Number(value.toPrecision(4)));
}

function smooth(values, window) {
  const reach = Math.floor(window / 2), sums = [0], counts = [0];
  values.forEach((value, i) => { sums.push(sums[i] + (value ?? 0)); counts.push(counts[i] + (value === null ? 0 : 1)); });
  return values.map((value, i) => {
    const first = Math.max(0, i - reach), behind = Math.min(values.length, i + reach + 1);
    return value === null ? null : (sums[behind] - sums[first]) / (counts[behind] - counts[first]);
  });
}

function quantile(sorted, share) {
  const place = share * (sorted.length - 1), low = Math.floor(place);
  return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

// All curves and the usual raw points fit; a spike that would dwarf the rest is cut off.
function limits(series, panel) {
  const usual = series.map((each) => known(each.raw).sort((a, b) => a - b)).filter((sorted) => sorted.length);
  if (!usual.length) return [0, 1];
  const curves = series.flatMap((each) => known(each.curve));
  let low = Math.min(...usual.map((sorted) => quantile(sorted, 0.01))), high = Math.max(...usual.map((sorted) => quantile(sorted, 0.99)));
  const most = (SPIKE - 1) / 2 * (high - low) || Infinity;
  low = Math.max(low - most, curves.reduce((a, b) => Math.min(a, b), low));
  high = Math.min(high + most, curves.reduce((a, b) => Math.max(a, b), high));
  const room = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [panel.unit && low >= 0 ? 0 : low - room, high + room];
}

function ticks(low, high, most) {
  const rough = (high - low) / most, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * size).find((each) => each >= rough) || rough;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

function seriesOf(panel) {
  return shown(panel).map((run) => {
    const x = data.runs[run].axes[state.axis], all = data.runs[run].values[panel];
    const whole = data.panels[panel].isSchedule ? all : smooth(all, state.window);
    const inside = x.map((value, i) => i).filter((i) => x[i] !== null && (!state.zoom || (x[i] >= state.zoom[0] && x[i] <= state.zoom[1])));
    const pick = (values) => inside.map((i) => values[i]);
    return { run, x: pick(x), raw: pick(all), curve: pick(whole) };
  });
}

function line(xs, ys, atX, atY) {
  let path = "", isDown = false;
  ys.forEach((y, i) => {
    if (y !== null) path += `${isDown ? "L" : "M"}${atX(xs[i]).toFixed(1)} ${atY(y).toFixed(1)}`;
    isDown = y !== null;
  });
  return path;
}

const cards = data.panels.map((panel, index) => {
  const card = element("section", {}, document.querySelector("main"));
  const head = element("div", {}, card), title = element("h2", {}, head);
  const button = element("button", { title: "larger or smaller" }, title, panel.title);
  if (panel.unit) element("small", {}, title, panel.unit);
  const lasts = element("span", { class: "lasts" }, head);
  const svg = element("svg", { class: "plot", role: "img", "aria-label": panel.title }, card);
  button.addEventListener("click", () => { card.classList.toggle("wide"); draw(index); });
  svg.addEventListener("pointermove", (event) => point(index, event));
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointerdown", (event) => { if (event.button === 0) begin(index, event); });
  svg.addEventListener("pointerup", (event) => end(index, event));
  svg.addEventListener("dblclick", () => zoom(null));
  return { card, lasts, svg, frame: null, series: [] };
});

function draw(index) {
  const card = cards[index], panel = data.panels[index], isWide = card.card.classList.contains("wide");
  const width = Math.max(120, card.svg.getBoundingClientRect().width || 400), height = isWide ? WIDE_HEIGHT : HEIGHT;
  const series = card.series = seriesOf(index), xs = series.flatMap((each) => each.x);
  const isLog = panel.isLogarithmic && series.every((each) => known(each.raw).every((value) => value > 0));
  const scale = isLog ? Math.log10 : (value) => value;
  const [left, right] = state.zoom || [xs.reduce((a, b) => Math.min(a, b), Infinity), xs.reduce((a, b) => Math.max(a, b), -Infinity)];
  const logged = series.map((each) => ({ raw: each.raw.map((v) => v && scale(v)), curve: each.curve.map((v) => v && scale(v)) }));
  const [low, high] = isLog ? limits(logged, { unit: "" }) : limits(series, panel);
  const atX = (x) => EDGE.left + (right > left ? (x - left) / (right - left) : 0.5) * (width - EDGE.left - EDGE.right);
  const atY = (y) => height - EDGE.bottom - (scale(y) - low) / (high - low) * (height - EDGE.top - EDGE.bottom);
  const toX = (pixel) => left + (pixel - EDGE.left) / (width - EDGE.left - EDGE.right) * (right - left);
  card.frame = { atX, atY, toX, height, width };
  card.svg.replaceChildren();
  card.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  card.svg.style.height = `${height}px`;
  const marks = isLog ? ticks(low, high, 4).map((each) => 10 ** each) : ticks(low, high, isWide ? 12 : 6);
  for (const value of marks) {
    element("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: atY(value), y2: atY(value) }, card.svg);
    element("text", { x: EDGE.left - 6, y: atY(value) + 4, "text-anchor": "end" }, card.svg, tickWord(value));
  }
  for (const value of right > left ? ticks(left, right, Math.max(2, Math.floor(width / 60))) : xs.slice(0, 1))
    element("text", { x: atX(value), y: height - 5, "text-anchor": "middle" }, card.svg, tickWord(value));
  // Nested, so that a curve that leaves the panel is cut at its edge.
  const inner = { x: 0, y: EDGE.top, width, height: height - EDGE.top - EDGE.bottom, viewBox: `0 ${EDGE.top} ${width} ${height - EDGE.top - EDGE.bottom}` };
  const area = element("svg", inner, card.svg);
  for (const kind of ["raw", "curve"])
    for (const each of series) {
      if (kind === "raw" && (state.window === 1 || panel.isSchedule)) continue;
      const look = { class: kind, stroke: colour(each.run), "stroke-dasharray": kind === "curve" ? dash(each.run) : "" };
      element("path", { ...look, d: line(each.x, each[kind], atX, atY) }, area);
      const ends = known(each.curve);
      if (kind === "curve" && ends.length === 1) {
        const at = each.curve.findIndex((value) => value !== null);
        element("circle", { cx: atX(each.x[at]), cy: atY(ends[0]), r: 3, fill: colour(each.run) }, area);
      }
    }
  card.cross = element("g", {}, card.svg);
  card.lasts.replaceChildren();
  if (series.length <= 4)
    for (const each of series) element("span", { style: `color:${colour(each.run)}` }, card.lasts, word(known(each.curve).at(-1)));
}

// The point of a run next to x, or -1 where the run has none near it.
function nearest(card, xs, x) {
  let low = 0, high = xs.length - 1;
  if (high < 0 || card.frame.atX(xs[0]) - card.frame.atX(x) > NEAR || card.frame.atX(x) - card.frame.atX(xs[high]) > NEAR) return -1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle; else high = middle; }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

const pixel = (card, event) => event.clientX - card.svg.getBoundingClientRect().left;
let from = null;

// The cross stands in all panels at once, so that what happened at a step is seen everywhere.
function point(index, event) {
  const here = cards[index], x = here.frame.toX(pixel(here, event));
  if (!Number.isFinite(x)) return;
  for (const card of cards) {
    const { atX, atY, height } = card.frame;
    card.cross.replaceChildren();
    element("line", { class: "cross", x1: atX(x), x2: atX(x), y1: EDGE.top, y2: height - EDGE.bottom }, card.cross);
    for (const each of card.series) {
      const at = nearest(card, each.x, x), y = at < 0 ? null : each.curve[at];
      if (y !== null && atY(y) >= EDGE.top && atY(y) <= height - EDGE.bottom)
        element("circle", { cx: atX(each.x[at]), cy: atY(y), r: 3.2, fill: colour(each.run) }, card.cross);
    }
  }
  if (from !== null) {
    const [a, b] = [from, pixel(here, event)].sort((p, q) => p - q);
    element("rect", { class: "chosen", x: a, y: EDGE.top, width: b - a, height: here.frame.height - EDGE.top - EDGE.bottom }, here.cross);
  }
  tell(here, data.panels[index], x, event);
}

function tell(card, panel, x, event) {
  const tip = find("tip"), table = element("table");
  element("caption", {}, table, `${panel.title}${panel.unit ? `, ${panel.unit}` : ""}`);
  for (const each of card.series) {
    const at = nearest(card, each.x, x);
    if (at < 0) continue;
    const row = element("tr", {}, table);
    element("td", { style: `color:${colour(each.run)}` }, row, data.runs[each.run].name);
    element("td", {}, row, `${state.axis === "hours" ? "" : state.axis + " "}${word(each.x[at])}${state.axis === "hours" ? " h" : ""}`);
    element("td", {}, row, word(each.raw[at])).style.fontWeight = "600";
    if (each.curve[at] !== each.raw[at]) element("td", {}, row, `~ ${word(each.curve[at])}`);
  }
  tip.replaceChildren(table);
  tip.hidden = false;
  const isRight = event.clientX + tip.offsetWidth + 24 > innerWidth;
  tip.style.left = `${isRight ? Math.max(4, event.clientX - tip.offsetWidth - 14) : event.clientX + 14}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4)}px`;
}

function leave() {
  from = null;
  find("tip").hidden = true;
  for (const card of cards) card.cross.replaceChildren();
}

function begin(index, event) {
  from = pixel(cards[index], event);
}

function end(index, event) {
  const card = cards[index], started = from, stopped = pixel(card, event);
  from = null;
  if (started !== null && Math.abs(stopped - started) > 6)
    zoom([started, stopped].sort((a, b) => a - b).map(card.frame.toX));
}

function zoom(range) {
  state.zoom = range;
  find("reset").hidden = !range;
  drawAll();
}

function drawAll() {
  cards.forEach((_, index) => draw(index));
}

function addRun(run, index) {
  const button = element("button", { "aria-pressed": "true", title: "show or hide; with shift: this one alone" }, find("runs"));
  const sample = element("svg", { viewBox: "0 0 22 8" }, button);
  element("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: colour(index), "stroke-width": 3, "stroke-dasharray": dash(index) }, sample);
  button.append(run.name);
  button.addEventListener("click", (event) => {
    if (event.shiftKey) state.hidden = new Set(data.runs.map((_, other) => other).filter((other) => other !== index));
    else if (!state.hidden.delete(index)) state.hidden.add(index);
    [...find("runs").children].forEach((each, other) => each.setAttribute("aria-pressed", String(!state.hidden.has(other))));
    drawAll();
  });
}

function sayWindow() {
  document.querySelector("output").textContent = state.window === 1 ? "off" : `${state.window * data.thinned} lines`;
}

data.runs.forEach(addRun);
for (const name of data.axes) element("option", name === state.axis ? { value: name, selected: "" } : { value: name }, find("axis"), name);
find("axis").addEventListener("change", (event) => { state.axis = event.target.value; zoom(null); });
if (!WINDOWS.includes(state.window)) WINDOWS.push(state.window);
WINDOWS.sort((a, b) => a - b);
find("smooth").max = WINDOWS.length - 1;
find("smooth").value = WINDOWS.indexOf(state.window);
find("smooth").addEventListener("input", (event) => { state.window = WINDOWS[event.target.value]; sayWindow(); drawAll(); });
find("reset").addEventListener("click", () => zoom(null));
document.querySelector("footer").textContent = "Drag across a panel to look closer, double-click for the whole range; a click on a title makes its panel larger."
  + (data.thinned > 1 ? ` Each point is the mean of ${data.thinned} log lines.` : "");
addEventListener("resize", drawAll);
sayWindow();
drawAll();
