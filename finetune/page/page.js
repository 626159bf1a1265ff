"use strict";
// Sends a video to /api/look and shows the answer. Whatever comes from outside becomes text, never markup.
const find = (selector, within = document) => within.querySelector(selector);
const player = find("#player"), statusLine = find("#status"), record = find("#record"), found = find("#found");
const LONGEST_RECORDING_S = 30, LINE_EVERY_MS = 700, EACH_HIT = 6;
let about = null, asked = 0, recorder = null;

function make(name, attributes = {}, ...children) {
  const isDrawn = ["svg", "path", "line"].includes(name);
  const made = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const percent = (score) => `${(100 * score).toFixed(score < 0.0995 ? 1 : 0)} %`;
const clock = (seconds) => `${seconds.toFixed(1)} s`;

async function call(address, options) {
  let answer;
  try { answer = await fetch(address, options); }
  catch { throw { error: "the page's server does not answer", hint: "Is trichord serve still running?" }; }
  const told = await answer.json().catch(() => ({ error: `the server answered ${answer.status}`, hint: "Try again" }));
  if (!answer.ok) throw told;
  return told;
}

function showTrouble(trouble) {
  const box = find("#trouble");
  box.hidden = !trouble;
  find("b", box).textContent = trouble ? trouble.error : "";
  find("span", box).textContent = trouble ? trouble.hint : "";
}

async function look(address, body, source) {
  const turn = ++asked, ticket = crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2);
  const isMine = () => turn === asked;
  showTrouble(null);
  if (player.src.startsWith("blob:")) URL.revokeObjectURL(player.src);
  player.srcObject = null;
  player.src = source;
  player.hidden = false;
  find("#invitation").hidden = true;
  found.classList.add("stale");
  found.setAttribute("aria-busy", "true");
  statusLine.textContent = body ? "sending …" : "looking …";
  const asking = setInterval(async () => {
    const line = await call(`/api/line?ticket=${ticket}`).catch(() => ({ ahead: null }));
    if (isMine() && line.ahead !== null && found.classList.contains("stale"))
      statusLine.textContent = line.ahead ? `in line: ${line.ahead} before you` : "looking …";
  }, LINE_EVERY_MS);
  try {
    const began = performance.now(), join = address.includes("?") ? "&" : "?";
    const answer = await call(`${address}${join}ticket=${ticket}`, { method: "POST", body });
    if (!isMine()) return;
    show(answer);
    statusLine.textContent = `${clock(answer.video.seconds)} of ${answer.video.width}×${answer.video.height}, seen in ${clock((performance.now() - began) / 1000)}`;
  } catch (trouble) {
    if (!isMine()) return;
    statusLine.textContent = "";
    clear();
    hidePlayer();
    showTrouble(trouble.error ? trouble : { error: String(trouble), hint: "Load this page again" });
  } finally {
    clearInterval(asking);
    if (isMine()) { found.classList.remove("stale"); found.removeAttribute("aria-busy"); }
  }
}

function lookAtFile(file) {
  markSample(null);
  const most = about ? about.limits.megabytes : Infinity;
  if (file.size > most * 1e6) {
    clear();
    showTrouble({ error: `the video is larger than ${most} MB`, hint: "Choose a shorter or smaller one" });
    return;
  }
  look("/api/look", file, URL.createObjectURL(file));
}

function hidePlayer() {
  player.removeAttribute("src");
  player.load();
  player.hidden = true;
  find("#invitation").hidden = false;
}

function clear() {
  for (const name of ["captions", "actions", "map"]) find(`#${name}`).hidden = true;
  find("#nothing").hidden = false;
  if (about && about.index) showHits([], "");
}

function show(answer) {
  find("#nothing").hidden = true;
  showCaptions(answer.captions);
  showActions(answer.actions, answer.video.seconds);
  showMap(answer.map);
  if (answer.nearest) showHits(answer.nearest, "like your video");
}

function showCaptions(captions) {
  find("#captions").hidden = !captions.length;
  find("#captions div").replaceChildren(...captions.flatMap((each) => [
    make("p", { class: "said" }, each.caption || "(it finds no words)"),
    make("p", { class: "note" }, `by the run ${each.run}`),
  ]));
}

