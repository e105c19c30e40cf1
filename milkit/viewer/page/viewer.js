// The page: the list of slides, what is said of one, its heat map and its tiles.

import { DeepZoom } from "./deep_zoom.js";
import { HeatMap } from "./heat_map.js";

const LISTED = 12;       // tiles of the highest and of the lowest rank
const $ = (id) => document.getElementById(id);
const state = { run: null, number: -1, asked: 0, marked: null };
const heat = new HeatMap($("heat"));
const view = new DeepZoom($("slide"), $("overview"), {
  moved(at) { heat.draw(at); drawScale(at); drawMark(at); },
  failed(why) { $("message").textContent = why; },
});

/** An element with attributes and children; text is never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

async function ask(address) {
  let answer;
  try {
    answer = await fetch(address);
  } catch {
    throw new Error("milkit view does not answer; was it ended?");
  }
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

const few = (value, digits = 4) => Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 || value === 0
  ? String(+value.toPrecision(digits)) : value.toExponential(digits - 2);
const probable = () => !["Regression", "Survival"].includes(state.run.kind);
const short = (value) => probable() ? value.toFixed(3) : few(value);
const spread = ([, mean, low, high], slide) => short(mean) + (slide.models > 1 ? ` (${short(low)} to ${short(high)})` : "");

// --- the list ---

/** The score that stands beside what was said: of its class, or the only value. */
function main(slide) {
  return slide.scores.find(([name]) => name === slide.said) ?? (slide.scores.length === 1 ? slide.scores[0] : null);
}

const verdict = (slide) => slide.right === null ? "" : slide.right ? "right" : "wrong";

function listSlides() {
  const { slides } = state.run;
  $("slides").replaceChildren(...slides.map((slide, number) => {
    const score = main(slide);
    const parts = [(probable() || !score) && slide.said, score && spread(score, slide)];
    const said = parts.filter(Boolean).join(": ") || "no held-out prediction";
    const right = verdict(slide);
    const button = make("button", { onclick: () => choose(number), title: slide.missing }, make("b", {}, slide.slide), make("span", {}, said));
    if (right) button.append(make("em", { className: right }, right === "right" ? "✓ right" : `✗ wrong: is ${slide.truth}`));
    else if (slide.truth) button.append(make("span", {}, `truth: ${slide.truth}`));
    button.append(make("span", {}, slide.models ? `held out by ${slide.held_out}` : slide.held_out));
    if (slide.missing) button.append(make("span", {}, "no slide file"));
    return make("li", { className: slide.missing ? "missing" : "" }, button);
  }));
  search();
}

function search() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  [...$("slides").children].forEach((item) => {
    const text = item.textContent.toLowerCase();
    item.hidden = !words.every((word) => text.includes(word));
    shown += !item.hidden;
  });
  const all = state.run.slides.length, missing = state.run.slides.filter((s) => s.missing).length;
  $("count").textContent = `${shown === all ? all : `${shown} of ${all}`} slides` + (missing ? `, ${missing} without a file` : "");
}

/** The slide `by` places further among those that the search shows. */
function next(by) {
  const shown = [...$("slides").children].flatMap((item, i) => item.hidden ? [] : [i]);
  const at = shown.indexOf(state.number);
  const to = at < 0 ? (by > 0 ? 0 : shown.length - 1) : at + by;
  if (shown[to] !== undefined) choose(shown[to]);
}

// --- one slide ---

async function choose(number) {
  state.number = number;
  state.asked++;  // a map that is still under way is of another slide
  const slide = state.run.slides[number];
  [...$("slides").children].forEach((item, i) => item.firstChild.setAttribute("aria-current", i === number));
  $("slides").children[number].scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", `#${number}`);
  document.title = `${slide.slide} · ${state.run.name} · milkit view`;
  document.body.dataset.slide = "";
  showSaid(slide);
  clearMap();
  view.open(null);
  $("scale").hidden = $("overview").hidden = true;
  $("message").textContent = slide.missing || "Opening …";
  if (!slide.missing) {
    try {
      const facts = await ask(`/slide/${number}`);
      if (state.number !== number) return;
      $("message").textContent = "";
      $("overview").hidden = false;
      view.open({ ...facts, url: `/slide/${number}` });
      document.body.dataset.slide = number;
    } catch (error) {
      if (state.number === number) $("message").textContent = error.message;
      return;
    }
  }
  loadMap();
}

