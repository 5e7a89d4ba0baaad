// The page: which target is shown, the tools above its tree, what is selected, the theme, printing.

const PRINTED = 2000; // rows of the tree that go to paper
const PAPER = 690; // pixels that fit on its width

class Explorer {
  constructor(section, data) {
    this.model = buildModel(data);
    openSome(this.model, 120);
    this.filter = { text: "", statuses: new Set(), rules: new Set() };
    this.detail = el("aside", { class: "detail", "aria-label": "What is selected", "aria-live": "polite" });
    this.tree = new Tree(this.model, section.id, (node) => {
      this.treemap.select(node);
      this.describe(node);
    });
    this.treemap = new Treemap(this.model, (node) => this.tree.select(node, { reveal: true }));
    section.querySelector(".map-place").replaceWith(this.treemap.element);
    section.querySelector(".tree-place").replaceWith(
      this.tools(), el("div", { class: "browse" }, this.tree.element, this.detail),
    );
    this.describe(null);
    for (const button of section.querySelectorAll("button[data-rule]")) {
      button.hidden = false;
      button.addEventListener("click", () => this.onlyRule(button.dataset.rule));
    }
    this.refresh();
    this.treemap.draw();
  }

  tools() {
    this.search = el("input", {
      type: "search", placeholder: "Search keys", "aria-label": "Search keys", spellcheck: "false", autocomplete: "off",
      oninput: () => {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.set({ text: this.search.value }), 80);
      },
      onkeydown: (event) => {
        if (event.key === "Escape") {
          this.search.value = "";
          this.set({ text: "" });
        } else if (event.key === "ArrowDown") this.tree.element.focus();
      },
    });
    const statuses = this.model.root.counts.map((amount, i) => amount && this.chip(
      "statuses", i, META.statuses[i][1], amount, `s-${META.statuses[i][0]}`)).filter(Boolean);
    const perRule = this.model.rules.map(() => 0);
    for (const row of this.model.rows) for (const finding of row.findings) perRule[finding.rule] += 1;
    const rules = ["error", "warning", "note"].flatMap((wanted) => this.model.rules.flatMap(([rule, level], i) =>
      level === wanted && perRule[i] ? [this.chip("rules", i, rule, perRule[i], `l-${level}`)] : []));
    this.shown = el("output", { class: "shown", "aria-live": "polite" });
    this.reset = el("button", { type: "button", class: "plain", text: "clear", onclick: () => this.clear() });
    const all = (open) => () => {
      const visit = (node) => {
        if (node.row < 0 && node.parent) setOpen(this.model, node, open);
        node.children.forEach(visit);
      };
      visit(this.model.root);
      this.tree.update();
    };
    return el("div", { class: "tools" },
      el("div", { class: "line" }, this.search, this.shown, this.reset, el("span", { class: "gap" }),
        el("button", { type: "button", class: "plain", text: "open all", onclick: all(true) }),
        el("button", { type: "button", class: "plain", text: "close all", onclick: all(false) })),
      el("div", { class: "line chips", role: "group", "aria-label": "Filter by status" }, ...statuses),
      rules.length
        ? el("div", { class: "line chips", role: "group", "aria-label": "Filter by rule" }, ...rules)
        : null);
  }

  chip(kind, i, label, amount, name) {
    const chip = el("button", {
      type: "button", class: `chip ${name}`, "aria-pressed": "false", "data-kind": kind, "data-place": i,
      onclick: () => {
        const chosen = this.filter[kind];
        if (!chosen.delete(i)) chosen.add(i);
        this.refresh();
      },
    }, el("span", { class: "dot", "aria-hidden": "true" }), label, el("span", { class: "n", text: grouped.format(amount) }));
    return chip;
  }

  set(change) {
    Object.assign(this.filter, change);
    this.refresh();
  }

  clear() {
    this.search.value = "";
    this.set({ text: "", statuses: new Set(), rules: new Set() });
    this.search.focus();
  }

  onlyRule(place) {
    const [rule, level] = place.split(" ");
    const rules = this.model.rules.flatMap((known, i) => (known[0] === rule && known[1] === level ? [i] : []));
    this.search.value = "";
    this.set({ text: "", statuses: new Set(), rules: new Set(rules) });
    this.tree.element.scrollIntoView({ block: "nearest" });
    this.tree.element.focus({ preventScroll: true });
  }

  refresh() {
    applyFilter(this.model, this.filter);
    for (const chip of this.tree.element.closest("section")?.querySelectorAll(".chip") ?? []) {
      chip.setAttribute("aria-pressed", String(this.filter[chip.dataset.kind].has(Number(chip.dataset.place))));
    }
    const { filtered, shown, rows } = this.model;
    this.shown.textContent = filtered
      ? `${grouped.format(shown)} of ${count(rows.length, "key")}` : count(rows.length, "key");
    this.reset.hidden = !filtered;
    this.tree.element.scrollTop = 0;
    this.tree.update();
    this.treemap.dim();
  }

  describe(node) {
    this.detail.classList.toggle("idle", !node);
    if (!node) {
      this.detail.replaceChildren(
        el("p", { class: "hint", text: "Select a tensor or module to see both sides." }),
        el("p", { class: "hint keys" }, ...["↑ ↓ move", "→ ← open, close", "/ search"].map((text) => el("kbd", { text }))));
      return;
    }
    const path = node.path || node.className;
    const title = el("h3", {}, el("code", { text: path }));
    if (node.row < 0) {
      this.detail.replaceChildren(title, el("p", { class: "what", text: node.className || "module" }),
        el("p", { text: `${count(node.leaves, "key")}, ${count(node.elements, "element")}` }),
        el("ul", { class: "counts" }, ...node.counts.flatMap((amount, i) => amount
          ? [el("li", { class: `s-${META.statuses[i][0]}` }, el("span", { class: "dot" }),
            `${grouped.format(amount)} ${META.statuses[i][1]}`)] : [])),
        el("p", {}, el("button", { type: "button", class: "plain", text: "show in the treemap",
          onclick: () => this.treemap.zoom(node) })));
      return;
    }
    const row = this.model.rows[node.row];
    const [id, label, mark] = META.statuses[row.status];
    this.detail.replaceChildren(title,
      el("p", { class: `state s-${id}` }, el("span", { class: "mark", "aria-hidden": "true", text: mark }), label),
      this.sides(row),
      ...row.findings.map((finding) => this.finding(finding)));
  }

  sides(row) {
    const { model, checkpoint } = row;
    const dims = Math.max(model?.[1]?.length ?? 0, checkpoint?.[1]?.length ?? 0);
    const line = (name, ours, theirs) => el("tr", { class: ours && theirs && ours !== theirs ? "differs" : "" },
      el("th", { scope: "row", text: name }), el("td", { text: theirs }), el("td", { text: ours }));
    const size = (tensor, i) => (tensor?.[1] ? (i < tensor[1].length ? grouped.format(tensor[1][i]) : "–") : "");
    const lines = [line("type", model?.[0] ?? "", checkpoint?.[0] ?? "")];
    for (let i = 0; i < dims; i++) lines.push(line(`size ${i}`, size(model, i), size(checkpoint, i)));
    lines.push(line("bytes", model?.[1] ? bytes(model[2]) : "", checkpoint?.[1] ? bytes(checkpoint[2]) : ""));
    const kind = ["parameter", "buffer", ""][row.kind];
    return el("table", { class: "sides" },
      el("thead", {}, el("tr", {}, el("td"), el("th", { scope: "col", text: "checkpoint" }),
        el("th", { scope: "col", text: kind ? `model, ${kind}` : "model" }))),
      el("tbody", {}, ...lines));
  }

  finding({ rule, message, reason }) {
    const [name, level] = this.model.rules[rule];
    const { summary, help, link } = META.rules[name];
    return el("div", { class: `finding l-${level}` },
      el("h4", {}, el("span", { class: "level", text: level }), " ", name),
      el("p", { class: "message", text: message }),
      reason ? el("p", { class: "accepted", text: `accepted: ${reason}` }) : null,
      el("details", {}, el("summary", { text: summary }), el("p", { class: "help", text: help }),
        el("p", {}, el("a", { href: link, rel: "noreferrer", text: "more" }))));
  }
}

