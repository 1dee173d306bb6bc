"use strict";
// Elements and numbers. Names from a model only ever become text nodes.

const facts = JSON.parse(document.getElementById("facts").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child))));
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const short = (value) => isNumber(value) ? String(Number(value.toPrecision(4))) : "–";
const percent = (share) => !isNumber(share) ? "–" : share === 0 ? "0 %" : share < 1e-4 ? "< 0.01 %" : `${Number((100 * share).toPrecision(3))} %`;
const span = (ends) => ends ? `${short(ends[0])} … ${short(ends[1])}` : "–";
const bytes = (size) => size >= 1e5 ? `${(size / 1e6).toFixed(2)} MB` : `${(size / 1e3).toFixed(1)} kB`;

// Of errors: noise over signal, for sorting; null where nothing was measured.
function relative(errors) {
  if (!errors || !errors.count || !isNumber(errors.noise) || !isNumber(errors.signal)) return null;
  return errors.signal > 0 ? errors.noise / errors.signal : errors.noise > 0 ? Infinity : 0;
}

function decibels(errors) {
  if (!errors || !errors.count) return "–";
  if (errors.noise === 0) return "exact";
  return isNumber(errors.sqnr_db) ? errors.sqnr_db.toFixed(1) : "–";
}

// What one group alone does to the worst output; null where that was not measured.
function atOutput(group) {
  return Object.values(group.at_outputs).reduce((worst, errors) => worst === null || relative(errors) > relative(worst) ? errors : worst, null);
}

// The same in decibels, a prediction with a sign before it.
function effect(group) {
  const found = atOutput(group);
  if (found) return decibels(found);
  return group.effect > 0 ? `~${(-10 * Math.log10(group.effect)).toFixed(1)}` : "–";
}

// Shares of all noise at the outputs, the largest last.
const STEPS = [[0, "less than 0.5 %"], [0.005, "0.5 to 2 %"], [0.02, "2 to 5 %"], [0.05, "5 to 10 %"], [0.1, "10 to 20 %"], [0.2, "20 % and more"]];

// The class of a group's colour, e0 (least) to e5 (worst).
const shareClass = (group) => group ? `e${STEPS.findLastIndex(([least]) => group.share >= least)}` : "";

function list(pairs) {
  return element("dl", {}, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function nearInView(node, block = "nearest") {
  if (node) node.scrollIntoView({ block, behavior: "auto" });
}

// A name that may break after what parts it.
function breakable(name) {
  return element("span", {}, ...name.split(/(?<=[/._:])/).flatMap((part) => [part, document.createElement("wbr")]));
}

// Names one below the other, the first few of many.
function lines(names, most = 20) {
  const shown = names.slice(0, most).map((name) => element("div", {}, breakable(name)));
  return names.length ? element("div", {}, ...shown, names.length > most ? `and ${names.length - most} more` : null) : "";
}
