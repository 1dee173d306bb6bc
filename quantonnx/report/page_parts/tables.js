"use strict";
// Tables that sort by a click on a column, filter as one types, and pick a row.

const FIRST_ROWS = 100;

// columns: {title, value(row), show(row)?, number?, kind?, hint?}; value is what sorts, null comes last.
class Table {
  constructor(place, { columns, rows, pick, sort, placeholder, choices }) {
    Object.assign(this, { columns, rows, pick });
    this.sorted = sort || [0, 1];
    this.all = false;
    this.chosen = null;
    this.rowOf = new Map();
    this.texts = new Map(rows.map((row) => [row, columns.map((column) => this.text(column, row)).join("\n").toLowerCase()]));
    this.filter = element("input", { type: "search", placeholder: placeholder || "filter", "aria-label": placeholder || "filter", oninput: () => this.draw() });
    this.choice = choices ? this.choose(choices) : null;
    this.count = element("span", { class: "count", role: "status" });
    this.body = element("tbody");
    this.heads = columns.map((column, index) => element("th", { class: column.number ? "number" : null, title: column.hint, scope: "col" },
      element("button", { type: "button", onclick: () => this.sortBy(index) }, column.title)));
    this.more = element("button", { type: "button", onclick: () => { this.all = true; this.draw(); } });
    place.append(element("div", { class: "tools" }, this.filter, this.choice && this.choice.select, this.count),
      element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...this.heads)), this.body)), this.more);
    this.draw();
  }

  choose({ label, options, test }) {
    const select = element("select", { "aria-label": label, onchange: () => this.draw() }, ...options.map((option) => element("option", { value: option }, option)));
    return { select, test };
  }

  text(column, row) {
    const shown = column.show ? column.show(row) : column.value(row);
    return shown instanceof Node ? shown.textContent : shown === null || shown === undefined ? "–" : String(shown);
  }

  sortBy(index) {
    const [column, direction] = this.sorted;
    this.sorted = column === index ? [index, -direction] : [index, this.columns[index].number ? -1 : 1];
    this.draw();
  }

  visible() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [index, direction] = this.sorted;
    const value = this.columns[index].value;
    return this.rows
      .filter((row) => words.every((word) => this.texts.get(row).includes(word)) && (!this.choice || this.choice.test(row, this.choice.select.value)))
      .map((row) => [row, value(row)])
      .sort(([, a], [, b]) => a === b ? 0 : a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : a < b ? -direction : direction)
      .map(([row]) => row);
  }

  draw() {
    const rows = this.visible();
    const shown = this.all ? rows : rows.slice(0, FIRST_ROWS);
    this.rowOf = new Map();
    this.body.replaceChildren(...shown.map((row) => this.drawn(row)));
    this.count.textContent = rows.length === this.rows.length ? `${rows.length}` : `${rows.length} of ${this.rows.length}`;
    this.more.hidden = shown.length === rows.length;
    this.more.textContent = `show all ${rows.length}`;
    this.heads.forEach((head, index) => {
      if (index === this.sorted[0]) head.setAttribute("aria-sort", this.sorted[1] > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  drawn(row) {
    const cells = this.columns.map((column) => {
      const shown = column.show ? column.show(row) : column.value(row);
      return element("td", { class: column.number ? "number" : column.kind || null }, shown === null || shown === undefined ? "–" : shown);
    });
    const pick = this.pick && { class: "pick", tabindex: "0", "aria-selected": String(row === this.chosen), onclick: () => this.pick(row),
      onkeydown: (event) => { if (event.key === "Enter") this.pick(row); } };
    const made = element("tr", pick || {}, ...cells);
    this.rowOf.set(row, made);
    return made;
  }

  select(row) {
    for (const [other, drawn] of this.rowOf) drawn.setAttribute("aria-selected", String(other === row));
    this.chosen = row;
  }
}