const explorers = new Map();

function show() {
  const sections = [...document.querySelectorAll("section.target")];
  const wanted = sections.find((section) => `#${section.id}` === location.hash) ?? sections.find(
    (section) => section.dataset.outcome !== "pass") ?? sections[0];
  for (const section of sections) section.hidden = section !== wanted;
  for (const link of document.querySelectorAll(".targets a")) {
    if (wanted && link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const data = wanted && document.getElementById(`data-${wanted.id}`);
  if (data && !explorers.has(wanted)) {
    explorers.set(wanted, new Explorer(wanted, JSON.parse(data.textContent)));
    data.remove();
  }
  current = explorers.get(wanted) ?? null;
}

let current = null;

function theme() {
  const button = document.querySelector("#theme");
  const names = ["auto", "light", "dark"];
  let chosen = "auto";
  try {
    chosen = localStorage.getItem("ckptdiff-theme") ?? "auto";
  } catch {} // a page from a file may have no storage
  const apply = () => {
    if (!names.includes(chosen)) chosen = "auto";
    document.documentElement.dataset.theme = chosen;
    button.textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[chosen];
    button.setAttribute("aria-label", `Colours: ${chosen}. Change`);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    chosen = names[(names.indexOf(chosen) + 1) % names.length];
    try {
      localStorage.setItem("ckptdiff-theme", chosen);
    } catch {}
    apply();
  });
  apply();
}

theme();
show();
addEventListener("hashchange", () => {
  show();
  scrollTo(0, 0);
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input") || event.ctrlKey || event.metaKey || !current) return;
  current.search.focus();
  event.preventDefault();
});

let closed = []; // what is opened for printing alone
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll(".findings details:not([open])")];
  for (const details of closed) details.open = true;
  current?.tree.drawAll(PRINTED);
  current?.treemap.draw(PAPER);
});
addEventListener("afterprint", () => {
  for (const details of closed) details.open = false;
  current?.tree.update();
  current?.treemap.draw();
});
