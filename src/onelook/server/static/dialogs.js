// Windows in the page: the keys, one class, and what can be written.

import { model, nameOf } from "./images.js";

const find = (id) => document.getElementById(id);

const KEYS = [
  ["1 – 9, letter", "label with the class of that key; the next image follows"],
  ["Enter", "confirm what the image is taken for"],
  ["0 or n", "none of these"],
  ["Backspace", "take the label away"],
  ["+", "new class"],
  ["← →", "the image before, the next image"],
  ["u or Ctrl Z", "undo"],
  ["Shift U or Ctrl Shift Z", "redo"],
  ["arrows, Home, End", "move in the grid; with Shift, select"],
  ["x, Ctrl A, Esc", "select the image, all, none"],
  ["Space", "open the image; Esc goes back"],
  ["letter, Enter", "on a sheet (Least sure, Contradictions): tick an image, or not; change what is ticked and keep the rest"],
  ["1 – 9, Shift letter", "on a sheet: the class that the image ticked last is to have; Backspace leaves it open"],
  ["Shift 1 – 4", "the four views"],
  ["/", "search by name"],
  ["?", "this list"],
];

export function showHelp() {
  find("keys").replaceChildren(...KEYS.flatMap(([key, text]) => {
    const name = document.createElement("dt"), about = document.createElement("dd"), mark = document.createElement("kbd");
    mark.textContent = key;
    name.append(mark);
    about.textContent = text;
    return [name, about];
  }));
  find("help-dialog").showModal();
}

function ask(dialog) {
  return new Promise((resolve) => {
    dialog.returnValue = "close";
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.showModal();
  });
}

// {rename: name}, {merge: id}, {show: true} or nothing.
export async function askClass(number) {
  find("class-title").textContent = nameOf(number);
  find("class-name").value = nameOf(number);
  const others = model.summary.classes.filter((one) => one.id !== number);
  find("merge-into").replaceChildren(...others.map((one) => new Option(one.name, one.id)));
  find("merge-label").hidden = find("merge-button").hidden = !others.length;
  const chosen = await ask(find("class-dialog"));
  if (chosen === "rename" && find("class-name").value.trim() !== nameOf(number)) return { rename: find("class-name").value.trim() };
  if (chosen === "merge") return { merge: Number(find("merge-into").value) };
  return chosen === "show" ? { show: true } : null;
}

export async function askExport() {
  const chosen = await ask(find("export-dialog"));
  return chosen === "close" ? null : chosen;
}

export const isOpen = () => document.querySelector("dialog[open]") !== null;
