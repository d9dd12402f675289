// All images by class and confidence. Only the tiles in sight are elements, so that 10,000 scroll smoothly.

import { CLEARED, NONE, classNumber, describe, isOpen, model, nameOf, percent, picture } from "./images.js";

const HEAD = 44, GAP = 10, CAPTION = 26, AHEAD = 400;
const SHEET = 20, TWO_LINES = 44, SMALLEST = 106;  // images of a sheet, whose tiles are as large as fit without scrolling
const box = document.getElementById("grid"), canvas = document.getElementById("canvas");
const tiles = new Map(), heads = new Map();
let layout = { columns: 1, side: 120, caption: CAPTION, lines: [], place: new Map(), height: 0, width: 0, groups: null };
let groups = [];

export const grid = { rows: [], focus: -1, selected: new Set(), mark: null, onOpen: () => {}, onSelect: () => {}, onTick: () => {} };

function group(rows, order) {
  if (order === "name") return [{ title: "", rows }];
  const parts = new Map();
  for (const row of rows) {
    const key = model.labels[row] === NONE ? NONE : classNumber(row);
    if (!parts.has(key)) parts.set(key, []);
    parts.get(key).push(row);
  }
  const sure = (row) => (isOpen(row) ? model.p[row] : 20000);
  const sign = order === "sure" ? -1 : 1;
  const titles = [...[...model.classes.keys()].map((k) => [k, nameOf(k)]), [CLEARED, "No label yet"], [NONE, "None of these"]];
  return titles.filter(([k]) => parts.has(k)).map(([k, title]) => ({
    title, hue: k >= 0 ? model.hues.get(k) : null, rows: parts.get(k).sort((a, b) => sign * (sure(a) - sure(b)) || a - b),
  }));
}

export function arrange(rows, order) {
  groups = group(rows, order);
  grid.rows = groups.flatMap((one) => one.rows);
  const shown = new Set(grid.rows);
  grid.selected.forEach((row) => shown.has(row) || grid.selected.delete(row));
  if (!shown.has(grid.focus)) grid.focus = grid.rows[0] ?? -1;
  measure();
}

const inside = () => box.clientWidth - 2 * GAP - 8;
const sideOf = (columns, width) => Math.floor((width - GAP * (columns - 1)) / columns);

// Columns of a sheet, and how many images it holds.
function fit() {
  const width = inside(), linesOf = (columns) => Math.floor((box.clientHeight - GAP) / (sideOf(columns, width) + TWO_LINES + GAP));
  let columns = 2;
  while (columns * linesOf(columns) < SHEET && sideOf(columns + 1, width) >= SMALLEST) columns++;
  return [columns, Math.max(SHEET, columns * linesOf(columns))];
}

export const capacity = () => fit()[1];

export function measure() {
  const width = inside();
  if (width < 50) return;
  const wanted = width < 500 ? 104 : width > 1800 ? 168 : 136, caption = grid.mark ? TWO_LINES : CAPTION;
  const columns = grid.mark ? fit()[0] : Math.max(2, Math.floor((width + GAP) / (wanted + GAP)));
  if (width === layout.width && groups === layout.groups && columns === layout.columns) { draw(); return; }
  const side = sideOf(columns, width), isResized = groups === layout.groups;
  const lines = [], place = new Map();
  let top = GAP;
  groups.forEach((one, g) => {
    if (one.title) { lines.push({ top, height: HEAD, group: g }); top += HEAD; }
    for (let i = 0; i < one.rows.length; i += columns) {
      const line = one.rows.slice(i, i + columns);
      line.forEach((row, column) => place.set(row, { line: lines.length, column }));
      lines.push({ top, height: side + caption + GAP, rows: line });
      top += side + caption + GAP;
    }
  });
  layout = { columns, side, lines, place, height: top + (grid.mark ? 0 : 60), width, groups };
  canvas.style.height = `${layout.height}px`;
  if (isResized) reveal(grid.focus);  // what a person looked at does not run away when the window changes its size
  draw();
}

function firstLine(y) {
  let low = 0, high = layout.lines.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (layout.lines[middle].top + layout.lines[middle].height < y) low = middle + 1; else high = middle;
  }
  return low;
}

export function draw() {
  const from = box.scrollTop - AHEAD, to = box.scrollTop + box.clientHeight + AHEAD;
  const keep = new Set(), keepHeads = new Set();
  for (let i = firstLine(from); i < layout.lines.length && layout.lines[i].top < to; i++) {
    const line = layout.lines[i];
    if (line.rows) line.rows.forEach((row, column) => { keep.add(row); drawTile(row, line.top, column); });
    else { keepHeads.add(line.group); drawHead(line); }
  }
  for (const [row, tile] of tiles) if (!keep.has(row)) { drop(tile); tiles.delete(row); }
  for (const [g, head] of heads) if (!keepHeads.has(g)) { head.remove(); heads.delete(g); }
  const active = tiles.get(grid.focus);
  if (active) box.setAttribute("aria-activedescendant", active.id); else box.removeAttribute("aria-activedescendant");
}

// A picture that is out of sight is not waited for: else thousands that were scrolled past come before those in sight.
function drop(tile) {
  tile.firstChild.removeAttribute("src");
  tile.remove();
}

