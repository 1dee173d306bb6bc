"use strict";
// The sections, and what a choice in one of them changes in the others.

const measured = facts.evidence || { groups: [], sites: [], outputs: {}, samples: 0 };
const evidenceOf = new Map(measured.groups.map((group) => [group.name, group]));
const siteErrors = new Map();
for (const site of measured.sites) siteErrors.set(site.tensor, [...(siteErrors.get(site.tensor) || []), site]);

const groups = facts.groups.map((group) => ({ ...group, evidence: evidenceOf.get(group.name) || null }));
const known = new Set(groups.map((group) => group.name));
const holding = new Map(groups.flatMap((group) => group.nodes.map((node) => [node, group])));
for (const group of measured.groups) {
  if (known.has(group.name)) continue;
  const holder = holding.get(group.nodes[0]);
  if (holder && !holder.evidence) holder.evidence = group;
  else groups.push({ ...group, state: "", reason: "", decided_by: "", place: group.place, sites: [], evidence: group });
}
const sites = facts.sites.map((site, number) => ({ ...site, number, measured: site.evidence === null ? null : measured.sites[site.evidence] }));
const ranks = new Map(measured.groups.map((group, index) => [group, index]));
const ranked = groups.filter((group) => group.evidence);
for (const group of ranked) if (!ranks.has(group.evidence)) ranks.set(group.evidence, ranks.get(evidenceOf.get(group.evidence.name)));
ranked.sort((a, b) => ranks.get(a.evidence) - ranks.get(b.evidence));
ranked.forEach((group, index) => { group.rank = index + 1; });

const ofGroup = (group) => (group.evidence ? group.evidence.sites : []).flatMap((tensor) => siteErrors.get(tensor) || []);
const clippedOf = (group) => ofGroup(group).reduce((most, site) => Math.max(most, site.clipped), 0);
const usedOf = (group) => {
  const used = ofGroup(group).filter((site) => site.role !== "bias" && site.code_range_used > 0).map((site) => site.code_range_used);
  return used.length ? Math.min(...used) : null;
};
const clippedShare = (site) => site.measured && site.measured.code_range_used ? site.measured.clipped : site.clipped ? site.clipped[0] + site.clipped[1] : null;

function cards() {
  const made = [];
  const add = (what, value, more) => made.push(element("div", { class: "card" }, element("div", { class: "what" }, what),
    element("div", { class: "value" }, value), element("div", { class: "more" }, more || "")));
  const worst = Object.entries(facts.metrics ? facts.metrics.outputs : measured.outputs)
    .sort(([, a], [, b]) => (a.sqnr_db === null ? Infinity : a.sqnr_db) - (b.sqnr_db === null ? Infinity : b.sqnr_db))[0];
  if (worst) add("SQNR of the worst output", worst[1].sqnr_db === null ? "exact" : `${worst[1].sqnr_db.toFixed(1)} dB`, worst[0]);
  const found = facts.metrics;
  if (found && isNumber(found.agreement)) add("top-1 agreement with float", percent(found.agreement), `${found.samples} samples`);
  if (found && isNumber(found.accuracy)) add("accuracy", percent(found.accuracy), `float ${percent(found.float_accuracy)}`);
  if (facts.bytes) add("size", bytes(facts.bytes.quantized), `float ${bytes(facts.bytes.float)}`);
  if (facts.speed) add(`latency, ${facts.speed.threads} thread${facts.speed.threads > 1 ? "s" : ""}`, `${short(facts.speed.quantized_ms)} ms`,
    `float ${short(facts.speed.float_ms)} ms (${facts.speed.ratio.toFixed(2)} of its time)`);
  const count = (kind) => sites.filter((site) => site.kind === kind).length;
  const matched = groups.filter((group) => group.state && group.state !== "operator");
  if (matched.length) add("groups on integers", `${matched.filter((group) => group.state === "integer").length} of ${matched.length}`,
    `${count("activation")} activation pairs, ${count("weight")} weights`);
  else add("Q/DQ pairs", String(count("activation")), `${sites.length - count("activation")} quantized constants`);
  byId("cards").append(...made);
}

