/** The page: what is looked at, what was asked about it, and what is shown. */

import { Latest, address, ask } from "./asking.js";
import { fit, layOver, loaded, saved, unitAt } from "./drawing.js";
import { read, written } from "./view.js";

const $ = (id) => document.getElementById(id);
const TILES = 256;
const POLL = 1500;
const PAUSE = 250;

let network, facts, peaks, sheet, view;
let pointed = null; // the unit under the pointer, while there is one
let clean = new Map(); // the probabilities of the picture's classes without a square
let order = [];
let tiles = TILES;
let box = null;

// ---- what is asked, and what is shown of the answers

const classes = new Latest("classes", showClasses, noPicture);
const maps = new Latest("maps", showMaps, fail);
const map = new Latest("map", showMap, fail);
const unit = new Latest("unit", showUnit, fail);
const occluded = new Latest("occluded", showOccluded, fail);
const strongest = new Latest("strongest", showStrongest, fail);

const looked = () => ({ ...view, ...pointed });
const pick = (from, ...names) => Object.fromEntries(names.map((name) => [name, from[name]]));

/** Asks for everything that the view shows and that is not there yet. */
function refresh() {
  const { image, layer } = view;
  facts = network.layers.find((each) => each.name === layer);
  $("photo").src = address("picture", { image });
  $("map").classList.toggle("waiting", view.map === undefined);
  classes.want({ image });
  maps.want({ image, layer });
  if (view.map === undefined || view.y === undefined) return;
  history.replaceState(null, "", written(view));
  document.title = `${layer}, map ${view.map} · Explorer`;
  markMap();
  look();
  strongest.want({ layer, map: view.map });
  $("table").href = address("units", pick(view, "image", "layer", "map", "y", "x", "rule", "overlap"));
}

/** Asks for the unit that is pointed at, or else for the chosen one. */
function look() {
  const { map: number, y, x } = looked();
  const asked = { image: view.image, layer: view.layer, map: number };
  unit.want({ ...asked, y, x, rule: view.rule, overlap: view.overlap });
  if (view.square) occluded.want({ ...asked, ...view.square });
  else map.want(asked);
  layOver($("cursor"), { y0: y, x0: x, y1: y + 1, x1: x + 1 }, facts.height, facts.width);
  $("cursor").hidden = facts.height * facts.width === 1;
  $("map").setAttribute(
    "aria-label",
    `Map ${number} of ${view.layer}, ${facts.height} by ${facts.width} units; row ${y}, column ${x}. Arrow keys choose a unit, Home the strongest.`,
  );
}

function choose(changes) {
  Object.assign(view, changes);
  pointed = null;
  say("");
  refresh();
}

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

function fail(error) {
  say(error instanceof TypeError ? "The server does not answer: it may have been ended." : error.message);
}

function noPicture(error) {
  fail(error);
  const first = $("images").querySelector("input");
  if (first && first.value !== view.image) {
    first.checked = true;
    const told = $("message").textContent;
    choose({ image: first.value, y: undefined, x: undefined });
    say(told);
  }
}

function showClasses(answer) {
  $("title").textContent = answer.title;
  $("photo").alt = `The picture ${answer.title} as the network sees it`;
  clean = new Map(answer.classes.map((each) => [each.number, each.probability]));
  if (!view.square) listClasses(answer.classes);
}