function drawHead(line) {
  const one = groups[line.group];
  let head = heads.get(line.group);
  if (!head) {
    head = document.createElement("div");
    head.className = "head";
    head.setAttribute("role", "presentation");
    head.append(document.createElement("i"), document.createElement("strong"), document.createElement("span"));
    heads.set(line.group, head);
    canvas.append(head);
  }
  head.style.top = `${line.top}px`;
  head.classList.toggle("plain", one.hue === null || one.hue === undefined);
  head.style.setProperty("--hue", one.hue ?? 0);
  head.children[1].textContent = one.title;
  head.children[2].textContent = one.rows.length.toLocaleString("en");
}

function makeTile(row) {
  const tile = document.createElement("div");
  tile.className = "tile";
  tile.id = `tile-${row}`;
  tile.setAttribute("role", "option");
  tile.dataset.row = row;
  const image = document.createElement("img");
  image.alt = "";
  image.decoding = "async";
  image.draggable = false;
  image.addEventListener("error", () => tile.classList.add("broken"));
  image.src = picture(row, "small");
  const caption = document.createElement("div");
  caption.className = "caption";
  caption.append(document.createElement("i"), document.createElement("span"), document.createElement("b"));
  tile.append(image, document.createElement("kbd"), caption);
  canvas.append(tile);
  tiles.set(row, tile);
  return tile;
}

function drawTile(row, top, column) {
  const tile = tiles.get(row) ?? makeTile(row);
  const number = classNumber(row), open = isOpen(row);
  tile.style.transform = `translate(${GAP + column * (layout.side + GAP)}px, ${top}px)`;
  tile.style.setProperty("--side", `${layout.side}px`);
  tile.style.setProperty("--hue", model.hues.get(number) ?? 0);
  tile.className = `tile ${open ? "" : "known"} ${model.labels[row] === NONE ? "none" : ""} ${number < 0 && open ? "blank" : ""}`
    + ` ${tile.classList.contains("broken") ? "broken" : ""} ${row === grid.focus ? "focus" : ""} ${grid.selected.has(row) ? "selected" : ""}`;
  tile.setAttribute("aria-selected", grid.selected.has(row));
  tile.setAttribute("aria-label", `${model.names[row]}: ${describe(row)}`);
  tile.setAttribute("aria-setsize", grid.rows.length);
  tile.title = model.names[row];
  const [, text, sure] = tile.lastChild.children, mark = grid.mark?.(row);
  tile.classList.toggle("marked", Boolean(mark));
  tile.children[1].textContent = mark?.key ?? "";
  if (mark) {
    tile.setAttribute("aria-label", `${model.names[row]}: ${mark.spoken}`);
    [text.textContent, sure.textContent] = [mark.text, mark.more];
    return;
  }
  text.textContent = model.labels[row] === NONE ? "none of these" : number >= 0 ? nameOf(number) : model.names[row].split("/").pop();
  sure.textContent = open ? (number >= 0 ? percent(model.p[row] / 1e4) : "") : "✓";
}

export function reveal(row) {
  const at = layout.place.get(row);
  if (!at) return;
  const line = layout.lines[at.line], low = line.top - HEAD, high = line.top + line.height;
  if (low < box.scrollTop) box.scrollTop = low;
  else if (high > box.scrollTop + box.clientHeight) box.scrollTop = high - box.clientHeight;
}

function setFocus(row, extend) {
  if (extend) {
    const [a, b] = [grid.rows.indexOf(grid.focus), grid.rows.indexOf(row)].sort((x, y) => x - y);
    for (let i = Math.max(a, 0); i <= b; i++) grid.selected.add(grid.rows[i]);
    grid.onSelect();
  }
  grid.focus = row;
  reveal(row);
  draw();
}

export function move(key, extend) {
  const at = layout.place.get(grid.focus), n = grid.rows.length;
  if (!n) return;
  const i = Math.max(grid.rows.indexOf(grid.focus), 0);
  let row = grid.rows[i];
  if (key === "ArrowRight") row = grid.rows[Math.min(i + 1, n - 1)];
  else if (key === "ArrowLeft") row = grid.rows[Math.max(i - 1, 0)];
  else if (key === "Home") row = grid.rows[0];
  else if (key === "End") row = grid.rows[n - 1];
  else if (at) {
    const step = { ArrowUp: -1, ArrowDown: 1, PageUp: -4, PageDown: 4 }[key];
    let line = at.line + step;
    while (layout.lines[line] && !layout.lines[line].rows) line += Math.sign(step);
    const found = layout.lines[line]?.rows;
    if (found) row = found[Math.min(at.column, found.length - 1)];
  }
  setFocus(row, extend);
}

export function toggle(row) {
  if (!grid.selected.delete(row)) grid.selected.add(row);
  grid.onSelect();
  draw();
}

export function selectNone() { grid.selected.clear(); grid.onSelect(); draw(); }
export function selectAll() { grid.rows.forEach((row) => grid.selected.add(row)); grid.onSelect(); draw(); }
export const targets = () => (grid.selected.size ? grid.rows.filter((row) => grid.selected.has(row)) : grid.focus >= 0 ? [grid.focus] : []);

box.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
new ResizeObserver(measure).observe(box);
canvas.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  const row = Number(tile.dataset.row);
  if (grid.mark) grid.onTick(row);
  else if (event.shiftKey) setFocus(row, true);
  else if (event.ctrlKey || event.metaKey) { grid.focus = row; toggle(row); }
  else if (row === grid.focus && !grid.selected.size && document.activeElement === box) grid.onOpen(row);
  else { if (grid.selected.size) selectNone(); setFocus(row, false); }
  box.focus({ preventScroll: true });
});
canvas.addEventListener("dblclick", (event) => {
  const tile = grid.mark && event.target.closest(".tile");
  if (tile) grid.onOpen(Number(tile.dataset.row));
});
