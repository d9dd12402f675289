"""The review page in a real browser: keys for 20 corrections, and how smoothly 10,000 images scroll.

    python benchmarks/review_browser.py FOLDER_OF_CLASS_FOLDERS --json benchmarks/review-browser.json

Corrections by keys alone, by a person who knows every class and makes no mistake. Each key that is pressed counts, that
of the view and those for images that were right too; a key with Shift counts as one.

On each sheet the person presses the letters of the images whose ticks are not as they should be, a further key for a
class that is not the one proposed, and Enter; an image that is right takes no key of its own. `keys_to` says how many
wrong ones were corrected after which number of keys, `settled` how many images the person gave their word for.

"given": 20 of the labels of the folder are wrong, drawn among all images and classes, all are to be found, in
Contradictions. "predicted": 3 labels of each class are given, and the person goes through Least sure;
`keys_until_20_more_right` are those until 20 more images than at first are right, by a key or by what was learned from
it, what the answers moved from right to wrong deducted.
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
TILES = """() => [...document.querySelectorAll(".tile")].map((one) => ({
  name: one.title, key: one.querySelector("kbd").textContent, ticked: one.getAttribute("aria-selected") === "true",
  label: one.querySelector(".caption span").textContent.replace(/ \\d+ %$/, ""),
  to: one.querySelector(".caption b").textContent,
}))"""
OTHERS = """names => [...document.querySelectorAll(".tile")].some((one) => !names.includes(one.title))"""
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

    def labels(self, array: int) -> dict[str, str]:
        """Labels of all images by their name (array 0), or what they are taken for (array 1)."""
        rows = ask(self.address, "/api/images")["names"]
        called = {one["id"]: one["name"] for one in ask(self.address, "/api/state")["classes"]}
        found = np.frombuffer(ask(self.address, "/api/arrays"), "<i2", len(rows), 2 * len(rows) * array)
        return dict(zip(rows, [called.get(k, "") for k in found.tolist()], strict=True))

    def tiles(self) -> dict[str, dict[str, Any]]:
        """What the tiles of a sheet say, by the names of their images."""
        return {one["name"]: one for one in self.page.evaluate(TILES)}

    def key_of(self, name: str) -> str:
        """The key of a class on a sheet."""
        button = self.page.locator("#classes button", has=self.page.locator(f"span:text-is('{name}')"))
        key = button.locator("kbd").inner_text().split()[0]
        return key if key.isdigit() else f"Shift+Key{key.upper()}"


def settle_sheets(bench: Bench, truth: dict[str, str], view: str, array: int) -> dict[str, Any]:
    """Correct what is wrong on sheets, until N_WRONG labels were corrected or all keys are used up."""
    page, before, names = bench.page, bench.labels(array), list[str]()
    wrong_at_first, corrected, settled, until = _count_wrong(before, truth), 0, 0, None
    keys_to = dict[int, int]()
    bench.press(view)
    while bench.n_keys < MOST_KEYS and corrected < N_WRONG:
        page.wait_for_selector(".tile.marked")
        page.wait_for_timeout(1000)  # a person looks
        tiles = bench.tiles()
        names, settled = list(tiles), settled + len(tiles)
        corrected += sum(tile["label"] != truth[name] for name, tile in tiles.items())
        for name in names:
            settle_tile(bench, name, truth[name])
        bench.press("Enter")
        page.wait_for_function(OTHERS, arg=names)
        await_state(bench.address, ask(bench.address, "/api/state")["revision"], "learned")
        keys_to[bench.n_keys] = corrected
        if until is None and _count_wrong(bench.labels(array), truth) <= wrong_at_first - N_WRONG:
            until = bench.n_keys
    about = {"wrong_at_first": wrong_at_first, "settled": settled, "corrected": corrected, "keys": bench.n_keys}
    return about | {"keys_to": keys_to, f"keys_until_{N_WRONG}_more_right": until}


def _count_wrong(labels: dict[str, str], truth: dict[str, str]) -> int:
    return sum(labels[one] != truth[one] for one in truth)


def settle_tile(bench: Bench, name: str, wanted: str) -> None:
    """No key, where the tick of an image is as it should be; else that of its letter, and perhaps that of its class."""

    def will_be() -> str:
        tile = bench.tiles()[name]
        return str(tile["to"].removeprefix("→ ") if tile["ticked"] else tile["label"])

    if will_be() != wanted:
        bench.press(bench.tiles()[name]["key"])
    if will_be() != wanted:
        bench.press(bench.key_of(wanted))
    assert will_be() == wanted


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
        view, array = ("Shift+Digit4", 0) if kind == "given" else ("Shift+Digit2", 1)
        found = settle_sheets(bench, truth, view, array)
        return {"experiment": f"Corrections by keys: {kind} labels", "seed": seed} | found


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
