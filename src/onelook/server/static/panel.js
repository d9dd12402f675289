// Beside the images: the expected accuracy, how far the work is, and the classes.

import { model, percent } from "./images.js";

const find = (id) => document.getElementById(id);
const count = (x) => x.toLocaleString("en");

export const panel = { onClass: () => {} };

function drawAccuracy() {
  const { estimate, guard, classes } = model.summary;
  const figure = find("accuracy"), interval = find("interval");
  interval.hidden = !estimate;
  if (!estimate) {
    figure.textContent = "–";
    find("accuracy-text").textContent = classes.length < 2
      ? "Name images of two classes, and all others get their labels." : "Label an image of a second class, and all others get their labels.";
    return;
  }
  figure.textContent = percent(estimate.value);
  interval.style.setProperty("--low", `${100 * estimate.low}%`);
  interval.style.setProperty("--high", `${100 * estimate.high}%`);
  interval.style.setProperty("--value", `${100 * estimate.value}%`);
  find("accuracy-text").textContent = `${Math.round(100 * estimate.low)} to ${Math.round(100 * estimate.high)} % of the images without a label.`;
  find("accuracy-text").title = guard;
}

function drawProgress() {
  const { progress, problem, learned, revision, n_ready: ready, n_images: n } = model.summary;
  const waiting = learned < revision && ready > 0;
  find("panel").classList.toggle("learning", waiting);
  find("progress").hidden = !progress;
  if (progress) {
    find("progress-text").textContent = `${progress.stage[0].toUpperCase()}${progress.stage.slice(1)}: ${count(progress.done)} of ${count(progress.total)}`;
    find("progress-bar").max = progress.total || 1;
    find("progress-bar").value = progress.done;
  }
  find("problem").hidden = !problem;
  find("problem").textContent = problem;
  if (!progress && ready < n && ready > 0) find("n-open").title = `${count(n - ready)} images cannot be read`;
}

function drawClass(one) {
  const item = document.createElement("li");
  item.style.setProperty("--hue", model.hues.get(one.id));
  const button = document.createElement("button"), key = document.createElement("kbd");
  const name = document.createElement("span"), counts = document.createElement("small");
  button.type = "button";
  button.dataset.number = one.id;
  button.title = `${one.name}: ${count(one.n_labelled)} labelled, ${count(one.n_predicted)} predicted. Rename, merge, show.`;
  key.textContent = one.keys.join(" ");
  name.textContent = one.name;
  const given = document.createElement("b");
  given.textContent = count(one.n_labelled);
  counts.append(given, ` + ${count(one.n_predicted)}`);
  button.append(document.createElement("i"), name, key, counts);
  item.append(button);
  return item;
}

export function draw() {
  const one = model.summary;
  const labelled = one.n_images - one.kinds.unlabelled;
  find("folder").textContent = one.folder;
  document.title = `${one.folder} – Onelook review`;
  drawAccuracy();
  drawProgress();
  find("n-labels").textContent = count(labelled);
  find("n-open").textContent = count(one.kinds.unlabelled);
  find("n-moved").textContent = count(one.moved);
  find("undo").disabled = !one.can_undo;
  find("redo").disabled = !one.can_redo;
  find("n-doubts").hidden = !one.n_contradictions;
  find("n-doubts").textContent = one.n_contradictions;
  find("classes").replaceChildren(...one.classes.map(drawClass));
}

find("classes").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) panel.onClass(Number(button.dataset.number));
});
