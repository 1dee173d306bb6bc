"use strict";
// The picture of the graph: colours by error, a tip under the mouse, a choice by a click, and zoom.

const MOVES = "moves integers to other places: no error of its own";

class Graph {
  constructor(rows, pick) {
    this.frame = byId("picture");
    this.svg = this.frame.querySelector("svg");
    this.tip = byId("tip");
    this.boxes = new Map();
    if (!this.svg) return;
    this.size = [this.svg.width.baseVal.value, this.svg.height.baseVal.value];
    const groupOf = new Map();
    for (const row of rows) for (const node of row.nodes) if (!groupOf.has(node) || row.evidence) groupOf.set(node, row);
    for (const box of this.svg.querySelectorAll(".op[data-name]")) this.join(box, groupOf.get(box.dataset.name));
    this.titles = new Map();
    for (const title of this.svg.querySelectorAll(".op > title")) { this.titles.set(title.parentNode, title.textContent); title.remove(); }
    this.svg.addEventListener("click", (event) => { const row = this.under(event); if (row && !this.moved) pick(row); });
    this.svg.addEventListener("mousemove", (event) => this.tell(event));
    this.svg.addEventListener("mouseleave", () => { this.tip.hidden = true; });
    this.pan();
    byId("zoom").append(...[["−", 1 / 1.4], ["+", 1.4]].map(([sign, factor]) =>
      element("button", { type: "button", "aria-label": factor > 1 ? "zoom in" : "zoom out", onclick: () => this.zoom(this.scale * factor) }, sign)),
      element("button", { type: "button", onclick: () => this.fit() }, "fit"),
      element("button", { type: "button", onclick: () => this.zoom(1) }, "100 %"),
      element("span", { class: "count" }, "drag to move, click a box for its group"));
    this.zoom(Math.max(this.whole(), 0.8));
  }

  join(box, row) {
    if (!row) return;
    box.dataset.group = row.name;
    this.boxes.set(box, row);
    const shade = shareClass(row.evidence);
    if (shade) box.classList.add(shade);
  }

  under(event) {
    const box = event.target.closest("[data-group]");
    return box ? this.boxes.get(box) : null;
  }

  tell(event) {
    const row = this.under(event), box = event.target.closest(".op");
    const known = row ? `${row.pattern} ${row.name}\n${this.told(row)}` : box ? this.titles.get(box) : "";
    this.tip.hidden = !known;
    if (!known) return;
    this.tip.textContent = known + (!row && box.classList.contains("integer") ? `\n${MOVES}` : "");
    const left = Math.min(event.clientX + 14, window.innerWidth - this.tip.offsetWidth - 8);
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - this.tip.offsetHeight - 8)}px`;
  }

  told(row) {
    const found = row.evidence;
    return found ? `${percent(found.share)} of all noise at the outputs: ${effect(found)} dB there, its own result ${decibels(found.isolated)} dB` : row.reason;
  }

  select(row) {
    let first = null;
    for (const [box, other] of this.boxes) {
      box.classList.toggle("chosen", other === row);
      if (other === row && !first) first = box;
    }
    if (!first) return;
    const inner = first.getBoundingClientRect(), outer = this.frame.getBoundingClientRect();
    this.frame.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
    this.frame.scrollTop += inner.top + inner.height / 2 - outer.top - outer.height / 2;
  }

  zoom(scale) {
    const middle = [this.frame.scrollLeft + this.frame.clientWidth / 2, this.frame.scrollTop + this.frame.clientHeight / 2];
    const ratio = this.scale ? scale / this.scale : 1;
    this.scale = Math.min(Math.max(scale, 0.05), 4);
    this.svg.style.width = `${this.size[0] * this.scale}px`;
    this.svg.style.height = `${this.size[1] * this.scale}px`;
    this.frame.scrollLeft = middle[0] * ratio - this.frame.clientWidth / 2;
    this.frame.scrollTop = middle[1] * ratio - this.frame.clientHeight / 2;
  }

  whole() {
    return Math.min((this.frame.clientWidth - 16) / this.size[0], (this.frame.clientHeight - 16) / this.size[1], 1);
  }

  fit() { this.zoom(this.whole()); }

  pan() {
    let from = null;
    this.frame.addEventListener("pointerdown", (event) => {
      this.moved = false;
      from = event.pointerType === "mouse" ? [event.clientX, event.clientY, this.frame.scrollLeft, this.frame.scrollTop] : null;
    });
    window.addEventListener("pointermove", (event) => {
      if (!from) return;
      const by = [event.clientX - from[0], event.clientY - from[1]];
      if (Math.hypot(...by) > 4) { this.moved = true; this.frame.classList.add("dragging"); }
      if (this.moved) { this.frame.scrollLeft = from[2] - by[0]; this.frame.scrollTop = from[3] - by[1]; }
    });
    window.addEventListener("pointerup", () => { from = null; this.frame.classList.remove("dragging"); });
    this.frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(this.scale * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
    }, { passive: false });
  }
}
