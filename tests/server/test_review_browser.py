"""The review page in a real browser, with the real command as its server, which is killed in the middle."""

import contextlib
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.images import class_image, write_files
from helpers.processes import Command, command
from onelook.labelling.answer_log import LOG_NAME, read_reviewed

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
N, KINDS = 40, ("ant", "bee", "cow")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@contextlib.contextmanager
def serving(folder: Path, out: Path) -> Iterator[tuple[Command, str]]:
    """The command in a process of its own, and the address of its page."""
    words = ["review", folder, "--out", out, "--no-open", "--port", "0", "--network", "small", "--average", "none"]
    with command(*words, "--cache", folder.parent / "cache") as process:
        found = re.search(r"http\S+", process.stdout.readline())
        assert found
        yield process, found[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_page(browser: Any, address: str) -> tuple[Any, list[str]]:
    """The page with an image to label, and what it complains of."""
    page, problems = browser.new_page(viewport={"width": 1280, "height": 800}), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda word: problems.append(word.text) if word.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("#viewer:not([hidden])", timeout=60_000)
    return page, problems


def kind_of(page: Any) -> str:
    return KINDS[int(page.inner_text("#image-name").split(".")[0]) % len(KINDS)]


def press(page: Any, key: str) -> None:
    """Press a key that answers, and wait until the page shows the next image."""
    before = page.inner_text("#image-name")
    page.keyboard.press(key)
    page.wait_for_function("name => document.getElementById('image-name').textContent !== name", arg=before)


def label_by_keys(page: Any, n: int) -> None:
    for _ in range(n):
        kind, known = kind_of(page), page.inner_text("#classes")
        if kind not in known:
            before = page.inner_text("#image-name")
            page.focus("#new-name")
            page.keyboard.type(kind)
            page.keyboard.press("Enter")
            page.wait_for_function("name => document.getElementById('image-name').textContent !== name", arg=before)
        else:
            press(page, kind[0])


def test_labels_by_keys_survive_a_kill_and_undo_works_across_it(browser: Any, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "images", {f"{i:02d}.png": class_image(i % 3, i, 48) for i in range(N)})
    out = tmp_path / "out"
    with serving(folder, out) as (process, address):
        page, problems = open_page(browser, address)
        label_by_keys(page, 20)
        for _ in range(2):
            page.keyboard.press("u")
        page.wait_for_function("() => document.getElementById('n-labels').textContent === '18'")
        page.fill("#add-name", "dog <b>")
        page.press("#add-name", "Enter")
        page.wait_for_function("() => document.querySelectorAll('#classes li').length === 4")
        assert problems == []
        process.signal(signal.SIGKILL)  # no farewell of any kind
        process.wait()
        page.close()
    kept = read_reviewed(out / LOG_NAME)
    labels = kept.labels()
    assert len(labels) == 18
    assert all(KINDS[int(name[:2]) % 3] == label for name, label in labels.items())
    assert "dog <b>" in kept.names.values()
    with serving(folder, out) as (process, address):
        page, problems = open_page(browser, address)
        assert page.inner_text("#n-labels") == "18"
        assert "dog <b>" in page.inner_text("#classes"), "a name is text, never markup"
        page.keyboard.press("u")  # the class, which was the last thing
        page.wait_for_function("() => document.querySelectorAll('#classes li').length === 3")
        assert problems == []
        page.close()


@pytest.mark.slow
def test_one_key_corrects_the_least_sure_and_many_are_labelled_at_once_in_the_grid(
    browser: Any, tmp_path: Path
) -> None:
    folder = write_files(tmp_path / "images", {f"{i:02d}.png": class_image(i % 3, i, 48) for i in range(N)})
    with serving(folder, tmp_path / "out") as (_, address):
        page, problems = open_page(browser, address)
        label_by_keys(page, 5)
        page.keyboard.press("Shift+Digit2")
        page.wait_for_selector(".tile.marked")
        page.keyboard.press("Space")
        page.wait_for_selector("#viewer:not([hidden])")
        n = 0
        while n < 3 and page.inner_text("#image-name"):
            press(page, kind_of(page)[0])
            n += 1
        assert page.inner_text("#n-labels") == "8", "one key for one image"
        page.keyboard.press("Shift+Digit3")
        page.wait_for_selector(".tile")
        page.keyboard.press("Home")
        for _ in range(4):
            page.keyboard.press("Shift+ArrowRight")
        assert page.locator(".tile[aria-selected=true]").count() == 5
        page.keyboard.press("n")
        page.wait_for_function("() => document.querySelectorAll('.tile.none').length === 5")
        page.keyboard.press("u")
        page.wait_for_function("() => document.querySelectorAll('.tile.none').length === 0")
        for width in (390, 1280, 2560):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{width} px are enough"
        assert problems == []
        page.close()


@pytest.mark.slow
def test_a_sheet_of_contradictions_is_settled_by_letters_and_enter_and_undone_by_one_key(
    browser: Any, tmp_path: Path
) -> None:
    wrong = {3: "bee", 7: "ant"}
    names = {f"{wrong.get(i, KINDS[i % 3])}/{i:02d}.png": class_image(i % 3, i, 48) for i in range(N)}
    folder, out = write_files(tmp_path / "images", names | {"new.png": class_image(0, 99)}), tmp_path / "out"
    with serving(folder, out) as (_, address):
        page, problems = open_page(browser, address)
        page.wait_for_selector("#n-doubts:not([hidden])")
        page.keyboard.press("Shift+Digit4")
        page.wait_for_selector(".tile.marked")
        tiles = page.locator(".tile.marked")
        assert 20 <= tiles.count() <= 23, "a screenful"
        found = {int(tiles.nth(i).get_attribute("title").split("/")[1][:2]): tiles.nth(i) for i in range(3)}
        assert found.keys() > wrong.keys(), "the least plausible first, and before them a pair of near copies"
        page.keyboard.press("Escape")
        assert page.locator(".tile[aria-selected=true]").count() == 0
        page.keyboard.press(found[3].locator("kbd").inner_text())
        page.keyboard.press(found[7].locator("kbd").inner_text())
        page.keyboard.press("3")  # another class than the one proposed
        assert found[7].locator(".caption b").inner_text() == "→ cow"
        assert page.inner_text("#settle-text").startswith("Change 2, keep ")
        before = read_reviewed(out / LOG_NAME).labels()
        page.keyboard.press("Enter")
        page.wait_for_selector("#toast:not([hidden])")
        labels = read_reviewed(out / LOG_NAME).labels()
        assert (labels["bee/03.png"], labels["ant/07.png"], before) == ("ant", "cow", {})
        assert all(labels[name] == name.split("/")[0] for name in labels.keys() - {"bee/03.png", "ant/07.png"})
        page.wait_for_selector("[title='ant/39.png']", state="detached")  # what was kept does not come again
        page.keyboard.press("u")
        page.wait_for_selector("[title='ant/39.png']")
        assert read_reviewed(out / LOG_NAME).labels() == {}
        page.keyboard.press("Space")
        page.wait_for_selector("#viewer:not([hidden])")
        assert problems == []
        page.close()


@pytest.mark.slow
def test_ctrl_c_ends_the_command_cleanly_with_a_page_open(browser: Any, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "images", {f"{i:02d}.png": class_image(i % 3, i, 48) for i in range(6)})
    with serving(folder, tmp_path / "out") as (process, address):
        page, _ = open_page(browser, address)
        process.signal(signal.SIGINT)
        assert process.wait(15) == 0
        assert LOG_NAME in process.stdout.read()
        page.close()
