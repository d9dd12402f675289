// A screenful of labels to look at again. A letter ticks an image whose label is wrong; Enter changes these and keeps the rest.

import { arrange, capacity, draw, grid } from "./grid.js";
import { CLEARED, NONE, model, nameOf, percent } from "./images.js";

const LETTERS = "abcdefghijklmopqrstvwyz";  // but n, u and x, which mean something everywhere
// Probabilities of the other class and of the label from which an image is ticked already: of 70 such labels among 8 times
// 500 of clothing10, 20 of them wrong each time, 68 were wrong and had that class.
const CERTAIN = 0.8, IMPOSSIBLE = 0.02;

export const sheet = { doubts: new Map(), changes: new Map(), settled: new Set(), until: 0, isBusy: false };

// A near copy is no doubt any more once the two agree, nor a label that was changed since.
export const isDoubt = (one) => model.labels[one.row] === one.label && (one.other === null || one.label !== model.labels[one.other]);

// Rows from the least plausible label on; what was settled a moment ago is not learned yet.
export function doubts() {
  const rows = new Set(model.summary.contradictions.filter(isDoubt).map((one) => one.row));
  if (model.summary.learned < sheet.until) sheet.settled.forEach((row) => rows.delete(row));
  return [...rows];
}

export function compose() {
  const rows = doubts().slice(0, Math.min(capacity(), LETTERS.length)), shown = new Set(rows);
  sheet.doubts = new Map(model.summary.contradictions.filter((one) => isDoubt(one) && shown.has(one.row)).reverse().map((one) => [one.row, one]));
  const certain = [...sheet.doubts.values()].filter((one) => one.other === null && one.probability >= CERTAIN && one.own <= IMPOSSIBLE);
  sheet.changes = new Map(certain.map((one) => [one.row, one.says]));
  grid.mark = mark;
  grid.focus = rows[0] ?? -1;
  grid.selected = new Set(sheet.changes.keys());
  arrange(rows, "name");
}

export function leave() {
  if (!grid.mark) return;
  grid.mark = null;
  grid.selected = new Set();
}

const word = (label) => (label === NONE ? "none of these" : label === CLEARED ? "no label" : nameOf(label));

function mark(row) {
  const one = sheet.doubts.get(row), change = sheet.changes.get(row), key = LETTERS[grid.rows.indexOf(row)];
  const others = one.other === null ? `${word(one.says)} ${percent(one.probability)}` : `copy: ${word(one.says)}`;
  const what = change === undefined ? `the others say ${others}` : `will be ${word(change)}`;
  return { key, text: word(model.labels[row]), more: change === undefined ? `${others}` : `→ ${word(change)}`, spoken: `labelled ${word(model.labels[row])}, ${what}; key ${key}` };
}

function put(row, label) {
  if (sheet.isBusy || !sheet.doubts.has(row)) return;
  if (label === undefined || label === model.labels[row]) sheet.changes.delete(row); else sheet.changes.set(row, label);
  grid.selected = new Set(sheet.changes.keys());
  grid.focus = row;
  grid.onSelect();
  draw();
}

export const tick = (row) => put(row, sheet.changes.has(row) ? undefined : sheet.doubts.get(row)?.says);
export const tickLetter = (letter) => tick(grid.rows[LETTERS.indexOf(letter)]);
export const hasLetter = (letter) => LETTERS.includes(letter) && LETTERS.indexOf(letter) < grid.rows.length;
export const choose = (label) => put(grid.focus, label);

export function untick() {
  sheet.changes.clear();
  grid.selected = new Set();
  grid.onSelect();
  draw();
}

// The rows of the sheet, with the labels that they are to have.
export function verdict() {
  const rows = grid.rows.filter((row) => sheet.changes.has(row) || model.labels[row] !== CLEARED);
  return [rows, rows.map((row) => sheet.changes.get(row) ?? model.labels[row])];
}