function listClasses(found) {
  const list = $("classes");
  list.classList.toggle("none", !network.classes);
  if (!network.classes) {
    list.textContent = "This network does not end in classes.";
    return;
  }
  list.replaceChildren(
    ...found.map(({ number, name, probability }) => {
      const line = document.createElement("li");
      const before = clean.get(number);
      const changed = view.square && before !== undefined ? `${percent(before)} → ` : "";
      line.style.setProperty("--share", probability);
      line.append(span(name ?? `class ${number}`), span(""));
      line.lastChild.append(span(changed, "before"), percent(probability));
      return line;
    }),
  );
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function span(text, kind = "") {
  const made = document.createElement("span");
  made.textContent = text;
  made.className = kind;
  return made;
}

async function showMaps(answer, asked) {
  if (asked.layer !== view.layer || asked.image !== view.image) return;
  peaks = answer.peaks;
  sheet = { ...answer, picture: await loaded(answer.sheet) };
  const strength = (number) => peaks.value[number] ?? -Infinity;
  const numbers = peaks.value.map((_, number) => number);
  const byStrength = [...numbers].sort((a, b) => strength(b) - strength(a) || a - b);
  order = $("order").value === "strength" ? byStrength : numbers;
  if (!(view.map < facts.maps)) Object.assign(view, { map: byStrength[0], y: undefined, x: undefined });
  if (!(view.y < facts.height && view.x < facts.width)) Object.assign(view, peakOf(view.map));
  drawMaps();
  $("maps").querySelector(":checked")?.closest("label").scrollIntoView({ block: "nearest" });
  refresh();
}

const peakOf = (number) => ({ y: peaks.y[number], x: peaks.x[number] });

function drawMaps() {
  const shown = order.slice(0, tiles);
  if (!shown.includes(view.map)) shown.push(view.map);
  const single = facts.height * facts.width === 1;
  $("maps").classList.toggle("row", single);
  $("maps-title").textContent = `${facts.maps} map${facts.maps === 1 ? "" : "s"} of ${facts.name}`;
  $("maps").replaceChildren(...shown.map(tile));
  $("more").hidden = order.length <= tiles;
  $("more").textContent = `Show ${Math.min(TILES, order.length - tiles)} more of ${order.length}`;
  markMap();
}

function tile(number) {
  const [height, width] = [sheet.height, sheet.width];
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const [row, column] = [Math.floor(number / sheet.columns), number % sheet.columns];
  canvas.getContext("2d").drawImage(sheet.picture, column * width, row * height, width, height, 0, 0, width, height);
  return radio("map", number, `Map ${named(number)}, strongest ${short(peaks.value[number])}`, canvas, span(number));
}

/** A name that may be broken behind points and underscores. */
function breakable(name) {
  const made = span("");
  made.append(...name.split(/(?<=[._])/).flatMap((part) => [part, document.createElement("wbr")]));
  return made;
}

/** The number of a map, and the name of its class where every map is one. */
function named(number) {
  const name = facts.maps === network.classes ? network.names[number] : undefined;
  return name ? `${number}, ${name}` : String(number);
}

/** One of several that can be chosen, as a label around a hidden radio button. */
function radio(name, value, said, ...shown) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name, value });
  input.setAttribute("aria-label", said);
  label.append(input, ...shown);
  label.title = said;
  return label;
}

function markMap() {
  const input = $("maps").querySelector(`input[value="${view.map}"]`);
  if (input && !input.checked) input.checked = true;
  if (!input && order.length) drawMaps();
}

const short = (value) => (value === null || value === undefined ? "not finite" : signed(Number(value.toPrecision(4))));

function showMap(answer, asked) {
  if (view.square) return;
  $("map-picture").src = answer.picture;
  $("map-caption").title = "";
  $("map-caption").textContent = `Map ${asked.map} of ${asked.layer}, from ${short(answer.low)} to ${short(answer.high)}`;
}

function showUnit(answer, asked) {
  if (asked.image !== view.image) return;
  $("projection").src = answer.projection;
  $("patch").src = answer.patch;
  box = answer.box;
  const [y0, x0, y1, x1] = box;
  layOver($("field"), { y0, x0, y1, x1 }, network.size, network.size);
  $("field").hidden = false;
  $("projection-caption").textContent = answer.silent ? "Projection: nothing reaches the pixels" : `Projection, ${asked.rule}`;
  readOut({
    Activation: short(answer.activation),
    Layer: asked.layer,
    Map: named(asked.map),
    Unit: `row ${asked.y}, column ${asked.x}`,
    Sees: `${y1 - y0}×${x1 - x0} pixels`,
    From: `row ${signed(y0)}, column ${signed(x0)}`,
  });
}

/** Facts about the unit, the first of them stressed. */
function readOut(facts) {
  $("readout").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value], place) => {
      const [term, said] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, said.textContent, said.title] = [name, value, value];
      said.className = place ? "" : "strong";
      return [term, said];
    }),
  );
}

const signed = (value) => String(value).replace("-", "−");

function showOccluded(answer, asked) {
  if (!view.square) return;
  listClasses(answer.classes);
  $("map-picture").src = answer.picture;
  const caption = $("map-caption");
  caption.title = `The sum of map ${asked.map} was ${short(answer.clean)} and is ${short(answer.total)}`;
  caption.textContent = answer.clean > 0 ? `Under the square ${percent(answer.total / answer.clean)} of its sum` : caption.title;
}