function showActions(runs, seconds) {
  const section = find("#actions");
  section.hidden = !runs.length;
  section.replaceChildren(...runs.flatMap((run) => {
    const together = run.scale === "softmax" ? "all classes together make 100 %" : "each class by itself, yes or no";
    return [
      make("h2", {}, runs.length > 1 ? `What happens, by ${run.run}` : "What happens"),
      make("ol", { class: "bars" }, ...run.top.map(bar)),
      make("p", { class: "note" }, `${together}; ${run.views}`),
      make("h2", {}, "When"),
      timeline(run, seconds),
    ];
  }));
}

function bar(one) {
  const filled = make("i");
  filled.style.width = `${100 * Math.min(1, one.score)}%`;
  return make("li", {}, make("span", { class: "name" }, one.label), make("span", { class: "track", "aria-hidden": "true" }, filled), make("span", { class: "number" }, percent(one.score)));
}

function timeline(run, seconds) {
  const { windows, scores } = run.timeline, box = make("div", { class: "timeline" });
  run.top.forEach((one, place) => {
    const middles = windows.map(([start, end]) => (start + end) / 2);
    const points = [[0, scores[place][0]], ...middles.map((at, window) => [at, scores[place][window]]), [seconds, scores[place].at(-1)]];
    const outline = points.map(([at, score]) => `L${at.toFixed(3)} ${(1 - score).toFixed(4)}`).join("");
    const best = scores[place].indexOf(Math.max(...scores[place]));
    const words = `${one.label}: highest, ${percent(scores[place][best])}, from ${clock(windows[best][0])} to ${clock(windows[best][1])}`;
    const drawing = make("svg", { viewBox: `0 0 ${seconds} 1`, preserveAspectRatio: "none", role: "img", "aria-label": words });
    drawing.append(make("path", { class: "area", d: `M0 1${outline}L${seconds} 1Z` }), make("line", { class: "now", x1: 0, x2: 0, y1: 0, y2: 1 }));
    drawing.addEventListener("click", (event) => {
      const { left, width } = drawing.getBoundingClientRect();
      player.currentTime = seconds * (event.clientX - left) / width;
    });
    box.append(make("span", { "aria-hidden": "true" }, one.label), drawing);
  });
  box.append(make("span"), make("div", { class: "axis", "aria-hidden": "true" }, ...[0, 0.5, 1].map((part) => make("span", {}, clock(part * seconds)))));
  return box;
}

function moveHand() {
  for (const line of document.querySelectorAll(".timeline .now")) {
    line.setAttribute("x1", player.currentTime);
    line.setAttribute("x2", player.currentTime);
  }
  if (!player.paused) requestAnimationFrame(moveHand);
}

function showMap(map) {
  find("#map").hidden = !map;
  if (!map) return;
  const said = {
    places: map.kind === "attention" ? "bright: where the class token looks in the last layer" : "bright: places whose tokens are most like the clip's own vector",
    parts: "alike colours: tokens that are alike (their first three principal components)",
    frame: "the frames as the model gets them",
  };
  const choose = (kind) => {
    for (const button of find("#kinds").children) button.setAttribute("aria-pressed", button.dataset.kind === kind);
    find("#map ol").replaceChildren(...map.frames.map((each) => make("li", {}, make("figure", {},
      make("img", { src: each[kind], alt: `frame at ${clock(each.at_s)}, ${said[kind]}` }), make("figcaption", {}, clock(each.at_s))))));
    find("#map .note").textContent = `${said[kind]}; ${map.run}, ${clock(map.start_s)} to ${clock(map.end_s)}`;
  };
  find("#kinds").replaceChildren(...[["places", "attention"], ["parts", "parts"], ["frame", "frames"]].map(([kind, word]) => {
    const button = make("button", { type: "button", "data-kind": kind }, word === "attention" && map.kind !== "attention" ? "likeness" : word);
    button.addEventListener("click", () => choose(kind));
    return button;
  }));
  choose("places");
}

function showHits(hits, words) {
  find("#nearest").hidden = false;
  find("#nearest .note").textContent = words;
  find("#nearest ul").replaceChildren(...hits.slice(0, EACH_HIT).map((hit) => {
    const said = hit.caption || hit.labels.join(", ") || hit.key;
    const moving = make("video", { src: `${hit.clip}#t=${hit.start_s},${hit.end_s}`, playsinline: "", preload: "metadata", tabindex: "-1" });
    moving.muted = true;
    const shown = make("button", { type: "button", "aria-label": `play or stop: ${said}`, title: "play or stop" }, moving);
    shown.addEventListener("click", () => { if (moving.paused) moving.play(); else moving.pause(); });
    return make("li", {}, shown, make("p", {}, said), make("p", { class: "note" }, `${hit.score.toFixed(3)} · ${hit.key} · ${clock(hit.start_s)} to ${clock(hit.end_s)}`));
  }));
}

