// Making elements. Text only ever becomes text: nothing here or elsewhere parses HTML.

function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = value;
    else if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const grouped = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

function count(value, noun) {
  return `${grouped.format(value)} ${noun}${value === 1 ? "" : "s"}`;
}

function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
}

// A shape with the sizes that differ from the other side's marked.
function shapeOf(tensor, other) {
  const span = el("span", { class: "shape" });
  if (!tensor[1]) return span;
  const theirs = other?.[1];
  const aligned = theirs && theirs.length === tensor[1].length;
  span.append("[");
  tensor[1].forEach((size, i) => {
    const differs = theirs && (!aligned || theirs[i] !== size);
    span.append(i ? ", " : "", differs ? el("mark", { text: String(size) }) : String(size));
  });
  span.append("]");
  return span;
}

function tensorCell(tensor, other) {
  const cell = el("span", { class: "tensor" });
  if (!tensor) {
    cell.append(el("span", { class: "none", text: "–" }));
    return cell;
  }
  const dtype = el("span", { class: "dtype", text: tensor[0] });
  if (other && other[0] !== tensor[0]) dtype.classList.add("differs");
  cell.append(dtype, " ", shapeOf(tensor, other));
  return cell;
}

// The colours of what a node holds, side by side in proportion.
function shares(parts) {
  const total = parts.reduce((a, b) => a + b, 0);
  if (!total) return "var(--s-unknown)";
  let from = 0;
  const stops = [];
  parts.forEach((part, i) => {
    if (!part) return;
    const to = from + (100 * part) / total;
    stops.push(`var(--s-${META.statuses[i][0]}) ${from.toFixed(2)}% ${to.toFixed(2)}%`);
    from = to;
  });
  return stops.length === 1 ? stops[0].split(" ")[0] : `linear-gradient(90deg, ${stops.join(", ")})`;
}

function inWords(counts) {
  return counts.map((n, i) => (n ? `${grouped.format(n)} ${META.statuses[i][1]}` : "")).filter(Boolean).join(", ");
}