function showSaid(slide) {
  const rows = [["slide", slide.slide], ["patient", slide.patient !== slide.slide ? slide.patient : ""],
    ["bag", slide.bag !== slide.slide ? slide.bag : ""], ["truth", slide.truth], ["predicted", slide.said]];
  const list = make("dl", {}, ...rows.filter(([, text]) => text).map(([what, text]) => make("div", {}, make("dt", {}, what), make("dd", {}, text))));
  const right = verdict(slide);
  if (right) list.lastChild.lastChild.append(" ", make("span", { className: right }, right === "right" ? "✓ right" : "✗ wrong"));
  const said = [list];
  for (const score of slide.scores) {
    const row = make("div", { className: "score" }, make("div", {}, make("span", {}, score[0]), make("span", {}, spread(score, slide))));
    if (probable()) row.append(track(score));
    said.push(row);
  }
  const models = slide.models === 1 ? "one model" : `mean (lowest to highest) of ${slide.models} models`;
  said.push(make("p", { className: "quiet" }, slide.models ? `${models} that held the slide out: ${slide.held_out}` : slide.held_out));
  $("said").replaceChildren(...said);
}

/** A probability as a mark between 0 and 1, over the range of the models. */
function track([, mean, low, high]) {
  const range = make("i"), mark = make("u");
  Object.assign(range.style, { left: `${100 * low}%`, width: `${100 * (high - low)}%` });
  mark.style.left = `${100 * mean}%`;
  return make("div", { className: "track" }, range, mark);
}

function drawScale(at) {
  $("scale").hidden = !at;
  if (!at) return;
  const most = 140 * at.mpp / at.scale;  // um in 140 px of the screen
  const ten = 10 ** Math.floor(Math.log10(most));
  const um = [5, 2, 1].find((n) => n * ten <= most) * ten;
  $("bar").style.width = `${um * at.scale / at.mpp}px`;
  $("length").textContent = um >= 1000 ? `${um / 1000} mm` : `${+um.toPrecision(1)} µm`;
}

/** The ring around a tile that was chosen. */
function drawMark(at) {
  $("mark").hidden = !at || !state.marked;
  if ($("mark").hidden) return;
  const { x, y, width } = state.marked, ratio = devicePixelRatio || 1;
  const side = `${width * at.s / ratio}px`;
  Object.assign($("mark").style, { left: `${(x * at.s - at.left) / ratio}px`, top: `${(y * at.s - at.top) / ratio}px`, width: side, height: side });
}

// --- its heat map ---

function clearMap() {
  heat.set(null);
  $("legend").hidden = $("tiles").hidden = true;
  $("map-message").textContent = "";
  document.body.dataset.map = "";
  state.marked = null;
  view.paint();
}

/** Attention belongs to no class; all else is relevance for one. */
function offerLabels() {
  const kind = $("kind").value, names = state.run.names;
  const choices = kind === "attention" ? [["-", "of no class"]] : [["", "choose …"], ...names.map((name, i) => [String(i), name])];
  $("label").replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  $("label").disabled = !kind || kind === "attention";
  if (kind && kind !== "attention" && names.length === 1) $("label").value = "0";
}

async function loadMap() {
  const kind = $("kind").value, label = $("label").value, number = state.number, asked = ++state.asked;
  clearMap();
  if (!kind || !label || number < 0) return;
  $("map-message").textContent = "Asking the models … (the first time takes longest)";
  try {
    const query = new URLSearchParams({ kind, label: label === "-" ? "" : state.run.names[label] });
    const said = await ask(`/slide/${number}/map?${query}`);
    if (asked !== state.asked) return;
    $("map-message").textContent = "";
    heat.set(said, view.slide);
    showLegend(said);
    listTiles();
    document.body.dataset.map = kind;
    view.paint();
  } catch (error) {
    if (asked === state.asked) $("map-message").textContent = error.message;
  }
}

function showLegend(said) {
  const { order, scores, ranks } = heat.map;
  const known = order.filter((tile) => ranks[tile]);
  heat.drawColours($("colours"));
  $("low").textContent = known.length ? `lowest ${few(scores[known.at(-1)])}` : "";
  $("high").textContent = known.length ? `highest ${few(scores[known[0]])}` : "";
  const loud = (line) => said.marks.some((mark) => line.toLowerCase().startsWith(mark.toLowerCase()));
  $("words").replaceChildren(...said.legend.split("\n").map((line) => make("li", { className: loud(line) ? "wrong" : "" }, line)));
  $("legend").hidden = false;
}