// ---- the strongest units of the chosen map over the pictures

let listed = "";

function showStrongest(answer, asked) {
  if (asked.layer !== view.layer || asked.map !== view.map) return;
  const { done, total, unreadable } = answer;
  const left = unreadable ? `, ${unreadable} unreadable` : "";
  $("searched").textContent = done < total ? `${done} of ${total} searched${left}` : `${total} pictures${left}`;
  Object.assign($("search"), { max: total, value: done, hidden: done === total });
  list(answer, asked);
  if (done < total) setTimeout(searchOn, POLL);
}

function searchOn() {
  strongest.forget();
  if (!document.hidden) strongest.want(pick(view, "layer", "map"));
  else document.addEventListener("visibilitychange", searchOn, { once: true });
}

async function list({ units, searched }, asked) {
  const key = JSON.stringify([units, asked, view.rule, view.overlap]);
  if (key === listed) return;
  listed = key;
  const buttons = units.map((each) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(new Image(), new Image(), span(`${short(each.activation)} ${each.image}`));
    const said = `${each.image}: activation ${short(each.activation)} at row ${each.y}, column ${each.x}`;
    Object.assign(button, { title: said, onclick: () => goTo(each) });
    button.setAttribute("aria-label", said);
    return button;
  });
  const none = document.createElement("p");
  none.textContent = searched ? "No picture searched so far excites this map." : "A layer of so many maps is not searched.";
  $("strongest").replaceChildren(...(buttons.length ? buttons : [none]));
  await new Promise((done) => setTimeout(done, PAUSE));
  for (const [place, each] of units.entries()) {
    if (listed !== key) return;
    try {
      const given = { ...asked, ...pick(each, "image", "y", "x"), ...pick(view, "rule", "overlap") };
      const { projection, patch } = await ask("unit", given);
      [buttons[place].children[0].src, buttons[place].children[1].src] = [projection, patch];
    } catch (error) {
      fail(error);
      return;
    }
  }
}

function goTo({ image, y, x }) {
  const input = [...$("images").querySelectorAll("input")].find((each) => each.value === image);
  if (input) input.checked = true;
  choose({ image, y, x });
}

// ---- what is chosen

function options(id, names, chosen, change) {
  for (const name of names) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: id, value: name, checked: name === chosen });
    input.onchange = () => change(name);
    label.append(input, name);
    $(id).append(label);
  }
}

function addPicture(name, title) {
  const known = [...$("images").querySelectorAll("input")].find((each) => each.value === name);
  if (known) return known;
  const image = new Image();
  Object.assign(image, { loading: "lazy", alt: "", src: address("picture", { image: name }) });
  const label = radio("image", name, title, image);
  $("images").append(label);
  return label.firstChild;
}

function showLayers() {
  $("layers").append(
    ...network.layers.map((layer) => {
      const size = layer.height * layer.width === 1 ? `${layer.maps}` : `${layer.maps} · ${layer.height}×${layer.width}`;
      const said = [layer.name, layer.kind, `${layer.maps} maps of ${layer.height} by ${layer.width}`].filter(Boolean);
      return radio("layer", layer.name, said.join(", "), breakable(layer.name), span(size));
    }),
  );
}

async function upload(file) {
  say("");
  if (file.size > network.upload.bytes) {
    say(`${file.name} has more than ${Math.round(network.upload.bytes / 2 ** 20)} MB.`);
    return;
  }
  try {
    const how = { method: "POST", body: file, headers: { "X-Name": encodeURIComponent(file.name) } };
    const { image, title } = await ask("upload", {}, how);
    addPicture(image, title).checked = true;
    choose({ image, y: undefined, x: undefined });
  } catch (error) {
    fail(error);
  }
}

function cover(changes) {
  const { size } = network;
  const square = { ...view.square, ...changes };
  square.side = Math.min(Math.max(square.side, 4), size);
  for (const axis of ["y", "x"]) square[axis] = Math.round(Math.min(Math.max(square[axis], 0), size - square.side));
  view.square = square;
  showSquare();
  refresh();
}

function uncover() {
  view.square = undefined;
  for (const question of [classes, map, occluded]) question.forget();
  occluded.want(null);
  showSquare();
  refresh();
}

