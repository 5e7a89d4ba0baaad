// The tree of modules: a tree grid of which only the rows in sight exist.

const ROW_HEIGHT = 26;
const OVERSCAN = 12;

class Tree {
  constructor(model, id, onSelect) {
    this.model = model;
    this.id = id;
    this.onSelect = onSelect;
    this.selected = null;
    this.lines = [];
    this.body = el("div", { class: "tree-body", role: "presentation" });
    this.element = el(
      "div",
      {
        class: "tree", role: "treegrid", tabindex: "0", "aria-label": "Modules and tensors",
        onkeydown: (event) => this.key(event), onscroll: () => this.draw(),
      },
      el("div", { class: "row head", role: "row" }, ...["name", "status", "elements", "checkpoint", "model"].map((text) =>
        el("span", { role: "columnheader", class: `c-${text}`, text }))),
      this.body,
    );
    this.body.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  // The lines are new: a filter or something opened or closed.
  update() {
    this.lines = visible(this.model);
    this.body.style.height = `${this.lines.length * ROW_HEIGHT}px`;
    this.element.setAttribute("aria-rowcount", String(this.lines.length + 1));
    this.drawn = null;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_HEIGHT) - OVERSCAN);
    const last = Math.min(this.lines.length, first + Math.ceil(this.element.clientHeight / ROW_HEIGHT) + 2 * OVERSCAN);
    if (this.drawn === `${first} ${last}`) return;
    this.drawn = `${first} ${last}`;
    this.body.replaceChildren(...this.lines.slice(first, last).map((line, i) => this.row(line, first + i)));
    this.point();
  }

  drawAll(most) {
    this.body.replaceChildren(...this.lines.slice(0, most).map((line, i) => this.row(line, i)));
    this.drawn = null;
  }

  row({ node, depth, place, siblings }, index) {
    const leaf = node.row >= 0;
    const data = leaf ? this.model.rows[node.row] : null;
    const name = el("span", { class: "c-name", role: "gridcell", title: node.path || node.className });
    name.style.paddingLeft = `${8 + Math.min(depth, 24) * 16}px`;
    name.append(
      el("span", { class: leaf ? "twist leaf" : "twist", "aria-hidden": "true", text: leaf ? "" : "▸" }),
      el("span", { class: "name", text: nameOf(node) }),
    );
    if (!leaf && node.parent && node.className) name.append(el("span", { class: "class", text: node.className }));
    const row = el(
      "div",
      {
        class: `row${leaf ? "" : " inner"}`, role: "row", id: `${this.id}-${index}`, "data-index": index,
        "aria-level": depth + 1, "aria-posinset": place, "aria-setsize": siblings, "aria-rowindex": index + 2,
        "aria-expanded": leaf ? null : String(isOpen(this.model, node)), "aria-selected": String(node === this.selected),
      },
      name,
      leaf ? this.status(data) : this.bar(node),
      el("span", {
        class: "c-elements", role: "gridcell", text: short.format(node.elements), title: grouped.format(node.elements),
      }),
    );
    if (leaf) {
      row.append(
        el("span", { class: "c-checkpoint", role: "gridcell" }, tensorCell(data.checkpoint, data.model)),
        el("span", { class: "c-model", role: "gridcell" }, tensorCell(data.model, data.checkpoint)),
      );
    } else {
      row.append(el("span", { class: "c-words", role: "gridcell", text: inWords(node.counts) }));
    }
    row.style.top = `${index * ROW_HEIGHT}px`;
    return row;
  }

  status(data) {
    const [id, label, mark] = META.statuses[data.status];
    return el("span", { class: `c-status s-${id}`, role: "gridcell" },
      el("span", { class: "mark", "aria-hidden": "true", text: mark }), label);
  }

  bar(node) {
    const bar = el("span", { class: "bar" });
    bar.style.background = shares(node.counts);
    return el("span", { class: "c-status", role: "gridcell", "aria-label": inWords(node.counts) }, bar);
  }

  select(node, { reveal = false, focus = false } = {}) {
    if (reveal) {
      for (let above = node.parent; above; above = above.parent) setOpen(this.model, above, true);
      this.update();
    }
    this.selected = node;
    const index = this.lines.findIndex((line) => line.node === node);
    if (index >= 0) {
      const top = index * ROW_HEIGHT;
      const height = this.element.clientHeight - 2 * ROW_HEIGHT;
      if (top < this.element.scrollTop) this.element.scrollTop = top;
      else if (top > this.element.scrollTop + height) this.element.scrollTop = reveal ? top - height / 2 : top - height;
    }
    this.drawn = null;
    this.draw();
    if (focus) this.element.focus({ preventScroll: true });
    this.onSelect(node);
  }

  // Tells assistive technology which row the keyboard is on.
  point() {
    const index = this.lines.findIndex((line) => line.node === this.selected);
    const there = index >= 0 && document.getElementById(`${this.id}-${index}`);
    if (there) this.element.setAttribute("aria-activedescendant", there.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  toggle(node, open) {
    setOpen(this.model, node, open);
    this.update();
  }

  click(event) {
    const row = event.target.closest(".row");
    if (!row || !getSelection().isCollapsed) return;
    const { node } = this.lines[Number(row.dataset.index)];
    if (node.row < 0) this.toggle(node, !isOpen(this.model, node));
    this.select(node);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const index = this.lines.findIndex((line) => line.node === this.selected);
    const node = this.lines[index]?.node;
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_HEIGHT) - 2);
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    const isInner = node && node.row < 0;
    if (move !== undefined) {
      const to = index < 0 && move === 1 ? 0 : Math.max(0, Math.min(this.lines.length - 1, Math.max(index, 0) + move));
      if (this.lines[to]) this.select(this.lines[to].node);
    } else if (event.key === "ArrowRight" && isInner && !isOpen(this.model, node)) this.toggle(node, true);
    else if (event.key === "ArrowRight" && isInner && this.lines[index + 1]) this.select(this.lines[index + 1].node);
    else if (event.key === "ArrowLeft" && isInner && isOpen(this.model, node)) this.toggle(node, false);
    else if (event.key === "ArrowLeft" && node?.parent) this.select(node.parent);
    else if ((event.key === "Enter" || event.key === " ") && isInner) this.toggle(node, !isOpen(this.model, node));
    else if (event.key === "*" && node?.parent) {
      for (const sibling of node.parent.children) setOpen(this.model, sibling, true);
      this.update();
    } else return;
    event.preventDefault();
  }
}