function listTiles() {
  const known = heat.map.order.filter((tile) => heat.map.ranks[tile]);
  $("top").replaceChildren(...known.slice(0, LISTED).map(tileItem));
  $("bottom").replaceChildren(...known.slice(-LISTED).reverse().map(tileItem));
  $("tiles").hidden = false;
}

function tileItem(tile) {
  const { x, y, width } = heat.square(tile);
  const rank = heat.map.ranks[tile];
  const words = `rank ${rank} of ${heat.map.tiles}, score ${few(heat.map.scores[tile])}`;
  const picture = view.slide && x >= 0 && y >= 0
    ? make("img", { src: `/slide/${state.number}/tile/${x}/${y}/${width}`, alt: "", loading: "lazy" })
    : make("div", { className: "none" });
  const button = make("button", { title: words, ariaLabel: words, ariaPressed: "false" }, picture, `${rank}: ${few(heat.map.scores[tile], 3)}`);
  button.addEventListener("click", () => goTo(tile, button));
  return make("li", {}, button);
}

/** Show a tile in the middle, a third of the view wide if it has the pixels, with a ring around it. */
function goTo(tile, button) {
  if (!view.slide) return;
  const square = heat.square(tile), { clientWidth: w, clientHeight: h } = view.canvas;
  document.querySelectorAll("#tiles [aria-pressed=true]").forEach((other) => { other.ariaPressed = "false"; });
  button.ariaPressed = "true";
  state.marked = square;
  view.go(square.x + square.width / 2, square.y + square.width / 2, Math.min(Math.min(w, h) / 3 / square.width, 2));
  readTile(tile, square.x, square.y);
}

function readTile(tile, x, y) {
  const { mpp } = view.slide;
  const place = `x ${Math.round(x * mpp)} µm, y ${Math.round(y * mpp)} µm`;
  if (tile < 0) { $("hover").textContent = place; return; }
  const { ranks, scores, tiles } = heat.map;
  $("hover").textContent = ranks[tile] ? `${place} · score ${few(scores[tile])} · rank ${ranks[tile]} of ${tiles}` : `${place} · score not known`;
}

// --- wiring ---

function toggle() {
  heat.shown = $("show").checked;
  view.paint();
}

function listen() {
  $("search").addEventListener("input", search);
  $("kind").addEventListener("change", () => { offerLabels(); loadMap(); });
  $("label").addEventListener("change", loadMap);
  $("show").addEventListener("change", toggle);
  $("opacity").addEventListener("input", () => { $("heat").style.opacity = $("opacity").value / 100; });
  $("in").addEventListener("click", () => view.zoom(1.5));
  $("out").addEventListener("click", () => view.zoom(1 / 1.5));
  $("fit").addEventListener("click", () => view.slide && view.fit());
  $("one").addEventListener("click", () => view.slide && view.go(view.x, view.y, 1 / (devicePixelRatio || 1)));
  $("slide").addEventListener("pointermove", (event) => {
    if (!view.slide) return;
    const { x, y } = view.place(event.offsetX, event.offsetY);
    readTile(heat.at(x, y), x, y);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "h") { $("show").checked = !$("show").checked; toggle(); }
    if (event.key === "n") next(1);
    if (event.key === "p") next(-1);
  });
}

async function start() {
  listen();
  $("heat").style.opacity = $("opacity").value / 100;
  try {
    const run = state.run = await ask("/run");
    $("run").textContent = run.name;
    $("facts").textContent = `${run.kind}: ${run.names.join(", ")} · epoch chosen on ${run.selection}`;
    $("marks").textContent = run.marks.length ? `marked: ${run.marks.join("; ")}` : "";
    $("marks").hidden = !run.marks.length;
    $("no-map").textContent = run.why_no_map;
    $("no-map").hidden = !run.why_no_map;
    $("map-choice").hidden = Boolean(run.why_no_map);
    $("kind").append(...Object.entries(run.kinds).map(([kind, words]) => make("option", { value: kind, title: kind }, words)));
    offerLabels();
    listSlides();
    const number = Number(location.hash.slice(1) || -1);
    const first = run.slides.findIndex((slide) => !slide.missing);
    if (run.slides.length) choose(run.slides[number] ? number : Math.max(first, 0));
  } catch (error) {
    $("message").textContent = error.message;
  }
  document.body.dataset.ready = "true";
}

start();
