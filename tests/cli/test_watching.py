"""`onelook label --watch` as at the terminal."""

import json
import os
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.folder import EXPECTED, OTHERS, contents, folder_at_hand, labels
from helpers.images import class_image, write_files
from helpers.processes import command
from helpers.terminal import done, onelook
from onelook.cli import watching
from onelook.events import Notice
from onelook.labelling.folder import SORTED_FOLDER


@pytest.fixture
def images(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return folder_at_hand(tmp_path, cache, monkeypatch)


class Visitor:
    """What happens to a folder while `--watch` sleeps: one thing after the other, and then Ctrl-C."""

    def __init__(self, *visits: Any) -> None:
        self.visits = list(visits)

    def __call__(self, seconds: float) -> None:
        assert seconds >= 1, "the folder is looked at without rest"
        if not self.visits:
            raise KeyboardInterrupt
        self.visits.pop(0)()


def watch(monkeypatch: pytest.MonkeyPatch, folder: Path, *visits: Any, more: tuple[str, ...] = ()) -> Any:
    monkeypatch.setattr(watching.time, "sleep", Visitor(*visits))
    outcome = onelook("label", folder, "--watch", "--no-report", *more)
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-1] == "label: watching has ended; what was written is whole."
    return outcome


def test_a_watched_folder_is_labelled_again_only_when_something_changed(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrive() -> None:
        assert labels(Path("onelook-labels")) == EXPECTED
        write_files(images, {"new.png": class_image(1, 90)})

    def leave() -> None:
        assert labels(Path("onelook-labels")) == EXPECTED | {"new.png": "class 01"}
        (images / "new.png").unlink()

    outcome = watch(monkeypatch, images, lambda: None, arrive, lambda: None, leave, more=("--json",))
    decoder, rounds, rest = json.JSONDecoder(), [], outcome.out
    while rest.strip():
        told, end = decoder.raw_decode(rest)
        rounds.append(len(told["labels"]))
        rest = rest[end:].lstrip()
    assert rounds == [8, 9, 8]


def test_a_table_that_changes_is_a_change(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Path("table.csv")
    table.write_text("path,label\n00-0.png,red\n01-0.png,blue\n")
    watch(
        monkeypatch,
        images,
        lambda: table.write_text("path,label\n00-0.png,red\n01-0.png,sky\n"),
        more=("--labels", "table.csv", "--not-class", "class 00", "--not-class", "class 01"),
    )
    assert set(labels(Path("onelook-labels")).values()) == {"red", "sky"}


def test_a_folder_without_labels_is_waited_for_with_one_notice_for_each_reason(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = images.parent / "later"
    folder.mkdir()

    def example(k: int) -> Any:
        return lambda: write_files(folder, {f"class {k:02d}/1.png": class_image(k, 1)})

    outcome = watch(
        monkeypatch, folder, lambda: None, lambda: write_files(folder, OTHERS), lambda: None, example(0), example(1)
    )
    said = [line for line in outcome.err.splitlines() if "Waiting for that; Ctrl-C ends it." in line]
    reasons = ("holds no image", "but none is labelled", "All labelled examples")
    assert [reason in line for reason, line in zip(reasons, said, strict=True)] == [True] * 3
    assert labels(Path("onelook-labels")) == EXPECTED


def test_sorted_copies_follow_the_folder_that_is_watched(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Path("onelook-labels") / SORTED_FOLDER

    def change() -> None:
        assert {p.name: p.parent.name for p in target.rglob("*.png")} == EXPECTED
        (images / "00-0.png").rename(images / "new.png")

    outcome = watch(monkeypatch, images, lambda: None, change, more=("--sort", "copy"))
    assert outcome.out.count("Sorted 8 images into") == 2
    assert {p.name for p in target.rglob("*.png")} == {*EXPECTED, "new.png"} - {"00-0.png"}


def test_watching_in_a_terminal_labels_what_arrives_and_ends_with_ctrl_c(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "POLL", 0.1)
    with command("label", images, "--watch", "--out", "labels", "--no-report") as process:

        def until(said: str) -> None:
            while said not in (line := process.stderr.readline()):
                assert line, f"it ended before it said {said!r}"

        until(" for changes; ")
        assert labels(Path("labels")) == EXPECTED
        new = write_files(images.parent, {"new.png": class_image(1, 90)}) / "new.png"
        new.rename(images / "new.png")  # one change: it is not seen half written
        until(" for changes; ")
        assert labels(Path("labels")) == EXPECTED | {"new.png": "class 01"}
        time.sleep(0.2)
        process.signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == "label: watching has ended; what was written is whole.\n"


def test_ctrl_c_after_the_last_event_of_labelling_ends_the_watch_with_what_was_written(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = watching.label_folder

    def pressed_at_the_end(*given: Any) -> Generator[Any, None, Any]:
        result = yield from whole(*given)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    def asleep(_: float) -> None:
        raise AssertionError("it went on")

    monkeypatch.setattr(watching, "label_folder", pressed_at_the_end)
    monkeypatch.setattr(watching.time, "sleep", asleep)
    outcome = onelook("label", images, "--watch", "--no-report")
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-1] == "label: watching has ended; what was written is whole."
    assert labels(Path("onelook-labels")) == EXPECTED


def test_ctrl_c_while_it_labels_is_an_interruption_and_leaves_what_was_written(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("label", images)
    before = contents(Path("onelook-labels"))

    def interrupted(*_: Any) -> Iterator[Notice]:
        os.kill(os.getpid(), signal.SIGINT)
        yield Notice("Under way.")
        raise AssertionError("it went on")

    monkeypatch.setattr(watching, "label_folder", interrupted)
    outcome = onelook("label", images, "--watch")
    assert (outcome.code, outcome.out) == (130, "")
    assert "the same command goes on from here" in outcome.err
    assert contents(Path("onelook-labels")) == before