function showSquare() {
  const { square } = view;
  $("square").hidden = $("sizing").hidden = !square;
  $("covers").checked = Boolean(square);
  if (!square) return;
  const { y, x, side } = square;
  layOver($("square"), { y0: y, x0: x, y1: y + side, x1: x + side }, network.size, network.size);
  $("side").value = side;
  $("sided").textContent = side;
  $("square").setAttribute("aria-label", `Grey square of ${side} pixels at row ${y}, column ${x}. Arrow keys move it.`);
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function listen() {
  $("layers").onchange = (event) => choose({ layer: event.target.value, map: undefined, y: undefined, x: undefined });
  $("images").onchange = (event) => choose({ image: event.target.value, y: undefined, x: undefined });
  $("order").onchange = () => {
    maps.forget();
    refresh();
  };
  $("more").onclick = () => {
    tiles += TILES;
    drawMaps();
  };
  listenToMaps();
  listenToMap();
  listenToSquare();
  listenToFiles();
  $("link").onclick = async () => {
    const address = location.href;
    try {
      await navigator.clipboard.writeText(address);
      $("link").textContent = "Copied";
      setTimeout(() => ($("link").textContent = "Copy link"), 1500);
    } catch {
      say(`The link to this view: ${address}`);
    }
  };
  $("save").onclick = save;
  window.onhashchange = () => {
    const said = read(location.hash);
    if (written(view) !== location.hash) start(said);
  };
}

function listenToMaps() {
  const number = (label) => Number(label.querySelector("input").value);
  const under = (event) => {
    const label = event.target.closest("label");
    if (!label) return null;
    return { map: number(label), ...unitAt(label.querySelector("canvas"), event, facts.height, facts.width) };
  };
  let clicked = false;
  $("maps").addEventListener("pointermove", (event) => {
    const found = under(event);
    if (!found || event.pointerType === "touch") return;
    pointed = found;
    look();
  });
  $("maps").addEventListener("pointerleave", leave);
  $("maps").addEventListener("click", (event) => {
    if (event.target.matches("input") || event.detail === 0) return;
    const found = under(event);
    if (!found) return;
    clicked = true;
    choose(found);
  });
  $("maps").addEventListener("change", (event) => {
    if (!clicked) choose({ map: Number(event.target.value), ...peakOf(event.target.value) });
    clicked = false;
  });
  $("maps").addEventListener("keydown", (event) => {
    const rows = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!rows) return;
    event.preventDefault();
    const inputs = [...$("maps").querySelectorAll("input")];
    const columns = getComputedStyle($("maps")).gridTemplateColumns.split(" ").length;
    const next = inputs[inputs.indexOf(event.target) + rows * columns];
    if (!next) return;
    next.focus();
    next.checked = true;
    choose({ map: Number(next.value), ...peakOf(next.value) });
  });
}

function leave() {
  if (!pointed) return;
  pointed = null;
  look();
}

function listenToMap() {
  const under = (event) => unitAt($("map"), event, facts.height, facts.width);
  $("map").addEventListener("pointermove", (event) => {
    if (view.map === undefined) return;
    pointed = under(event);
    look();
  });
  $("map").addEventListener("pointerleave", leave);
  $("map").addEventListener("click", (event) => choose(under(event)));
  $("map").addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (event.key === "Home") choose(peakOf(view.map));
    else if (step) {
      const within = (value, length) => Math.min(Math.max(value, 0), length - 1);
      choose({ y: within(view.y + step[0], facts.height), x: within(view.x + step[1], facts.width) });
    } else return;
    event.preventDefault();
  });
}

function listenToSquare() {
  const square = $("square");
  $("covers").onchange = (event) => {
    const side = Math.min(Number($("side").value), network.size);
    if (event.target.checked) cover({ side, y: (network.size - side) / 2, x: (network.size - side) / 2 });
    else uncover();
  };
  $("side").oninput = (event) => {
    const change = Number(event.target.value) - view.square.side;
    cover({ side: Number(event.target.value), y: view.square.y - change / 2, x: view.square.x - change / 2 });
  };
  let held = null;
  square.addEventListener("pointerdown", (event) => {
    square.setPointerCapture(event.pointerId);
    held = { at: [event.clientY, event.clientX], from: { ...view.square } };
  });
  square.addEventListener("pointermove", (event) => {
    if (!held) return;
    const scale = network.size / $("frame").getBoundingClientRect().width;
    cover({ y: held.from.y + (event.clientY - held.at[0]) * scale, x: held.from.x + (event.clientX - held.at[1]) * scale });
  });
  for (const end of ["pointerup", "pointercancel"]) square.addEventListener(end, () => (held = null));
  square.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    const pixels = event.shiftKey ? 1 : 8;
    cover({ y: view.square.y + step[0] * pixels, x: view.square.x + step[1] * pixels });
  });
}

