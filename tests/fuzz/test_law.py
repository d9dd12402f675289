"""The law sees every breach: commands that are made up here break it, each in one way."""

import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuzz import law
from fuzz.law import Sandbox
from onelook.cli import terminal


def sleep_and_swallow() -> int:
    for _ in range(100):
        try:
            time.sleep(1)
        except Exception:
            continue
    return 0


def say(*lines: str, code: int = 2) -> int:
    print(*lines, sep="\n", file=sys.stderr)
    return code


BREACHES: dict[str, tuple[Callable[[], Any], str]] = {
    "a traceback": (lambda: {}["no"], "it raised KeyError"),
    "a hang": (sleep_and_swallow, "it raised Hang"),
    "an end of the process": (lambda: sys.exit(0), "it raised SystemExit"),
    "too much memory": (lambda: bytearray(1 << 40), "it raised MemoryError"),
    "another exit code": (lambda: 3, "its exit code is 3"),
    "no sentence": (lambda: 2, "should be the only sentence"),
    "two sentences": (lambda: say("onelook: One.", "onelook: Two."), "should be the only sentence"),
    "a sentence and more": (lambda: say("onelook: One.", "more"), "should be the only sentence"),
    "half a sentence": (lambda: say("onelook: KeyError('x')"), "no sentence"),
    "a word too much": (lambda: say("onelook: One.", code=0), "it ends well, but says"),
    "a printed traceback": (lambda: print("Traceback (most recent call last)") or 0, "there is a traceback"),
    "a colour": (lambda: say("onelook: \x1b[31mRed."), "unprintable characters"),
    "a warning": (lambda: warnings.warn("beware", stacklevel=1) or 0, "a warning: UserWarning: beware"),
    "a connection": (lambda: socket.create_connection(("example.org", 80)), "it wanted to reach"),
    "a library's words": (lambda: os.write(2, b"libtiff: oh") and 0, "a library printed 'libtiff: oh'"),
    "a changed file": (lambda: Path("other.txt").write_text("mine") and 0, "it changed 'here/other.txt'"),
    "a new file": (lambda: Path("new.txt").touch() or 0, "it changed 'here/new.txt'"),
    "a file of the person": (lambda: Path("../home/x").touch() or 0, "it changed 'home/x'"),
    "a lost file": (lambda: Path("other.txt").unlink() or 0, "it changed 'here/other.txt'"),
    "an input that is its output": (lambda: Path("out/input.txt").write_text("mine") and 0, "it changed 'here/out/in"),
}


def judge(command: Callable[[], Any], root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name in ("home", "here/out"):
        (root / "template" / name).mkdir(parents=True)
    for name in ("other.txt", "out/input.txt"):
        (root / "template" / "here" / name).write_text("of a person")
    monkeypatch.setattr(terminal, "call", lambda *_: command())
    monkeypatch.setattr(law.call, "__kwdefaults__", {"limit": 0.3})
    with Sandbox.of(root / "template", root / "box") as box:
        return box.judge(["any"], ["out"], ["out"])[1]


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_seen(breach: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, said = BREACHES[breach]
    found = judge(command, tmp_path, monkeypatch)
    assert any(said in one for one in found), found


def test_what_is_right_is_no_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> int:
        Path("out/new.txt").write_text("mine")
        return say("label: 3 images.", "onelook: There is no folder x; give another.")

    assert judge(work, tmp_path, monkeypatch) == []
