"use strict";

// The number that a cell shows; NaN if it shows none.
const number = (text) => (text.trim() === "" ? NaN : Number(text.replace(/[,%]/g, "")));

// Whether all cells that are not empty show numbers.
const numeric = (cells) =>
  cells.every((text) => text.trim() === "" || !Number.isNaN(number(text)));

// The rows' positions, sorted by the cells of a column: numbers as numbers, empty cells last.
function sorted(cells, down) {
  const numbers = numeric(cells);
  const compared = (a, b) =>
    numbers ? number(a) - number(b) : a.localeCompare(b, undefined, { numeric: true });
  return cells.map((_, n) => n).sort((m, n) => {
    const [a, b] = [cells[m].trim(), cells[n].trim()];
    if (a === "" || b === "") return (a === "") - (b === "");
    return down ? compared(b, a) : compared(a, b);
  });
}

// Whether a row has every word of the query: `adam`, `optim=adam`, `val>70`, `val<=80`.
function matches(head, row, query) {
  return query.split(/\s+/).filter(Boolean).every((word) => {
    const [, name, sign, value] = word.match(/^(.+?)(>=|<=|>|<|=)(.+)$/) || [];
    const column = head.indexOf(name);
    if (column < 0) return row.some((text) => text.toLowerCase().includes(word.toLowerCase()));
    const text = row[column].trim();
    const [a, b] = [number(text), number(value)];
    if (sign === "=") return a === b || text.toLowerCase() === value.toLowerCase();
    return { ">": a > b, "<": a < b, ">=": a >= b, "<=": a <= b }[sign];
  });
}

// A click on a head sorts the table, a second one turns the order round; a field filters its rows,
// and a tick chooses a row. The event `rows` says which rows are shown, in their order, and ticked.
function interactive(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((th) => th.textContent);
  const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent));
  const ticks = rows.map((row, n) => {
    const tick = document.createElement("input");
    tick.type = "checkbox";
    tick.setAttribute("aria-label", `Show the curves of job ${texts[n][0]}`);
    row.cells[0].prepend(tick);
    return tick;
  });
  let order = rows.map((_, n) => n);
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "filter: adam  optim=adam  val>70";
  field.setAttribute("aria-label", "Filter the rows");
  const count = document.createElement("span");
  count.className = "soft";

  const changed = () => {
    const shown = order.filter((n) => !rows[n].hidden);
    const detail = { rows: shown, ticked: shown.filter((n) => ticks[n].checked) };
    document.dispatchEvent(new CustomEvent("rows", { detail }));
  };
  heads.forEach((th, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = names[column];
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const cells = texts.map((row) => row[column]);
      const before = th.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numeric(cells); // the largest number first
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      order = sorted(cells, down);
      body.append(...order.map((n) => rows[n]));
      changed();
    });
  });
  const filter = () => {
    rows.forEach((row, n) => (row.hidden = !matches(names, texts[n], field.value)));
    count.textContent = ` ${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
    changed();
  };
  field.addEventListener("input", filter);
  ticks.forEach((tick) => tick.addEventListener("change", changed));
  filter();
  table.parentElement.before(field, count);
}