async function searchByWords(event) {
  event.preventDefault();
  const text = find("#words").value.trim();
  if (!text) return;
  showTrouble(null);
  try {
    const { hits } = await call("/api/search", { method: "POST", body: JSON.stringify({ text, k: EACH_HIT }) });
    showHits(hits, `nearest to “${text}”`);
  } catch (trouble) { showTrouble(trouble); }
}

function markSample(number) {
  find("#samples ul").querySelectorAll("button").forEach((each, place) => each.setAttribute("aria-pressed", place === number));
}

function showSamples(samples) {
  find("#samples").hidden = !samples.length;
  find("#samples ul").replaceChildren(...samples.map(({ number, caption, key }) => {
    const source = `/api/samples/${number}`, still = make("video", { src: `${source}#t=0.5`, preload: "metadata", tabindex: "-1", "aria-hidden": "true" });
    still.muted = true;
    const button = make("button", { type: "button", "aria-pressed": "false", "aria-label": `sample: ${caption || key}`, title: caption || key }, still);
    button.addEventListener("click", () => { markSample(number); look(`/api/look?sample=${number}`, undefined, source); });
    return make("li", {}, button);
  }));
}

async function startOrStopRecording() {
  if (recorder) { recorder.stop(); return; }
  showTrouble(null);
  let camera;
  try { camera = await navigator.mediaDevices.getUserMedia({ video: true, audio: true }).catch(() => navigator.mediaDevices.getUserMedia({ video: true })); }
  catch (why) { showTrouble({ error: `no camera: ${why.message}`, hint: "Allow this page to use the camera, or choose a file" }); return; }
  const kind = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"].find((each) => MediaRecorder.isTypeSupported(each));
  const parts = [], own = new MediaRecorder(camera, kind ? { mimeType: kind } : {});
  recorder = own;
  own.addEventListener("dataavailable", (event) => parts.push(event.data));
  own.addEventListener("stop", () => {
    clearTimeout(end);
    recorder = null;
    for (const track of camera.getTracks()) track.stop();
    record.textContent = "Record";
    record.classList.remove("on");
    lookAtFile(new Blob(parts, { type: own.mimeType.split(";")[0] }));
  });
  const end = setTimeout(() => own.stop(), 1000 * Math.min(LONGEST_RECORDING_S, about ? about.limits.seconds : LONGEST_RECORDING_S));
  own.start(500);
  clear();
  player.removeAttribute("src");
  player.srcObject = camera;
  player.hidden = false;
  player.play();
  find("#invitation").hidden = true;
  record.textContent = "Stop and look";
  record.classList.add("on");
  statusLine.textContent = `recording, ${LONGEST_RECORDING_S} s at most`;
}

function begin() {
  if (location.search) history.replaceState(null, "", location.pathname); // a token is in the cookie now
  const file = find("#file"), drop = find("#drop");
  find("#choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => { if (file.files[0]) lookAtFile(file.files[0]); file.value = ""; });
  for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) lookAtFile(event.dataTransfer.files[0]);
  });
  record.hidden = !(navigator.mediaDevices && window.MediaRecorder);
  record.addEventListener("click", startOrStopRecording);
  find("#search").addEventListener("submit", searchByWords);
  player.addEventListener("play", moveHand);
  player.addEventListener("seeking", moveHand);
  call("/api/about").then((told) => {
    about = told;
    find("#runs").textContent = told.runs.map((run) => `${run.name}: ${[run.kind.replace("_", " "), run.backbone].filter(Boolean).join(", ")}`).join("  ·  ");
    find("#limits").textContent = `up to ${told.limits.megabytes} MB and ${told.limits.seconds} s`;
    showSamples(told.samples);
    if (told.index) { showHits([], `${told.index.rows.toLocaleString("en")} rows`); find("#search").hidden = !told.index.texts; }
  }).catch(showTrouble);
}

begin();
