// Runs the script of a page of curves against as much of a browser as it needs, and says as JSON what it drew.
"use strict";
const html = require("fs").readFileSync(process.argv[2], "utf8");

class Element {
  constructor(name) { Object.assign(this, { name, attributes: {}, children: [], listeners: {}, style: {}, text: "" }); }
  get classList() {
    return { toggle: () => { this.attributes.class = "wide"; }, contains: (name) => this.attributes.class === name };
  }
  setAttribute(key, value) { this.attributes[key] = String(value); }
  addEventListener(kind, listener) { this.listeners[kind] = listener; }
  append(...nodes) { this.children.push(...nodes.map((node) => (typeof node === "string" ? Object.assign(new Element("#"), { text: node }) : node))); }
  replaceChildren(...nodes) { this.children = []; this.append(...nodes); }
  getBoundingClientRect() { return { left: 0, width: 400 }; }
  set textContent(text) { this.children = []; this.text = String(text); }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(" "); }
  all(name) { return this.children.flatMap((child) => [...(child.attributes.class === name ? [child] : []), ...child.all(name)]); }
}

const ids = Object.fromEntries(["runs", "reset", "axis", "smooth", "tip"].map((id) => [id, new Element(id)]));
ids.data = { textContent: html.match(/<script id="data"[^>]*>([^]*?)<\/script>/)[1] };
const tags = Object.fromEntries(["main", "footer", "output"].map((name) => [name, new Element(name)]));
const document = {
  getElementById: (id) => ids[id],
  querySelector: (name) => tags[name],
  createElement: (name) => new Element(name),
  createElementNS: (_, name) => new Element(name),
};
const code = html.match(/<script>([^]*?)<\/script>/)[1];
new Function("document", "addEventListener", "innerWidth", "innerHeight", code)(document, () => {}, 1000, 800);

const plot = tags.main.children[0].all("plot")[0];
const say = () => ({
  panels: tags.main.children.map((card) => card.children[0].children[0].textContent),
  lasts: tags.main.children.map((card) => card.all("lasts")[0].textContent),
  curves: tags.main.children.map((card) => card.all("curve").map((path) => path.attributes.d)),
  raws: tags.main.children.map((card) => card.all("raw").length),
});
const found = { before: say(), runs: ids.runs.children.map((run) => run.textContent) };
plot.listeners.pointermove({ clientX: 225, clientY: 50 });
found.tip = ids.tip.textContent;
plot.listeners.pointerdown({ button: 0, clientX: 225 });
plot.listeners.pointerup({ clientX: 380 });
found.zoomed = say();
plot.listeners.dblclick();
ids.runs.children[0].listeners.click({ shiftKey: false });
found.hidden = say();
console.log(JSON.stringify(found));
