// The page: which view is shown, what keys mean, and what is sent to the server.

import * as api from "./api.js";
import { askClass, askExport, isOpen as dialogIsOpen, showHelp } from "./dialogs.js";
import { arrange, draw as drawGrid, grid, measure, move, reveal, selectAll, selectNone, targets, toggle } from "./grid.js";
import { CLEARED, NONE, awaitLearned, change, classNumber, follow, isOpen, leastSure, model, nameOf, onChange, percent } from "./images.js";
import { draw as drawPanel, panel } from "./panel.js";
import { choose, compose, doubts, hasLetter, isDoubt, leave, sheet, tick, tickLetter, untick, verdict } from "./sheet.js";
import { begin, current, draw as drawViewer, refill, speak, step, viewer } from "./viewer.js";

const find = (id) => document.getElementById(id);
const VIEWS = ["next", "unsure", "all", "doubts"];
const page = { view: "next", single: false, filter: "", ofClass: "", order: "unsure", began: false, learned: 0, moved: 0, busy: Promise.resolve() };

// ------------------------------------------------------------------------------------------------- what is shown

const upcoming = () => model.summary.upcoming.map((one) => one.row).filter(isOpen);
const isQueue = () => page.view === "next" || page.view === "unsure";
const isSheet = () => (page.view === "doubts" || page.view === "unsure") && !page.single;
const isFed = () => page.single && (isQueue() || page.view === "doubts");  // by new answers, which bring further images

function queueRows() {
  if (page.view === "doubts") return doubts();
  const rows = page.view === "next" ? upcoming() : leastSure();
  if (rows.length || page.view !== "next") return rows;
  return model.summary.n_ready ? leastSure() : [];
}

function shownRows() {
  const words = page.filter.toLowerCase();
  const rows = [];
  for (let row = 0; row < model.names.length; row++) {
    if (words && !model.names[row].toLowerCase().includes(words)) continue;
    if (page.ofClass !== "" && (model.labels[row] === NONE ? NONE : classNumber(row)) !== Number(page.ofClass)) continue;
    rows.push(row);
  }
  return rows;
}

function why() {
  const row = current();
  const doubt = model.summary.contradictions.find((one) => one.row === row && isDoubt(one));
  if (doubt && doubt.other !== null) return `Labelled ${nameOf(doubt.label)}, but nearly the same picture, ${model.names[doubt.other]}, is labelled ${nameOf(doubt.says)}.`;
  if (doubt && doubt.own < doubt.probability) return `Labelled ${nameOf(doubt.label)}, but the other labels say ${nameOf(doubt.says)} (${percent(doubt.probability)}).`;
  if (doubt) return `Labelled ${nameOf(doubt.label)}, and the other labels say so too (${percent(doubt.own)}).`;
  const found = page.view === "next" && model.summary.upcoming.find((one) => one.row === row);
  return found ? found.why : "";
}

function show(view) {
  page.view = view;
  page.single = view === "next";
  if (page.single) begin(queueRows());
  else arrangeGrid();
  render();
  (page.single ? find("main") : find("grid")).focus({ preventScroll: true });
  askForName();
}

function askForName() {
  if (page.single && !model.classes.size && current() >= 0 && !dialogIsOpen()) find("new-name").focus();
}

function arrangeGrid() {
  page.moved = 0;
  find("browser").classList.toggle("sheet", isSheet());
  find("viewer").hidden = true;
  find("browser").hidden = false;  // so that it has a size
  if (isSheet()) compose(page.view === "doubts"); else { leave(); arrange(shownRows(), page.order); }
  find("n-shown").textContent = aboutShown();
}

function aboutShown() {
  const n = model.summary.n_contradictions;
  if (page.view === "unsure") return "Two classes are possible here. Tick where the second is right.";
  if (page.view === "doubts") return `${n ? `${n} unlikely ${n === 1 ? "label" : "labels"}, then the next in line.` : "No label is unlikely; these are the least plausible ones."} Tick what is wrong.`;
  return `${grid.rows.length.toLocaleString("en")} ${grid.rows.length === 1 ? "image" : "images"}`;
}