function outputs() {
  const rows = facts.metrics
    ? Object.entries(facts.metrics.outputs).map(([name, found]) => [name, isNumber(found.sqnr_db) ? found.sqnr_db.toFixed(1) : found.max_abs === 0 ? "exact" : "–", found.cosine, found.max_abs, found.agreement])
    : Object.entries(measured.outputs).map(([name, found]) => [name, decibels(found), found.cosine, null, null]);
  if (!rows.length) return;
  const cell = (value, number) => element("td", { class: number ? "number" : null }, value);
  const heads = ["output", "SQNR dB", "cosine", "max |difference|", "top-1 agreement"];
  byId("outputs").append(element("table", { class: "plain" },
    element("thead", {}, element("tr", {}, ...heads.map((head, index) => element("th", { class: index ? "number" : null }, head)))),
    element("tbody", {}, ...rows.map(([name, sqnr, cosine, most, agreement]) => element("tr", {}, cell(name), cell(sqnr, true),
      cell(isNumber(cosine) ? cosine.toFixed(6) : "–", true), cell(short(most), true), cell(percent(agreement), true))))));
}

const shareBar = (share) => element("span", {}, element("span", { class: "share", style: `width:${Math.round(60 * share)}px` }), percent(share));
const shaded = (group) => element("span", {}, element("span", { class: `swatch ${shareClass(group)}` }), effect(group));
const blamed = (group) => Object.entries(group.blame).sort(([, a], [, b]) => b - a);
const roleOf = (tensor) => (siteErrors.get(tensor) || [{ role: "" }])[0].role.replace("_", " ");
const toBlame = (group) => blamed(group).slice(0, 1).map(([tensor, share]) => `${roleOf(tensor)} ${Math.round(100 * share)} %`)[0] || null;

function culpritTable() {
  if (!ranked.length) {
    byId("depth").remove();
    byId("culprit-table").append(element("p", { class: "empty" }, "Errors were not measured: there were no samples, or nothing is quantized."));
    return null;
  }
  return new Table(byId("culprit-table"), {
    rows: ranked, pick: (row) => pickGroup(row), sort: [0, 1], placeholder: "filter by name, pattern",
    columns: [
      { title: "rank", value: (row) => row.rank, number: true },
      { title: "group", value: (row) => row.name, show: (row) => breakable(row.name), kind: "name" },
      { title: "pattern", value: (row) => row.pattern, kind: "word" },
      { title: "outputs dB", value: (row) => row.evidence.effect, show: (row) => shaded(row.evidence), number: true, hint: "SQNR of the worst output where only this group is quantized; ~ is predicted; worst first" },
      { title: "share of noise", value: (row) => row.evidence.share, show: (row) => shareBar(row.evidence.share), number: true, hint: "of the sum of what all groups alone do to the outputs" },
      { title: "mostly by", value: (row) => toBlame(row.evidence), kind: "word", hint: "the pair or weight without which most of its noise is gone; measured for the worst groups" },
      { title: "its own dB", value: (row) => relative(row.evidence.isolated), show: (row) => decibels(row.evidence.isolated), number: true, hint: "SQNR of the group's own result where only it is quantized; worst first" },
      { title: "with all dB", value: (row) => relative(row.evidence.accumulated), show: (row) => decibels(row.evidence.accumulated), number: true, hint: "SQNR of the group's result in the quantized model" },
      { title: "clipped", value: clippedOf, show: (row) => percent(clippedOf(row)), number: true, hint: "largest share of clipped values among its pairs" },
      { title: "codes used", value: usedOf, show: (row) => percent(usedOf(row)), number: true, hint: "smallest used part of the code range among its pairs" },
      { title: "MMACs", value: (row) => row.evidence.macs, show: (row) => (row.evidence.macs / 1e6).toFixed(2), number: true, hint: "million multiply-accumulates" },
    ],
  });
}

