// The treemap: every part of the model as a rectangle, sized by its elements and coloured by what becomes of them.

const SMALLEST = 36; // square pixels; what would be smaller is drawn together
const LABEL = 17; // height of a module's own label

// Squarified treemap (Bruls, Huizing, van Wijk 2000): rectangles of the given areas, as square as can be.
function squarify(items, x, y, width, height) {
  const placed = [];
  let rest = items;
  while (rest.length) {
    const side = Math.min(width, height);
    const row = [];
    let area = 0;
    let worst = Infinity;
    for (const item of rest) {
      const next = area + item.area;
      const largest = Math.max(row[0]?.area ?? item.area, item.area);
      const ratio = Math.max((side * side * largest) / (next * next), (next * next) / (side * side * item.area));
      if (row.length && ratio > worst) break;
      row.push(item);
      area = next;
      worst = ratio;
    }
    const across = width >= height;
    const thickness = area / side;
    let offset = 0;
    for (const item of row) {
      const length = item.area / thickness;
      placed.push(across
        ? { item, x, y: y + offset, width: thickness, height: length }
        : { item, x: x + offset, y, width: length, height: thickness });
      offset += length;
    }
    if (across) [x, width] = [x + thickness, width - thickness];
    else [y, height] = [y + thickness, height - thickness];
    rest = rest.slice(row.length);
  }
  return placed;
}

class Treemap {
  constructor(model, onSelect) {
    this.model = model;
    this.onSelect = onSelect;
    this.top = model.root;
    this.cells = []; // in the order they are reached by the arrow keys
    this.nodes = new Map(); // cell → node
    this.selected = null;
    this.crumbs = el("nav", { class: "crumbs", "aria-label": "Part of the model shown" });
    this.map = el("div", {
      class: "map", role: "group", "aria-label": "Treemap of elements; arrow keys move, Enter goes in, Escape goes out",
      onkeydown: (event) => this.key(event),
    });
    this.map.addEventListener("click", (event) => {
      const cell = event.target.closest(".cell");
      if (cell) this.enter(this.nodes.get(cell), cell);
    });
    this.element = el("div", { class: "treemap" }, this.crumbs, this.map);
    new ResizeObserver(() => {
      if (this.size !== `${this.map.clientWidth} ${this.map.clientHeight}`) this.draw();
    }).observe(this.map);
  }

  draw(width = this.map.clientWidth, height = this.map.clientHeight) {
    this.size = `${width} ${height}`;
    this.nodes = new Map();
    this.cells = [];
    this.map.replaceChildren();
    this.crumb();
    if (width < 20 || height < 20) return;
    if (this.top.row >= 0) this.cell(this.top, 0, 0, width, height);
    else this.fill(this.top, 0, 0, width, height);
    if (this.cells.length) (this.cells.find((cell) => this.nodes.get(cell) === this.selected) ?? this.cells[0]).tabIndex = 0;
    else this.map.append(el("p", { class: "empty", text: "Nothing here has elements." }));
    this.dim();
  }

  crumb() {
    const path = [];
    for (let node = this.top; node; node = node.parent) path.unshift(node);
    this.crumbs.replaceChildren(...path.flatMap((node, i) => {
      const name = nameOf(node);
      const last = i === path.length - 1;
      const crumb = last
        ? el("span", { "aria-current": "true", text: name })
        : el("button", { type: "button", text: name, onclick: () => this.zoom(node) });
      return i ? [el("span", { class: "sep", "aria-hidden": "true", text: "›" }), crumb] : [crumb];
    }), el("span", { class: "amount", text: count(this.top.weight, "element") }));
  }

  fill(node, x, y, width, height) {
    const children = node.children.filter((child) => child.weight).sort((a, b) => b.weight - a.weight);
    const total = children.reduce((sum, child) => sum + child.weight, 0);
    if (!total) return;
    const scale = (width * height) / total;
    const items = [];
    const small = [];
    for (const child of children) {
      if (child.weight * scale >= SMALLEST) items.push({ node: child, area: child.weight * scale });
      else small.push(child);
    }
    const together = small.reduce((sum, child) => sum + child.weight, 0) * scale;
    if (small.length === 1) items.push({ node: small[0], area: Math.max(together, 1e-6) });
    else if (small.length) items.push({ node: null, small, area: together });
    items.sort((a, b) => b.area - a.area);
    for (const { item, ...box } of squarify(items, x, y, width, height)) {
      if (item.node) this.cell(item.node, box.x, box.y, box.width, box.height);
      else this.crowd(item.small, node, box);
    }
  }

  cell(node, x, y, width, height) {
    const roomy = node.row < 0 && width > 70 && height > 44;
    const words = `${node.path || node.className}: ${count(node.weight, "element")}, ${inWords(node.counts)}`;
    const cell = this.box(roomy ? "cell group" : "cell", words, node, { x, y, width, height });
    if (!roomy) this.colour(cell, node.weights);
    if (width > 34 && height > 15) cell.append(el("span", { class: "label", text: nameOf(node) }));
    if (roomy) this.fill(node, x + 2, y + LABEL, width - 4, height - LABEL - 2);
  }

  crowd(small, parent, box) {
    const weights = small.reduce((sums, node) => sums.map((sum, i) => sum + node.weights[i]), small[0].weights.map(() => 0));
    const words = `${count(small.length, "smaller part")} of ${parent.path || "the model"}`;
    this.colour(this.box("cell", words, parent, box), weights);
  }

  colour(cell, weights) {
    const statuses = weights.flatMap((weight, i) => (weight ? [i] : []));
    if (statuses.length === 1) {
      cell.classList.add(`f-${META.statuses[statuses[0]][0]}`);
    } else {
      cell.classList.add("mixed");
      cell.style.background = shares(weights);
    }
  }

  box(name, words, node, { x, y, width, height }) {
    const cell = el("button", { type: "button", class: name, tabindex: "-1", title: words, "aria-label": words });
    cell.style.left = `${x}px`;
    cell.style.top = `${y}px`;
    cell.style.width = `${Math.max(width - 1, 0.5)}px`;
    cell.style.height = `${Math.max(height - 1, 0.5)}px`;
    this.nodes.set(cell, node);
    this.cells.push(cell);
    this.map.append(cell);
    return cell;
  }

  enter(node) {
    if (node !== this.top && node.row < 0) this.zoom(node);
    this.onSelect(node);
  }

  zoom(node) {
    const focused = this.map.contains(document.activeElement);
    this.top = node;
    this.draw();
    if (focused) this.cells[0]?.focus();
  }

  // Marks what is selected in the tree.
  select(node) {
    this.selected = node;
    for (const cell of this.cells) cell.classList.toggle("selected", this.nodes.get(cell) === node && node !== this.top);
  }

  // What the filter leaves out fades.
  dim() {
    for (const cell of this.cells) cell.classList.toggle("dim", !this.nodes.get(cell).hits);
    this.select(this.selected);
  }

  key(event) {
    const at = this.cells.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && at >= 0) {
      const next = this.cells[(at + step + this.cells.length) % this.cells.length];
      this.cells[at].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if ((event.key === "Escape" || event.key === "Backspace") && this.top.parent) this.zoom(this.top.parent);
    else return;
    event.preventDefault();
  }
}
