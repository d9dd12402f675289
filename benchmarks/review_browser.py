"""The review page in a real browser: keys for 20 corrections, and how smoothly 10,000 images scroll.

    python benchmarks/review_browser.py FOLDER_OF_CLASS_FOLDERS --json benchmarks/review-browser.json

Corrections by keys alone, from the overview on. "given": 20 labels of the folder are wrong, and the person goes through
Contradictions. "predicted": 3 labels of each class are given, and the person goes through Least sure and confirms what
is right; counted are the keys until 20 wrong predictions were corrected by their own key, and until 20 that were wrong
at first are right, by a key or by what was learned from it. A key with Shift counts as one.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright
from review import ask, await_state, reviewing

from onelook import ImageFeatures
from onelook.files import write_atomically
from onelook.machine import provenance

N_WRONG, SHOTS, MOST_KEYS = 20, 3, 80
SCROLL = """async (seconds) => {
  const box = document.getElementById("grid"), end = box.scrollHeight - box.clientHeight, frames = [];
  let nodes = 0, start = await new Promise(requestAnimationFrame), last = start;
  while (last - start < 1000 * seconds) {
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
    box.scrollTop = end * (now - start) / 1000 / seconds;
    nodes = Math.max(nodes, document.querySelectorAll("*").length);
  }
  return { frames, nodes, height: end };
}"""
NEXT = """name => document.getElementById('image-name').textContent !== name
  || document.getElementById('viewer').hidden"""
SHOWN = """() => [...document.querySelectorAll(".tile img")].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}).every((one) => one.complete && one.naturalWidth > 0)"""


class Bench:
    """A folder of images with features, the command on it, and its page in a browser."""

    def __init__(self, stack: ExitStack, files: dict[str, Path], vectors: np.ndarray) -> None:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, source in files.items():
            (place / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place / "images" / name)
        np.savez(place / "features.npz", features=vectors, path=np.array(list(files)))
        self.address = stack.enter_context(reviewing(place / "images", place / "features.npz"))
        driver = stack.enter_context(sync_playwright())
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        self.page = browser.new_page(viewport={"width": 1280, "height": 800})
        await_state(self.address, 2, "chosen")
        self.page.goto(self.address)
        self.page.wait_for_selector("#viewer:not([hidden]), #empty:not([hidden])", timeout=60_000)
        self.n_keys = 0

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)
        self.n_keys += 1

    def answer(self, truth: str, label: str) -> bool:
        """One key for the image that is shown; whether it corrected its label."""
        name = self.page.inner_text("#image-name")
        if truth == label:
            self.press("Enter")
        else:
            button = self.page.locator(".choice", has=self.page.locator(f"span:text-is('{truth}')"))
            self.press(button.locator("kbd").inner_text().split()[0])
        self.page.wait_for_function(NEXT, arg=name)
        return truth != label

    def label(self, names: dict[int, str], rows: list[str], array: int) -> tuple[str, np.ndarray]:
        """The label of the image that is shown, and those of all images: array 0 has labels, 1 predictions."""
        found = np.frombuffer(ask(self.address, "/api/arrays"), "<i2", len(rows), 2 * len(rows) * array)
        called = np.array([names.get(k, "") for k in found.tolist()])
        return str(called[rows.index(self.page.inner_text("#image-name"))]), called


def correct(bench: Bench, keys: tuple[str, ...], truth: dict[str, str], array: int) -> dict[str, Any]:
    page, rows = bench.page, ask(bench.address, "/api/images")["names"]
    page.wait_for_selector("#viewer:not([hidden])" if array else "#n-doubts:not([hidden])", timeout=60_000)
    names = {one["id"]: one["name"] for one in ask(bench.address, "/api/state")["classes"]}
    right = np.array([truth[name] for name in rows])
    before = np.frombuffer(ask(bench.address, "/api/arrays"), "<i2", len(rows), 2 * len(rows) * array)
    wrong = np.array([names.get(k, "") for k in before.tolist()]) != right
    for key in keys:
        bench.press(key)
    page.wait_for_selector("#viewer:not([hidden])")
    page.wait_for_timeout(500)
    own, either = 0, None
    while own < N_WRONG and bench.n_keys < MOST_KEYS:
        page.wait_for_timeout(700)  # a person looks
        if page.locator("#viewer").is_hidden():
            page.wait_for_timeout(3000)  # until it has learnt thoroughly
        if page.locator("#viewer").is_hidden():
            break
        label, _ = bench.label(names, rows, array)
        own += bench.answer(truth[page.inner_text("#image-name")], label)
        page.wait_for_timeout(300)
        _, now = bench.label(names, rows, array)
        if either is None and int((wrong & (now == right)).sum()) >= N_WRONG:
            either = bench.n_keys
    return {"wrong_at_first": int(wrong.sum()), "corrected": own, "keys": bench.n_keys, "keys_with_learning": either}


def run_corrections(paths: list[Path], vectors: np.ndarray, kind: str, seed: int) -> dict[str, Any]:
    rng, classes = np.random.default_rng([11, seed]), sorted({path.parent.name for path in paths})
    given = {path: path.parent.name for path in paths}
    if kind == "given":
        for i in rng.permutation(len(paths))[:N_WRONG].tolist():
            given[paths[i]] = str(rng.choice([name for name in classes if name != paths[i].parent.name]))
    else:
        drawn = {
            one for name in classes for one in rng.permutation([p for p in paths if p.parent.name == name])[:SHOTS]
        }
        given = {path: path.parent.name if path in drawn else "inbox" for path in paths}
    files = {f"{given[path]}/{i:05d}{path.suffix}": path for i, path in enumerate(paths)}
    truth = {name: path.parent.name for name, path in files.items()}
    with ExitStack() as stack:
        bench = Bench(stack, files, vectors)
        keys, array = (("Shift+Digit4", "Space"), 0) if kind == "given" else (("Shift+Digit2",), 1)
        return {"experiment": f"Corrections by keys: {kind} labels", "seed": seed} | correct(bench, keys, truth, array)


def run_scrolling(paths: list[Path], n_images: int, seconds: int = 20) -> dict[str, Any]:
    files = {f"{i:05d}{paths[i % len(paths)].suffix}": paths[i % len(paths)] for i in range(n_images)}
    vectors = np.random.default_rng(5).normal(size=(n_images, 64)).astype(np.float32)
    with ExitStack() as stack:
        bench = Bench(stack, files, vectors)
        page = bench.page
        page.click("[data-view=all]")  # without a class the keys go into the field of its name
        page.wait_for_selector(".tile")
        found, waits = page.evaluate(SCROLL, seconds), []
        for part in (0.0, 0.35, 0.8):  # places that were flown over, and whose pictures may be there or not
            page.evaluate(
                "y => { const box = document.getElementById('grid'); box.scrollTop = y; }", part * found["height"]
            )
            waits.append(time_until(page, SHOWN))
    frames = np.array(found["frames"][1:])
    return {
        "experiment": "Scrolling all images from top to bottom",
        "images": n_images,
        "seconds": seconds,
        "frames": len(frames),
        "frame_ms_median": round(float(np.median(frames)), 1),
        "frame_ms_99_percent": round(float(np.quantile(frames, 0.99)), 1),
        "frames_over_50_ms": round(float((frames > 50).mean()), 4),
        "nodes": found["nodes"],
        "pictures_shown_after_ms": waits,
    }


def time_until(page: Any, condition: str) -> int:
    start = page.evaluate("performance.now()")
    page.wait_for_timeout(50)
    page.wait_for_function(condition, timeout=60_000)
    return round(page.evaluate("performance.now()") - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--what", default="given,predicted,scrolling")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    paths = sorted(
        path for path in given.folder.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    records, what = list[dict[str, Any]](), given.what.split(",")
    work: list[Callable[[], dict[str, Any]]] = []
    if {"given", "predicted"} & set(what):
        vectors = ImageFeatures(network="lite").fit_transform(paths)
        kinds = [kind for kind in ("given", "predicted") if kind in what]
        work += [
            lambda k=kind, s=seed: run_corrections(paths, vectors, k, s)
            for kind in kinds
            for seed in range(given.seeds)
        ]
    if "scrolling" in what:
        work.append(lambda: run_scrolling(paths, given.images))
    for one in work:
        records.append(one() | provenance())
        print(json.dumps(records[-1]), flush=True)
        write_atomically(given.json, f"{json.dumps(records, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