function listenToFiles() {
  $("choose").onclick = () => $("file").click();
  $("file").accept = network.upload.formats.map((format) => `image/${format.toLowerCase()}`).join(",");
  $("file").onchange = () => {
    if ($("file").files.length) upload($("file").files[0]);
    $("file").value = "";
  };
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").hidden = true;
    if (event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
  });
}

async function save() {
  const style = getComputedStyle(document.body);
  const colours = { page: style.backgroundColor, text: style.color, quiet: getComputedStyle($("readout")).color };
  const photo = (context, side) => {
    fit(context, $("photo"), side);
    const scale = side / network.size;
    const { square } = view;
    context.fillStyle = $("square").style.background;
    if (square) context.fillRect(square.x * scale, square.y * scale, square.side * scale, square.side * scale);
    const [y0, x0, y1, x1] = box.map((value) => value * scale);
    Object.assign(context, { strokeStyle: "#f6a542", lineWidth: 3 });
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  };
  const shown = (id) => (context, side) => fit(context, $(id), side);
  const pictures = [
    { title: $("title").textContent, draw: photo },
    { title: $("map-caption").textContent, draw: shown("map-picture") },
    { title: $("projection-caption").textContent, draw: shown("projection") },
    { title: "Patch", draw: shown("patch") },
  ];
  const terms = [...$("readout").children].map((each) => each.textContent);
  const words = terms.map((term, place) => (place % 2 ? `${term}   ` : `${term.toLowerCase()} `)).join("").trim();
  const blob = await saved(pictures, [words, $("network").textContent], colours);
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = `${view.layer}-map-${view.map}-${view.y}-${view.x}.png`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
}

function themes() {
  const names = ["auto", "light", "dark"];
  const put = (name) => {
    document.documentElement.dataset.theme = name;
    $("theme").textContent = `Theme: ${name}`;
  };
  put(names.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto");
  $("theme").onclick = () => {
    const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
    localStorage.setItem("theme", next);
    put(next);
  };
}

/** Begins with a view, of which anything may be missing. */
function start(said) {
  const first = $("images").querySelector("input")?.value;
  view = { image: first, layer: network.start, rule: network.rule, overlap: network.overlaps[0], ...said };
  if (!network.layers.some((layer) => layer.name === view.layer)) {
    Object.assign(view, { layer: network.start, map: undefined });
  }
  for (const name of ["rule", "overlap"]) if (!network[`${name}s`].includes(view[name])) view[name] = network[`${name}s`][0];
  addPicture(view.image, view.image).checked = true;
  for (const name of ["layer", "rules", "overlaps"]) {
    const value = view[name.replace(/s$/, "")];
    for (const input of document.querySelectorAll(`input[name="${name}"]`)) input.checked = input.value === value;
  }
  $("layers").querySelector(":checked")?.scrollIntoView({ block: "center" });
  showSquare();
  refresh();
}

async function begin() {
  themes();
  let names;
  try {
    [network, names] = await Promise.all([ask("network"), ask("images")]);
  } catch (error) {
    fail(error);
    return;
  }
  $("network").textContent = `${network.model}, ${network.weights}`;
  $("network").title = $("network").textContent;
  const grey = `rgb(${network.grey.join(" ")})`;
  $("square").style.background = grey;
  $("side").max = network.size;
  options("rules", network.rules, network.rule, (rule) => choose({ rule }));
  options("overlaps", network.overlaps, network.overlaps[0], (overlap) => choose({ overlap }));
  showLayers();
  for (const name of names) addPicture(name, name);
  listen();
  start(read(location.hash));
  if (network.refusal) say(`Projections by the rule "gradient" only: ${network.refusal}`);
}

begin();
