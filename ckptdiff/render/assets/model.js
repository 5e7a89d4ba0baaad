// One target's data: decoding it, the tree of modules, and which keys pass the filter.
// The counterpart of html_data.py, which says what the fields are.

const DEEPEST = 64; // components of a key that become levels; the rest of a longer one stays together

function decode(coded) {
  const keys = [];
  let key = "";
  for (let i = 0; i < coded.length; i += 2) {
    key = key.slice(0, coded[i]) + coded[i + 1];
    keys.push(key);
  }
  return keys;
}

function inner(name, path, parent) {
  return { name, path, parent, row: -1, children: [], below: new Map(), open: false, className: "" };
}

function buildModel(data) {
  const keys = decode(data.keys);
  const classOf = new Map(decode(data.modules).map((path, i) => [path, data.classes[data.moduleClasses[i]]]));
  const root = inner("", "", null);
  root.className = data.root;
  const rows = keys.map((key, i) => {
    const [status, kind, ours, theirs, twice] = data.rows.slice(5 * i, 5 * i + 5);
    return {
      key, status, kind, twice: twice === 1, findings: [], search: key.toLowerCase(),
      model: ours < 0 ? null : data.tensors[ours], checkpoint: theirs < 0 ? null : data.tensors[theirs],
    };
  });
  for (const [row, rule, message, reason] of data.findings) {
    rows[row].findings.push({ rule, message: data.messages[message], reason: data.messages[reason] });
  }
  rows.forEach((row, i) => insert(root, row.key, i, classOf));
  root.children.forEach((child) => compress(child));
  sum(root, rows);
  root.open = true;
  return { root, rows, rules: data.rules, shown: rows.length };
}

function insert(root, key, row, classOf) {
  const parts = key.split(".");
  const depth = Math.min(parts.length - 1, DEEPEST - 1);
  let node = root;
  for (let i = 0; i < depth; i++) {
    let next = node.below.get(parts[i]);
    if (!next) {
      const path = node.parent ? `${node.path}.${parts[i]}` : parts[i];
      next = inner(parts[i], path, node);
      next.className = classOf.get(path) ?? "";
      node.below.set(parts[i], next);
      node.children.push(next);
    }
    node = next;
  }
  const name = parts.slice(depth).join(".");
  node.children.push({ name, path: key, parent: node, row, children: [], open: false, className: "" });
}

// A level with one child is no level: `a` above `b` above `weight` reads `a.b.weight`.
function compress(node) {
  while (node.children.length === 1) {
    const only = node.children[0];
    node.name = `${node.name}.${only.name}`;
    node.path = only.path;
    node.row = only.row;
    if (only.row < 0) node.className = only.className;
    node.children = only.children;
    for (const child of node.children) child.parent = node;
  }
  node.below = null;
  node.children.forEach((child) => compress(child));
}

function elements(row) {
  const tensor = row.model?.[1] ? row.model : row.checkpoint;
  return tensor?.[1] ? tensor[1].reduce((product, size) => product * size, 1) : 0;
}

function sum(node, rows) {
  node.counts = new Array(META.statuses.length).fill(0);
  node.weights = new Array(META.statuses.length).fill(0);
  if (node.row >= 0) {
    const row = rows[node.row];
    node.leaves = 1;
    node.elements = elements(row);
    node.counts[row.status] = 1;
    node.weights[row.status] = row.twice ? 0 : node.elements;
  } else {
    node.leaves = 0;
    node.elements = 0;
    for (const child of node.children) {
      sum(child, rows);
      node.leaves += child.leaves;
      child.counts.forEach((count, i) => (node.counts[i] += count));
      child.weights.forEach((weight, i) => (node.weights[i] += weight));
    }
    node.elements = node.weights.reduce((a, b) => a + b, 0);
  }
  node.weight = node.weights.reduce((a, b) => a + b, 0);
  node.hits = node.leaves;
}

// filter: {text, statuses: Set, rules: Set}; empty sets choose everything.
function applyFilter(model, filter) {
  const text = filter.text.trim().toLowerCase();
  const passes = (row) =>
    (!text || row.search.includes(text)) &&
    (!filter.statuses.size || filter.statuses.has(row.status)) &&
    (!filter.rules.size || row.findings.some((finding) => filter.rules.has(finding.rule)));
  const visit = (node) => {
    node.closed = false;
    if (node.row >= 0) node.hits = passes(model.rows[node.row]) ? 1 : 0;
    else node.hits = node.children.reduce((total, child) => total + visit(child), 0);
    return node.hits;
  };
  model.shown = visit(model.root);
  model.filtered = Boolean(text || filter.statuses.size || filter.rules.size);
}

function isOpen(model, node) {
  return model.filtered ? !node.closed : node.open;
}

function setOpen(model, node, open) {
  if (model.filtered) node.closed = !open;
  else node.open = open;
}

// The rows of the tree from top to bottom, as {node, depth, place, siblings}.
function visible(model) {
  const lines = [];
  const visit = (node, depth, place, siblings) => {
    lines.push({ node, depth, place, siblings });
    if (node.row >= 0 || !isOpen(model, node)) return;
    const shown = node.children.filter((child) => child.hits);
    shown.forEach((child, i) => visit(child, depth + 1, i + 1, shown.length));
  };
  if (model.root.hits) visit(model.root, 0, 1, 1);
  return lines;
}

function nameOf(node) {
  return node.parent ? node.name || "(empty)" : node.className || "model";
}

// Whole levels are opened as long as the tree stays within `limit` rows.
function openSome(model, limit) {
  let level = [model.root];
  let total = 1;
  while (level.length) {
    const next = level.flatMap((node) => node.children);
    total += next.length;
    if (total > limit) return;
    for (const node of level) node.open = true;
    level = next.filter((node) => node.row < 0);
  }
}
