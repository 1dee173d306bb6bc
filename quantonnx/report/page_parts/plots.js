"use strict";
// Plots, each drawn when it is asked for. The plotting library stands behind this script: tables do not wait for it.

const CONFIG = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const numbersIn = (count) => Array.from({ length: count }, (_, index) => index);

const redraws = new Map();

function draw(place, make) {
  redraws.set(place, make);
  if (!window.Plotly) return null;
  const { traces, layout } = make();
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("before"), linecolor: colour("line"), automargin: true };
  const whole = {
    height: 420, margin: { l: 64, r: 20, t: 20, b: 54 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: colour("soft"), bordercolor: colour("line"), font: { color: colour("ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("accent") },
    ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  return Plotly.react(place, traces, whole, CONFIG);
}

function redrawAll() {
  for (const [place, make] of redraws) draw(place, make);
}

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);

// Values that occurred, the ends of the codes, and what lies beyond them.
function histogramPlot(site, logarithmic) {
  const { start, width, counts, seen } = site.histogram;
  const middles = counts.map((_, index) => start + (index + 0.5) * width);
  const [low, high] = site.ends || seen;
  const half = site.scale ? site.scale[1] / 2 : 0;
  const isBeyond = (x) => x < low - half || x > high + half;
  const bars = (name, keep, shade) => ({
    type: "bar", name, x: middles, y: counts.map((count, index) => keep(middles[index]) && count ? count : null), width, offset: -width / 2,
    marker: { color: shade, line: { width: 0 } }, hovertemplate: "%{x:.4g}: %{y} values<extra></extra>",
  });
  const from = Math.min(low, seen[0], start), to = Math.max(high, seen[1], start + width * counts.length), room = (to - from) * 0.02;
  const line = (x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: colour("accent"), width: 2, dash: "dash" } });
  const shade = (x0, x1) => ({ type: "rect", x0, x1, yref: "paper", y0: 0, y1: 1, line: { width: 0 }, fillcolor: colour("bad"), opacity: 0.08, layer: "below" });
  const key = { type: "scatter", mode: "lines", x: [null], y: [null], name: "ends of the codes", line: { color: colour("accent"), dash: "dash" } };
  return {
    traces: [bars("values", (x) => !isBeyond(x), colour("quiet")), bars("clipped", isBeyond, colour("bad")), key],
    layout: {
      barmode: "overlay", bargap: 0, showlegend: true, shapes: [shade(from - room, low), shade(high, to + room), line(low), line(high)],
      xaxis: { title: { text: "value", standoff: 8 }, range: [from - room, to + room] },
      yaxis: { title: { text: "values in a bin", standoff: 8 }, type: logarithmic ? "log" : "linear", exponentformat: "power", dtick: logarithmic ? 1 : undefined },
    },
  };
}

// The values of each channel as a bar, the ends of its codes as lines.
function channelPlot(site, ordered) {
  const { low, high, range_low, range_high, step, before } = site.channels;
  const reach = (index) => Math.max(-low[index], high[index]);
  const order = numbersIn(low.length);
  if (ordered) order.sort((a, b) => reach(b) - reach(a));
  const of = (values) => order.map((index) => values[index]);
  const place = order.map((_, index) => index);
  const names = order.map((index) => step > 1 ? `channels ${index * step} to ${index * step + step - 1}` : `channel ${index}`);
  const bars = (name, from, to, shade, thick) => ({
    type: "bar", name, x: place, base: of(from), y: order.map((index) => to[index] - from[index]), width: thick, text: names, textposition: "none",
    customdata: order.map((index) => [from[index], to[index]]), marker: { color: shade, line: { width: 0 } },
    hovertemplate: "%{text}: %{customdata[0]:.4g} … %{customdata[1]:.4g}<extra></extra>",
  });
  const end = (values, shown) => ({
    type: "scatter", mode: "lines", name: "ends of the codes", legendgroup: "ends", showlegend: shown, x: place, y: of(values),
    line: { color: colour("accent"), width: 1.5, shape: "hvh" }, hoverinfo: "skip",
  });
  const earlier = before.length ? [bars("values before the recipe", before[0], before[1], colour("before"), 1)] : [];
  return {
    traces: [...earlier, bars("values", low, high, colour("quiet"), before.length ? 0.5 : 0.8), end(range_low, true), end(range_high, false)],
    layout: {
      barmode: "overlay", showlegend: true,
      xaxis: { title: { text: ordered ? "channels, the largest first" : "channel", standoff: 8 }, zeroline: false }, yaxis: { title: { text: "value", standoff: 8 } },
    },
  };
}

const MOST_DECIBELS = 80;

// SQNR along the graph; what was predicted is left out, and what is all but exact ends at the upper edge.
function depthPlot(rows) {
  const line = (name, errors, shade, dash, symbol) => ({
    type: "scatter", mode: "lines+markers", name, x: rows.map((_, index) => index + 1),
    y: rows.map((row) => errors(row) && isNumber(errors(row).sqnr_db) ? Math.min(errors(row).sqnr_db, MOST_DECIBELS) : null), connectgaps: true, visible: rows.some(errors) ? true : "legendonly",
    text: rows.map((row) => escaped(row.name)), hovertemplate: "%{text}<br>%{y:.1f} dB<extra></extra>",
    line: { color: shade, width: 1.5, dash }, marker: { size: 6, symbol, color: shade },
  });
  return {
    traces: [
      line("at the outputs, only this group quantized", (row) => atOutput(row.evidence), colour("bad"), "solid", "circle"),
      line("its own result, only this group quantized", (row) => row.evidence.isolated, colour("accent"), "solid", "diamond"),
      line("its own result, all quantized", (row) => row.evidence.accumulated, colour("quiet"), "dot", "x"),
    ],
    layout: { height: 290, hovermode: "closest", xaxis: { title: { text: "group, in the order of the graph", standoff: 8 }, zeroline: false }, yaxis: { title: { text: "SQNR, dB", standoff: 8 }, zeroline: false } },
  };
}