function siteTable() {
  const errors = (row) => row.kind === "bias" ? null : row.measured && row.measured.errors;
  const known = sites.some((row) => row.range) ? [{ title: "found by", value: (row) => row.range }] : [];
  return new Table(byId("site-table"), {
    rows: sites, pick: (row) => pickSite(row), sort: [3, -1], placeholder: "filter by tensor, format, pattern",
    choices: { label: "kind", options: ["all kinds", "activation", "weight", "bias"], test: (row, kind) => kind === "all kinds" || row.kind === kind },
    columns: [
      { title: "tensor", value: (row) => row.tensor, show: (row) => breakable(row.tensor), kind: "name" },
      { title: "role", value: (row) => row.roles.join(", ").replace("_", " ") },
      { title: "format", value: (row) => row.format },
      { title: "SQNR dB", value: (row) => relative(errors(row)), show: (row) => decibels(errors(row)), number: true, hint: "of this pair alone, on float values; worst first. Biases have none: correction changes them on purpose" },
      { title: "with all dB", value: (row) => errors(row) ? relative(row.measured.accumulated) : null, show: (row) => errors(row) ? decibels(row.measured.accumulated) : "–", number: true, hint: "SQNR of the values in the quantized model" },
      { title: "clipped", value: clippedShare, show: (row) => percent(clippedShare(row)), number: true },
      { title: "codes used", value: (row) => row.measured && row.measured.code_range_used || null, show: (row) => percent(row.measured && row.measured.code_range_used || null), number: true },
      { title: "values", value: (row) => seenOf(row) ? seenOf(row)[1] - seenOf(row)[0] : null, show: (row) => span(seenOf(row)), number: true },
      { title: "range of codes", value: (row) => endsOf(row) ? endsOf(row)[1] - endsOf(row)[0] : null, show: (row) => span(endsOf(row)), number: true },
      ...known,
    ],
  });
}

function seenOf(site) {
  if (site.histogram) return site.histogram.seen;
  if (site.channels && site.channels.low.length) return [Math.min(...site.channels.low), Math.max(...site.channels.high)];
  return site.measured && site.measured.seen[0] !== site.measured.seen[1] ? site.measured.seen : null;
}

function endsOf(site) {
  return site.ends || (site.measured && site.kind !== "bias" ? site.measured.range : null);
}

function decisionTable() {
  if (!facts.groups.length) {
    byId("decision-table").append(element("p", { class: "empty" }, "Two files were compared, and files do not tell what was decided and why: the report of `quantize` does, and `quantonnx explain`."));
    return null;
  }
  const states = ["all", ...new Set(groups.map((group) => group.state).filter(Boolean))];
  return new Table(byId("decision-table"), {
    rows: groups.filter((group) => group.state), pick: (row) => pickGroup(row), sort: [5, 1], placeholder: "filter by name, pattern, reason, rule",
    choices: { label: "state", options: states, test: (row, state) => state === "all" || row.state === state },
    columns: [
      { title: "group or operator", value: (row) => row.name, show: (row) => breakable(row.name), kind: "name" },
      { title: "pattern", value: (row) => row.pattern, kind: "word" },
      { title: "what became of it", value: (row) => row.state, show: (row) => element("span", { class: `state ${row.state.replace(" ", "-")}` }, row.state === "operator" ? "no group" : row.state) },
      { title: "why", value: (row) => row.reason, kind: "text" },
      { title: "decided by", value: (row) => row.decided_by, kind: "text" },
      { title: "place", value: (row) => row.place, number: true, hint: "position in the graph" },
      { title: "nodes", value: (row) => row.nodes.length, number: true },
    ],
  });
}

function changeTable() {
  if (!facts.changes.length) return;
  const pair = (ends) => `${short(ends[0])} → ${short(ends[1])}`;
  byId("change-table").append(element("h3", {}, "What each step made of weights and biases"));
  new Table(byId("change-table"), {
    rows: facts.changes, sort: [0, 1], placeholder: "filter by step, name",
    columns: [
      { title: "step", value: (row) => facts.recipe.findIndex((step) => step.name === row.step) + 1, show: (row) => row.step, kind: "word" },
      { title: "weight or bias", value: (row) => row.tensor, show: (row) => breakable(row.tensor), kind: "name" },
      { title: "operator", value: (row) => row.node, show: (row) => breakable(row.node), kind: "name" },
      { title: "largest magnitude", value: (row) => row.largest[1], show: (row) => pair(row.largest), number: true },
      { title: "spread of channels", value: (row) => row.spread[1], show: (row) => row.spread[0] === 1 && row.spread[1] === 1 ? "–" : pair(row.spread), number: true, hint: "largest channel over the median one; 1 is best for one scale" },
      { title: "moved", value: (row) => row.moved, show: (row) => percent(row.moved), number: true, hint: "norm of the change over the norm before" },
    ],
  });
}