function render() {
  document.querySelectorAll("[data-view]").forEach((tab) => tab.setAttribute("aria-pressed", tab.dataset.view === page.view));
  const isEmpty = page.single ? current() < 0 : isSheet() && !grid.rows.length;
  find("viewer").hidden = !page.single || isEmpty;
  find("browser").hidden = page.single || isEmpty;
  find("empty").hidden = !isEmpty;
  drawPanel();
  if (isEmpty) return explainEmpty();
  if (page.single) return drawViewer(why());
  drawOptions();
  find("reorder").hidden = isSheet() || !page.moved;
  find("reorder").textContent = `${page.moved.toLocaleString("en")} moved: sort again`;
  drawSelection();
  measure();
}

function drawSelection() {
  const n = grid.selected.size, left = grid.rows.length - n, keep = page.view === "unsure" ? "confirm" : "keep";
  find("selection").hidden = isSheet() || !n;
  find("n-selected").textContent = `${n.toLocaleString("en")} selected`;
  find("settle-text").textContent = [n ? `Change ${n}` : "", left ? `${n ? keep : keep[0].toUpperCase() + keep.slice(1)} ${left}` : ""].filter(Boolean).join(", ");
}

function explainEmpty() {
  const one = model.summary;
  const [title, text] = page.view === "doubts"
    ? ["No contradictions", "No label is left that the others could speak against."]
    : !one.n_ready && !one.problem ? ["Looking at the images …", "The first to name are chosen as soon as enough of them were seen."]
      : one.kinds.unlabelled && page.view === "unsure" ? ["Nothing to be unsure of yet", "Label images of two classes first: choose “Label next”."]
        : ["Everything has a label", "Look through all images, or export the labels."];
  find("empty-title").textContent = title;
  find("empty-text").textContent = text;
}

function drawOptions() {
  const select = find("of-class");
  const options = [["", "all classes"], ...model.summary.classes.map((one) => [String(one.id), one.name]), [String(CLEARED), "no label yet"], [String(NONE), "none of these"]];
  if (select.options.length === options.length && options.every(([value, text], i) => select.options[i].value === value && select.options[i].textContent === text)) return;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  select.value = page.ofClass;
}

onChange(() => {
  const one = model.summary;
  if (one.learned > page.learned) {
    page.learned = one.learned;
    if (!page.single) page.moved += one.moved;
    if (one.estimate) say(`Expected accuracy ${Math.round(100 * one.estimate.value)} percent; ${one.moved} images moved.`);
  }
  if (!page.began) {
    page.began = true;
    const view = VIEWS[["#next", "#unsure", "#all", "#doubts"].indexOf(location.hash)] ?? "next";
    show(view);
    return;
  }
  if (isFed()) {
    const wasEmpty = current() < 0;
    refill(queueRows());
    if (wasEmpty) {
      render();
      askForName();
      return;
    }
  } else if (!page.single && !grid.rows.length) arrangeGrid();
  render();
});

// -------------------------------------------------------------------------------------------------- what is done

function say(text) { find("live").textContent = text; }

let toastTimer = 0;
function toast(text, isProblem = false) {
  const box = find("toast");
  box.textContent = text;
  box.classList.toggle("problem", isProblem);
  box.hidden = !text;
  clearTimeout(toastTimer);
  if (text && !isProblem) toastTimer = setTimeout(() => { box.hidden = true; }, 2600);
}

// One thing after the other, in the order of the keys.
function perform(work) {
  page.busy = page.busy.then(work).catch((error) => toast(error.message, true));
  return page.busy;
}

const chosen = () => (page.single ? (current() >= 0 ? [current()] : []) : targets());

function after(rows) {
  if (page.single) step(1);
  else if (grid.selected.size) selectNone();
  else {
    const i = grid.rows.indexOf(rows[rows.length - 1]);
    grid.focus = grid.rows[Math.min(i + 1, grid.rows.length - 1)];
    reveal(grid.focus);
  }
  if (isFed()) refill(queueRows());
  render();
  if (page.single) say(speak());
}

function label(number) {
  return perform(async () => {
    const rows = chosen();
    if (!rows.length) return;
    await change(api.answer(rows, number));
    if (rows.length > 1) toast(`${rows.length} images: ${number === NONE ? "none of these" : number === CLEARED ? "no label" : nameOf(number)}`);
    after(rows);
  });
}

