// The images and what is known of them: names, labels, predictions. Nothing here touches the page.

import * as api from "./api.js";

export const CLEARED = -1, NONE = -2;
const RESERVED = "nux";  // keys that mean something else

export const model = {
  names: [], stamps: [], summary: null, classes: new Map(), keys: new Map(), hues: new Map(),
  labels: null, predicted: null, runner: null, p: null, q: null, kinds: null,
};
const listeners = new Set();

export const onChange = (listener) => listeners.add(listener);

export const picture = (row, size) => `/picture/${row}/${size}/${model.stamps[row]}`;

export function percent(x) {
  const whole = Math.round(100 * x);
  return whole === 100 && x < 0.9999 ? "99 %" : `${whole} %`;
}

export const classNumber = (row) => (model.labels[row] >= 0 ? model.labels[row] : model.predicted[row]);
export const isOpen = (row) => model.labels[row] === CLEARED;
export const nameOf = (number) => model.classes.get(number)?.name ?? "";

export function describe(row) {
  const label = model.labels[row];
  if (label === NONE) return "none of these";
  if (label >= 0) return nameOf(label);
  return model.predicted[row] >= 0 ? `${nameOf(model.predicted[row])}, ${percent(model.p[row] / 1e4)} sure` : "no label yet";
}

// As numbers that hold lead and row: to sort 50,000 of them takes a few milliseconds, with a function of two rows 20 times as long.
export const leastSure = () => {
  const keys = new Float64Array(model.names.length);
  let n = 0;
  for (let i = 0; i < keys.length; i++) if (isOpen(i) && model.predicted[i] >= 0) keys[n++] = (model.p[i] - model.q[i]) * 2 ** 24 + i;
  return Array.from(keys.subarray(0, n).sort(), (key) => key % 2 ** 24);
};

// Rows whose second guess is the most probable: where one of two classes is right, and a person only says which.
export const closest = () => leastSure().sort((a, b) => model.q[b] - model.q[a]);

function read(buffer) {
  const n = model.names.length;
  const take = (kind, k) => new kind(buffer, 2 * n * k, n);
  model.labels = take(Int16Array, 0);
  model.predicted = take(Int16Array, 1);
  model.runner = take(Int16Array, 2);
  model.p = take(Uint16Array, 3);
  model.q = take(Uint16Array, 4);
  model.kinds = new Uint8Array(buffer, 10 * n, n);
}

function chooseKeys(classes) {
  model.keys = new Map();
  const letters = new Set(RESERVED);
  classes.forEach((one, i) => {
    const keys = i < 9 ? [String(i + 1)] : [];
    const letter = [...one.name.toLowerCase()].find((c) => /[a-z]/.test(c) && !letters.has(c));
    if (letter) { letters.add(letter); keys.push(letter); }
    one.keys = keys;
    keys.forEach((key) => model.keys.set(key, one.id));
  });
}

// The arrays come only when they have changed: of 50,000 images they are half a megabyte.
async function take(summary) {
  const buffer = model.summary?.arrays === summary.arrays ? null : await api.arrays();
  if (model.summary && summary.version < model.summary.version) return;  // newer ones came meanwhile
  if (buffer) read(buffer);
  model.summary = summary;
  model.classes = new Map(summary.classes.map((one) => [one.id, one]));
  summary.classes.forEach((one) => model.hues.set(one.id, (25 + 137.508 * (one.id - 1)) % 360));
  chooseKeys(summary.classes);
  listeners.forEach((listener) => listener());
}

async function update(after) {
  const summary = await api.state(after);
  if (!model.summary || summary.version > model.summary.version) await take(summary);
}

// Ask for news for as long as the page is open.
export async function follow(onProblem) {
  const found = await api.images();
  model.names = found.names;
  model.stamps = found.stamps;
  for (let failed = false; ;) {
    try {
      await update(model.summary ? model.summary.version : 0);
      if (failed) onProblem("");
      failed = false;
    } catch (error) {
      failed = true;
      onProblem(error.message);
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (model.summary) model.summary.version = model.summary.arrays = 0;  // another server may answer, and count anew
    }
  }
}

// Return once the labels of that revision are learned, or after a while.
export async function awaitLearned(revision, milliseconds) {
  const end = performance.now() + milliseconds;
  while (model.summary.learned < revision && performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 30));
}

// Send something, then show at once what the server has saved.
export async function change(request) {
  const told = await request;
  await take(await api.state(0));
  return told;
}
