"use strict";
// The page is whole without this script: it adds sorting, filtering and a download to long tables, and a choice of
// one class to the maps.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const order = new Intl.Collator("en", { numeric: true });

  const sort = (column) => {
    const falling = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
    const numbers = rows.every((row) => row.cells[column].dataset.v !== undefined);
    const keyed = rows.map((row) => [numbers ? Number(value(row, column)) : value(row, column), row]);
    keyed.sort((a, b) => (numbers ? a[0] - b[0] : order.compare(a[0], b[0])) * (falling ? -1 : 1));
    body.append(...keyed.map((pair) => pair[1]));
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(column));
    head.replaceChildren(button);
  });

  const tools = document.createElement("div");
  tools.className = "tools";
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  label.textContent = "Find by id or class";
  input.type = "search";
  label.append(input);
  const texts = rows.map((row) => (row.cells[0].textContent + "\n" + row.cells[1].textContent).toLowerCase());
  const show = () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !texts[index].includes(wanted);
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = shown === rows.length ? `${rows.length} records` : `${shown} of ${rows.length} records`;
  };
  input.addEventListener("input", show);

  const save = document.createElement("button");
  save.type = "button";
  save.textContent = "Save as CSV";
  save.addEventListener("click", () => {
    const quote = (text) => '"' + text.replaceAll('"', '""') + '"';
    const line = (cells, read) => cells.map((cell) => quote(read(cell))).join(",");
    const visible = Array.from(body.rows).filter((row) => !row.hidden);
    const lines = [line(heads, (head) => head.textContent)];
    visible.forEach((row) => lines.push(line(Array.from(row.cells), (cell) => cell.textContent)));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = `${table.dataset.name}s.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  tools.append(label, save, count);
  table.parentElement.before(tools);
  show();
}
for (const box of document.querySelectorAll("[data-maps]")) {
  const chooser = box.querySelector(".chooser");
  const select = chooser.querySelector("select");
  const parts = Array.from(box.querySelectorAll(".map [data-class]"));
  const show = () => parts.forEach((part) => {
    part.classList.toggle("faded", select.value !== "" && part.dataset.class !== select.value);
    part.classList.toggle("chosen", part.dataset.class === select.value && box.dataset.maps === "grey");
    // The chosen class lies over the others.
    if (part.dataset.class === select.value) part.parentElement.append(part);
  });
  select.addEventListener("change", show);
  chooser.hidden = false;
  show();
}
// Paper shows what is folded away, except what would fill it.
const folded = () => Array.from(document.querySelectorAll("details:not([open])")).filter((d) => d.querySelectorAll("tr, img, use").length < 80);
let opened = [];
addEventListener("beforeprint", () => { opened = folded(); opened.forEach((d) => { d.open = true; }); });
addEventListener("afterprint", () => { opened.forEach((d) => { d.open = false; }); opened = []; });