function confirm() {
  return perform(async () => {
    const rows = chosen().filter((row) => classNumber(row) >= 0);
    const parts = new Map();
    rows.forEach((row) => parts.set(classNumber(row), [...(parts.get(classNumber(row)) ?? []), row]));
    for (const [number, some] of parts) await change(api.answer(some, number));
    if (rows.length) after(rows);
  });
}

// Another sheet once that revision is learned, or of what is known after a while: it never changes under a person's eyes.
async function renew(revision, milliseconds) {
  await awaitLearned(revision, milliseconds);
  if (isSheet()) arrangeGrid();
}

// All of a sheet is settled by one entry of the log, so that one key undoes it.
function settle() {
  if (sheet.isBusy) return;
  const [rows, labels] = verdict(), n = sheet.changes.size;
  if (!rows.length) { arrangeGrid(); render(); return; }
  sheet.isBusy = true;
  perform(async () => {
    try {
      const { revision } = await change(api.answerEach(rows, labels));
      Object.assign(sheet, { settled: new Set(rows), until: revision });
      toast(`${n} changed, ${grid.rows.length - n} ${page.view === "unsure" ? "confirmed" : "kept"}`);
      await renew(revision, 1000);
    } finally { sheet.isBusy = false; }
    render();
  });
}

function nameIt(name) {
  return perform(async () => {
    const rows = chosen();
    if (!rows.length || !name.trim()) return;
    await change(api.answerNew(rows, name.trim()));
    after(rows);
  });
}

const turn = (request, word) => perform(async () => {
  const { revision } = await change(request());
  toast(word);
  sheet.until = 0;
  if (isSheet()) await renew(revision, 5000);
  if (page.single && isQueue() && word === "Undone") { step(-1); if (current() >= 0 && !isOpen(current())) step(1); }
  render();
});

async function editClass(number) {
  const wanted = await askClass(number);
  if (!wanted) return;
  if (wanted.show) { page.ofClass = String(number); show("all"); find("of-class").value = page.ofClass; return; }
  await perform(() => change(api.classes(wanted.rename ? { rename: number, name: wanted.rename } : { merge: number, into: wanted.merge })));
}

function openImage(row) {
  page.single = true;
  begin(grid.rows, grid.rows.indexOf(row));
  render();
  find("main").focus({ preventScroll: true });
}

function back() {
  page.single = false;
  if (isSheet()) arrangeGrid();
  if (current() >= 0 && grid.rows.includes(current())) grid.focus = current();
  render();
  reveal(grid.focus);
  find("grid").focus({ preventScroll: true });
}

function go(by) {
  if (by > 0 && viewer.at >= viewer.queue.length - 1 && !isQueue()) return;
  step(by);
  render();
  say(speak());
}

async function write() {
  const kind = await askExport();
  if (kind) perform(async () => toast(`Written: ${(await api.exportAs(kind)).written.join(", ")}`));
}

// ------------------------------------------------------------------------------------------------------- keys

const ANYWHERE = {
  "?": showHelp, "+": () => (page.single ? find("new-name") : find("add-name")).focus(),
  "/": () => { if (page.view !== "all" || page.single) show("all"); find("search").focus(); },
  "u": () => turn(api.undo, "Undone"), "U": () => turn(api.redo, "Done again"),
  "n": () => label(NONE), "0": () => label(NONE), "Backspace": () => label(CLEARED), "Delete": () => label(CLEARED),
  "!": () => show("next"), "\"": () => show("unsure"), "@": () => show("unsure"), "§": () => show("all"), "#": () => show("all"), "$": () => show("doubts"),
};
const SHIFTED = { Digit1: "next", Digit2: "unsure", Digit3: "all", Digit4: "doubts" };
const IN_VIEWER = {
  "Enter": confirm, "ArrowRight": () => go(1), "ArrowLeft": () => go(-1), "ArrowDown": () => go(1), "ArrowUp": () => go(-1),
  "Escape": () => (page.view === "next" ? show("all") : back()),
};
const IN_GRID = {
  "Enter": confirm, " ": () => grid.focus >= 0 && openImage(grid.focus), "x": () => toggle(grid.focus), "Escape": selectNone,
};