function layerTable() {
  if (!facts.layers.length) return;
  const inDecibels = (share) => !isNumber(share) ? "–" : share > 0 ? (-10 * Math.log10(share)).toFixed(1) : "exact";
  byId("layer-table").append(element("h3", {}, "Outputs of layers: weights rounded to nearest, and with codes chosen by the recipe"));
  new Table(byId("layer-table"), {
    rows: facts.layers, sort: [3, -1], placeholder: "filter by name",
    columns: [
      { title: "weight", value: (row) => row.tensor, show: (row) => breakable(row.tensor), kind: "name" },
      { title: "operator", value: (row) => row.node, show: (row) => breakable(row.node), kind: "name" },
      { title: "SQNR before, dB", value: (row) => row.before, show: (row) => inDecibels(row.before), number: true },
      { title: "SQNR after, dB", value: (row) => row.after, show: (row) => inDecibels(row.after), number: true },
      { title: "gain, dB", value: (row) => row.before > 0 && row.after > 0 ? 10 * Math.log10(row.before / row.after) : null,
        show: (row) => row.before > 0 && row.after > 0 ? (10 * Math.log10(row.before / row.after)).toFixed(1) : "–", number: true },
      { title: "seconds", value: (row) => row.seconds, show: (row) => row.seconds.toFixed(2), number: true },
    ],
  });
}

const inEvidence = new Set(measured.groups.flatMap((group) => group.nodes));

function legend() {
  const measuredAny = ranked.length > 0;
  const entry = (name, text) => element("span", {}, element("span", { class: `swatch ${name}` }), text);
  const steps = measuredAny ? [element("span", {}, "share of all noise at the outputs:"), ...STEPS.map(([, text], index) => entry(`e${index}`, text))] : [];
  const moving = [...document.querySelectorAll("#picture .op.integer[data-name]")].some((box) => !holding.has(box.dataset.name) && !inEvidence.has(box.dataset.name));
  byId("legend").append(...steps, element("span", {}, element("span", { class: "swatch", style: "background:#eceff2;border-style:dashed" }), "float"),
    measuredAny && !moving ? "" : element("span", {}, element("span", { class: "swatch", style: "background:#b9d8f2" }), measuredAny ? MOVES : "integers"),
    element("span", {}, element("span", { class: "swatch", style: "background:#1f6fb2" }), "Q/DQ pair"));
}

function otherOutputs(group) {
  const found = Object.entries(group.at_outputs);
  return found.length > 1 ? [lines(found.map(([name, errors]) => `${name}: ${decibels(errors)} dB`))] : [];
}

function sitesOf(group) {
  if (group.sites && group.sites.length || !group.evidence) return (group.sites || []).map((number) => sites[number]);
  const own = new Set(group.evidence.sites);
  return sites.filter((site) => own.has(site.tensor));
}

function groupDetail(group) {
  const found = group.evidence;
  const own = sitesOf(group);
  const buttons = own.map((site) => element("button", { type: "button", class: "link", onclick: () => { pickSite(site); nearInView(byId("sites"), "start"); } },
    `${site.roles.join(", ")}: `, breakable(site.tensor)));
  byId("group-detail").replaceChildren(element("h3", {}, breakable(group.name)), list([
    ["pattern", group.pattern],
    ["state", group.state && element("span", { class: `state ${group.state.replace(" ", "-")}` }, group.state === "operator" ? "no group" : group.state)],
    ["try", facts.advice[group.name]],
    ["at outputs", found && element("span", {}, shaded(found), " dB, only it quantized", ...otherOutputs(found))],
    ["share of noise", found && percent(found.share)],
    ["mostly by", found && lines(blamed(found).filter(([, share]) => share >= 0.01).map(([tensor, share]) => `${Math.round(100 * share)} % ${roleOf(tensor)} ${tensor}`))],
    ["its own result", found && `${decibels(found.isolated)} dB, only it quantized`],
    ["", found && `${decibels(found.accumulated)} dB, all quantized`],
    ["cosine", found && isNumber(found.isolated.cosine) && found.isolated.cosine.toFixed(6)],
    ["MACs", found && found.macs ? found.macs.toLocaleString("en") : ""],
    ["estimated time", found && found.integer_us !== null ? `${short(found.integer_us)} µs, in float ${short(found.float_us)} µs` : ""],
    ["why", group.reason], ["decided by", group.decided_by],
    ["nodes", lines(group.nodes)],
    ["pairs", buttons.length ? element("div", {}, ...buttons) : ""],
  ].map(([name, value]) => [name, value === false ? "" : value])));
}

