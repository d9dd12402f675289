// One image at a time: the picture, what it is taken for, and a button for each class.

import { NONE, describe, isOpen, model, nameOf, percent, picture } from "./images.js";

const find = (id) => document.getElementById(id);
const STRIP = 9;

export const viewer = { queue: [], at: 0, seen: [], onChoose: () => {}, onGo: () => {} };

export const current = () => viewer.queue[viewer.at] ?? -1;

// New answers may change what comes next, but never the image that a person looks at.
export function refill(rows) {
  const now = current();
  const done = viewer.queue.slice(0, viewer.at);
  const known = new Set([...done, now]);
  viewer.queue = [...done, ...(now >= 0 ? [now] : []), ...rows.filter((row) => !known.has(row))];
}

export function begin(rows, at = 0) {
  viewer.queue = rows.slice();
  viewer.at = at;
}

export function step(by) {
  viewer.at = Math.max(0, Math.min(viewer.at + by, viewer.queue.length));
}

function choice(number, keys, name, share) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "choice";
  button.dataset.label = number;
  button.style.setProperty("--hue", model.hues.get(number) ?? 0);
  button.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
  const key = document.createElement("kbd"), text = document.createElement("span"), sure = document.createElement("small");
  key.textContent = keys.join(" ");
  text.textContent = name;
  sure.textContent = share >= 0.005 ? percent(share) : "";
  button.append(key, text, sure);
  return button;
}

function drawChoices(row) {
  const box = find("choices"), label = model.labels[row];
  const share = (number) => (number === model.predicted[row] ? model.p[row] / 1e4 : number === model.runner[row] ? model.q[row] / 1e4 : 0);
  const buttons = model.summary.classes.map((one) => choice(one.id, one.keys, one.name, isOpen(row) ? share(one.id) : 0));
  if (buttons.length) buttons.push(choice(NONE, ["0", "n"], "none of these", 0));
  buttons.forEach((button) => {
    const number = Number(button.dataset.label);
    button.classList.toggle("taken", isOpen(row) && number === model.predicted[row]);
    button.setAttribute("aria-pressed", number === label);
    if (number === NONE) button.classList.add("plain");
  });
  box.replaceChildren(...buttons);
}

function drawStrip() {
  const thumbs = viewer.queue.slice(viewer.at + 1, viewer.at + 1 + STRIP).map((row) => {
    const image = document.createElement("img");
    image.alt = "";
    image.src = picture(row, "small");
    image.addEventListener("error", () => image.classList.add("broken"));
    image.dataset.row = row;
    return image;
  });
  find("strip").replaceChildren(...thumbs);
  viewer.queue.slice(viewer.at + 1, viewer.at + 3).forEach((row) => { new Image().src = picture(row, "large"); });
}

function says(row) {
  const label = model.labels[row];
  if (label === NONE) return "None of these";
  if (label >= 0) return `Labelled ${nameOf(label)}`;
  if (model.predicted[row] < 0) return model.classes.size ? "What is it? Press the key of its class." : "What is it? Type the name of its class.";
  return `Taken for ${nameOf(model.predicted[row])}, ${percent(model.p[row] / 1e4)} sure. Enter confirms.`;
}

export function draw(why) {
  const row = current();
  if (row < 0) return;
  const image = find("image"), address = picture(row, "large");
  if (image.getAttribute("src") !== address) {
    find("image-none").hidden = true;
    image.hidden = false;
    image.src = address;
    image.alt = model.names[row];
  }
  find("image-name").textContent = model.names[row];
  find("image-place").textContent = `${(viewer.at + 1).toLocaleString("en")} of ${viewer.queue.length.toLocaleString("en")}`;
  find("image-why").textContent = why;
  find("image-label").textContent = says(row);
  find("viewer").classList.toggle("known", !isOpen(row));
  find("previous").disabled = viewer.at === 0;
  drawChoices(row);
  drawStrip();
}

export const speak = () => (current() < 0 ? "" : `${model.names[current()]}: ${describe(current())}`);

find("image").addEventListener("error", () => { find("image").hidden = true; find("image-none").hidden = false; });
find("choices").addEventListener("click", (event) => {
  const button = event.target.closest(".choice");
  if (button) viewer.onChoose(Number(button.dataset.label));
});
find("previous").addEventListener("click", () => viewer.onGo(-1));
find("following").addEventListener("click", () => viewer.onGo(1));
