// A screenful of labels to look at again, or of guesses: a letter ticks an image where the other class is right, Enter
// changes these and keeps the rest.

import { arrange, capacity, draw, grid } from "./grid.js";
import { CLEARED, NONE, closest, isOpen, model, nameOf, percent } from "./images.js";

const LETTERS = "abcdefghijklmopqrstvwyz";  // but n, u and x, which mean something everywhere
// Probabilities of the other class and of the label from which an image is ticked already: of 70 such labels among 8 times
// 500 of clothing10, 20 of them wrong each time, 68 were wrong and had that class.
const CERTAIN = 0.8, IMPOSSIBLE = 0.02;

export const sheet = { asked: new Map(), changes: new Map(), settled: new Set(), skipped: new Set(), until: 0, isBusy: false };

// A near copy is no doubt any more once the two agree, nor a label that was changed since.
export const isDoubt = (one) => model.labels[one.row] === one.label && (one.other === null || one.label !== model.labels[one.other]);

// What a person is asked about a row: whether `keep` is right, or `says`.
function contradictions() {
  const found = model.summary.contradictions.filter(isDoubt).map((one) => ({ ...one, keep: one.label }));
  return model.summary.learned < sheet.until ? found.filter((one) => !sheet.settled.has(one.row)) : found;  // not learned yet
}

const guesses = () => closest().map((row) => ({
  row, keep: model.predicted[row], own: model.p[row] / 1e4, says: model.runner[row], probability: model.q[row] / 1e4, other: null,
}));

export const doubts = () => [...new Set(contradictions().map((one) => one.row))];

export function compose(isOfLabels) {
  const n = Math.min(capacity(), LETTERS.length);
  sheet.asked = new Map();
  for (const one of isOfLabels ? contradictions() : guesses()) {
    if (sheet.asked.size === n) break;
    if (!sheet.asked.has(one.row) && !sheet.skipped.has(one.row)) sheet.asked.set(one.row, one);
  }
  const certain = [...sheet.asked.values()].filter((one) => isOfLabels && one.other === null && one.probability >= CERTAIN && one.own <= IMPOSSIBLE);
  sheet.changes = new Map(certain.map((one) => [one.row, one.says]));
  grid.mark = isOfLabels ? markLabel : markGuess;
  grid.focus = sheet.asked.keys().next().value ?? -1;
  grid.selected = new Set(sheet.changes.keys());
  arrange([...sheet.asked.keys()], "name");
}

export function leave() {
  if (!grid.mark) return;
  grid.mark = null;
  grid.selected = new Set();
}

const word = (label) => (label === NONE ? "none of these" : label === CLEARED ? "no label" : nameOf(label));

function mark(row, text, others, spoken) {
  const change = sheet.changes.get(row), key = LETTERS[grid.rows.indexOf(row)];
  const more = change === undefined ? others : `→ ${word(change)}`;
  return { key, text, more, spoken: `${spoken}, ${change === undefined ? others : `will be ${word(change)}`}; key ${key}` };
}

function markLabel(row) {
  const one = sheet.asked.get(row), text = word(one.keep);
  return mark(row, text, one.other === null ? `${word(one.says)} ${percent(one.probability)}` : `copy: ${word(one.says)}`, `labelled ${text}`);
}

function markGuess(row) {
  const one = sheet.asked.get(row), text = `${word(one.keep)} ${percent(one.own)}`;
  return mark(row, text, `${word(one.says)} ${percent(one.probability)}`, `taken for ${text}`);
}

function put(row, label) {
  if (sheet.isBusy || !sheet.asked.has(row)) return;
  if (label === undefined || label === sheet.asked.get(row).keep) sheet.changes.delete(row); else sheet.changes.set(row, label);
  grid.selected = new Set(sheet.changes.keys());
  grid.focus = row;
  grid.onSelect();
  draw();
}

export const tick = (row) => put(row, sheet.changes.has(row) ? undefined : sheet.asked.get(row)?.says);
export const tickLetter = (letter) => tick(grid.rows[LETTERS.indexOf(letter)]);
export const hasLetter = (letter) => LETTERS.includes(letter) && LETTERS.indexOf(letter) < grid.rows.length;
export const choose = (label) => put(grid.focus, label);

export function untick() {
  sheet.changes.clear();
  grid.selected = new Set();
  grid.onSelect();
  draw();
}

// The rows of the sheet, with the labels that they are to have. An image that has no label and is to have none is left alone.
export function verdict() {
  const labelOf = (row) => sheet.changes.get(row) ?? sheet.asked.get(row).keep;
  const rows = grid.rows.filter((row) => labelOf(row) !== CLEARED || !isOpen(row));
  grid.rows.filter((row) => !rows.includes(row)).forEach((row) => sheet.skipped.add(row));
  return [rows, rows.map(labelOf)];
}