function siteDetail(site) {
  const found = site.measured;
  byId("site-detail").replaceChildren(element("h3", {}, breakable(site.tensor)), list([
    ["role", site.roles.join(", ")], ["format", site.format], ["found by", site.range],
    ["values", seenOf(site) && span(seenOf(site))], ["range", endsOf(site) && span(endsOf(site))],
    ["scale", site.scale && (site.scale[0] === site.scale[1] ? short(site.scale[0]) : span(site.scale))],
    ["zero point", site.zero_point && (site.zero_point[0] === site.zero_point[1] ? site.zero_point[0] : span(site.zero_point))],
    ["clipped", site.clipped && `${percent(site.clipped[0])} below, ${percent(site.clipped[1])} above`],
    ["histogram", site.histogram && `of the float values on ${facts.samples} samples`],
    ...(site.kind === "bias" ? [["change", found && `${decibels(found.errors)} dB: correction moves it on purpose`]] : [
      ["SQNR", found && `${decibels(found.errors)} dB`], ["with all", found && `${decibels(found.accumulated)} dB`],
      ["cosine", found && isNumber(found.errors.cosine) ? found.errors.cosine.toFixed(6) : ""]]),
    ["codes used", found && found.code_range_used ? `${found.codes[0]} to ${found.codes[1]} (${percent(found.code_range_used)})` : ""],
    ["clipping", found && found.clipping ? `${percent(found.clipping)} of its noise` : ""],
    ["pattern", site.pattern], ["why", site.reason], ["decided by", site.decided_by], ["read by", lines(site.readers)],
  ]));
}

const view = { logarithmic: true, ordered: false, site: null };

function siteTools(site) {
  const toggle = (name, text) => element("button", { type: "button", "aria-pressed": String(view[name]), onclick: () => { view[name] = !view[name]; pickSite(site); } }, text);
  const chooser = element("select", { id: "site-choice", "aria-label": "site", onchange: (event) => pickSite(sites[Number(event.target.value)]) },
    ...sites.map((other) => element("option", { value: other.number, selected: other === site }, `${other.roles[0]}: ${other.tensor}`)));
  byId("site-tools").replaceChildren(chooser, site.histogram ? toggle("logarithmic", "log y") : "", site.channels ? toggle("ordered", "largest first") : "");
}

function pickSite(site) {
  view.site = site;
  siteDetail(site);
  siteTools(site);
  tables.sites.select(site);
  const place = byId("site-plot");
  const make = site.histogram ? () => histogramPlot(site, view.logarithmic) : site.channels ? () => channelPlot(site, view.ordered) : null;
  if (make) {
    place.querySelectorAll(".empty").forEach((note) => note.remove());
    draw(place, make);
    return;
  }
  redraws.delete(place);
  if (window.Plotly) Plotly.purge(place);
  const why = { bias: "A bias takes the product of two scales: nothing to choose.", weight: "The ranges of weights stand in the report of `quantize`." };
  place.replaceChildren(element("p", { class: "empty", style: "padding:12px" }, why[site.kind] || "No samples showed the values of this tensor."));
}

function pickGroup(group) {
  groupDetail(group);
  picture.select(group);
  if (tables.culprits) tables.culprits.select(group);
  if (tables.decisions) tables.decisions.select(group);
}

cards();
outputs();
legend();
const tables = { culprits: culpritTable(), sites: siteTable(), decisions: decisionTable() };
changeTable();
layerTable();
const picture = new Graph(groups, pickGroup);
if (groups.length) pickGroup(ranked[0] || groups[0]);
if (sites.length) {
  const worst = tables.sites.visible(), drawable = (site) => site.histogram || site.channels;
  const guilty = ranked.length ? blamed(ranked[0].evidence).map(([tensor]) => sites.find((site) => site.tensor === tensor)) : [];
  pickSite(guilty.slice(0, 1).find((site) => site && drawable(site)) || worst.find(drawable) || worst[0]);
} else byId("site-detail").append(element("p", { class: "empty" }, "Nothing is quantized."));
document.documentElement.dataset.interactive = String(Math.round(performance.now()));

window.addEventListener("DOMContentLoaded", () => {
  if (ranked.length) {
    const inOrder = [...ranked].sort((a, b) => a.evidence.place - b.evidence.place);
    draw(byId("depth"), () => depthPlot(inOrder));
    byId("depth").on("plotly_click", (event) => pickGroup(inOrder[event.points[0].pointNumber]));
  }
  redrawAll();
  document.documentElement.dataset.drawn = String(Math.round(performance.now()));
});