const IN_SHEET = {
  "Enter": settle, " ": IN_GRID[" "], "x": () => tick(grid.focus), "Escape": untick,
  "n": () => choose(NONE), "0": () => choose(NONE), "Backspace": () => choose(CLEARED), "Delete": () => choose(CLEARED),
};

function meaningInSheet(key, isShift) {
  if (IN_SHEET[key]) return IN_SHEET[key];
  if (hasLetter(key)) return () => tickLetter(key);
  const number = model.keys.get(isShift ? key.toLowerCase() : /[0-9]/.test(key) ? key : "");
  return number === undefined ? ANYWHERE[key] : () => choose(number);
}

function meaning(event) {
  const { key } = event;
  if (event.ctrlKey || event.metaKey) {
    if (key.toLowerCase() === "z") return event.shiftKey ? ANYWHERE.U : ANYWHERE.u;
    if (key.toLowerCase() === "y") return ANYWHERE.U;
    return key.toLowerCase() === "a" && !page.single && !isSheet() ? selectAll : null;
  }
  if (event.altKey) return null;
  if (event.shiftKey && SHIFTED[event.code]) return () => show(SHIFTED[event.code]);
  if (!page.single && /^(Arrow|Page|Home|End)/.test(key)) return () => move(key, event.shiftKey && !isSheet());
  if (isSheet()) return meaningInSheet(key, event.shiftKey);
  const own = page.single ? IN_VIEWER[key] : IN_GRID[key];
  if (own) return own;
  if (ANYWHERE[key]) return ANYWHERE[key];
  const number = model.keys.get(key);
  return number === undefined ? null : () => label(number);
}

document.addEventListener("keydown", (event) => {
  if (dialogIsOpen() || event.isComposing || !model.summary) return;
  const field = event.target.closest("input, select, textarea");
  if (field) {
    if (event.key === "Escape") { field.blur(); (page.single ? find("main") : find("grid")).focus({ preventScroll: true }); }
    return;
  }
  // A button that has the focus answers to Enter and Space itself.
  if ((event.key === "Enter" || event.key === " ") && event.target.closest("button, a")) return;
  const act = meaning(event);
  if (!act) return;
  event.preventDefault();
  act();
});

// ------------------------------------------------------------------------------------------------------ buttons

const listen = (id, work, kind = "click") => find(id).addEventListener(kind, work);
document.querySelectorAll("[data-view]").forEach((tab) => tab.addEventListener("click", () => model.summary && show(tab.dataset.view)));
listen("undo", ANYWHERE.u);
listen("redo", ANYWHERE.U);
listen("help", showHelp);
listen("export", write);
listen("reorder", () => { arrangeGrid(); render(); });
listen("confirm-selected", confirm);
listen("reject-selected", () => label(NONE));
listen("clear-selected", () => label(CLEARED));
listen("drop-selected", selectNone);
listen("settle", settle);
listen("untick", untick);
listen("search", () => { page.filter = find("search").value; arrangeGrid(); render(); }, "input");
listen("of-class", () => { page.ofClass = find("of-class").value; arrangeGrid(); render(); }, "change");
listen("order", () => { page.order = find("order").value; arrangeGrid(); render(); }, "change");
listen("new-class", (event) => {
  event.preventDefault();
  const field = find("new-name"), name = field.value;
  field.value = "";
  nameIt(name).then(() => find("main").focus({ preventScroll: true }));
}, "submit");
listen("add-class", (event) => {
  event.preventDefault();
  const field = find("add-name"), name = field.value.trim();
  field.value = "";
  if (name) perform(() => (!page.single && grid.selected.size ? change(api.answerNew(targets(), name)).then(() => after(targets())) : change(api.classes({ add: name }))));
  find(page.single ? "main" : "grid").focus({ preventScroll: true });
}, "submit");
grid.onOpen = openImage;
grid.onSelect = drawSelection;
grid.onTick = tick;
panel.onClass = editClass;
viewer.onChoose = label;
viewer.onGo = go;

follow((problem) => toast(problem, Boolean(problem)));
