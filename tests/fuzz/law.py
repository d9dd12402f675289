"""The law of every command: it ends soon, by an exit code it documents and a clear sentence, and changes nothing else.

A case is one call in a folder of its own, a copy of a small one in which every command works.
"""

import contextlib
import faulthandler
import hashlib
import io
import os
import resource
import shutil
import signal
import socket
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onelook import cli
from onelook.cli import terminal

LIMIT = 30.0
"""Seconds after which a call hangs; the slowest takes about two on an idle machine."""
MEMORY = 6 << 30
"""Bytes of addresses that a call may take beside those of the process, or it meets a MemoryError."""
CODES = (0, 1, 2)
PREFIXES = ("onelook: ", "  ")
"""Beginnings of lines on standard error, beside the name of the work and a colon."""


class Hang(BaseException):
    """A call that does not end; no `except Exception` may swallow it."""


@dataclass(frozen=True)
class Outcome:
    """One call of the command line, and what was seen of it from outside."""

    words: tuple[str, ...]
    code: int | None
    out: str
    err: str
    raised: BaseException | None
    warned: tuple[str, ...]
    connected: tuple[str, ...]
    """Addresses that it tried to reach."""
    leaked: str
    """Text that libraries have printed on standard error behind Python's back."""
    seconds: float

    def complaints(self) -> list[str]:
        """Breaches of the law, but for changed files."""
        found = [f"it raised {type(self.raised).__name__}: {self.raised}"] if self.raised is not None else []
        if self.raised is None and self.code not in CODES:
            found.append(f"its exit code is {self.code}")
        lines = self.err.splitlines()
        sentences = [line for line in lines if line.startswith("onelook: ")]
        if self.code == 2 and self.raised is None:
            if len(sentences) != 1 or lines[-1] != sentences[0]:
                found.append(f"its last line should be the only sentence, but it says {lines[-3:]}")
            elif not sentences[0].endswith((".", "?", '"')) or len(sentences[0]) > 1500 + len("".join(self.words)):
                found.append(f"no sentence: {sentences[0][-200:]!r}, {len(sentences[0])} characters")
        if self.code == 0 and sentences:
            found.append(f"it ends well, but says {sentences}")
        if "Traceback" in self.err + self.out:
            found.append("there is a traceback in its output")
        if raw := {c for c in self.err if not c.isprintable() and c != "\n"}:
            found.append(f"unprintable characters on standard error: {sorted(map(ascii, raw))}")
        found += [f"a warning: {one}" for one in self.warned]
        found += [f"it wanted to reach {one}" for one in self.connected]
        found += [f"a library printed {self.leaked[:200]!a}"] if self.leaked else []
        return found


def call(*words: str, limit: float = LIMIT) -> Outcome:
    """Run the command line in this process, watched."""
    out, err, raised, code = io.StringIO(), io.StringIO(), None, None
    started = time.perf_counter()
    with (
        _without_network() as connected,
        warnings.catch_warnings(record=True) as caught,
        _aside() as (leaked, descriptor),
        _within(limit, descriptor),
    ):
        warnings.simplefilter("always")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = terminal.call(cli.app, list(words))
            except BaseException as error:  # SystemExit too: the command line returns its code
                raised = error
    seconds = time.perf_counter() - started
    warned = tuple(f"{one.category.__name__}: {one.message}" for one in caught)
    texts = (out.getvalue(), err.getvalue())
    return Outcome(words, code, *texts, raised, warned, tuple(connected), "".join(leaked), seconds)


@contextlib.contextmanager
def _aside() -> Iterator[tuple[list[str], int]]:
    """Keep what is written to the descriptor of standard error, and yield where it went before."""
    kept: list[str] = []
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield kept, before
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            kept.append(file.read().decode(errors="replace"))


@contextlib.contextmanager
def _within(limit: float, descriptor: int) -> Iterator[None]:
    """Raise Hang after so many seconds, again and again; end the process where even that is of no avail."""

    def ring(*_: Any) -> None:
        raise Hang(f"it did not end within {limit:g} s")

    before, memory = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, memory[1]))
    signal.setitimer(signal.ITIMER_REAL, limit, 2.0)
    faulthandler.dump_traceback_later(10 * limit, exit=True, file=descriptor)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _without_network() -> Iterator[list[str]]:
    """Refuse connections and look-ups, and list what was asked for."""
    asked, look_up = list[str](), socket.getaddrinfo

    def refuse(*where: Any, **more: Any) -> Any:
        if where[0] == "127.0.0.1":
            return look_up(*where, **more)
        asked.append(ascii(where[-1] if len(where) == 1 else where[-2:]))
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield asked


Snapshot = dict[str, str]


def snapshot(root: Path) -> Snapshot:
    """Every path below a folder, with its kind and the digest of its content; nothing special is opened."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            status = path.lstat()
            kind = stat.filemode(status.st_mode)
            if stat.S_ISREG(status.st_mode):
                kind += hashlib.sha256(path.read_bytes()).hexdigest() if os.access(path, os.R_OK) else ""
            elif stat.S_ISLNK(status.st_mode):
                kind += str(path.readlink())
            found[path.relative_to(root).as_posix()] = kind
    return found


@dataclass(frozen=True)
class Sandbox:
    """A copy of the template: `here` is the working folder, `home` that of the person."""

    root: Path

    @property
    def here(self) -> Path:
        return self.root / "here"

    @classmethod
    @contextlib.contextmanager
    def of(cls, template: Path, root: Path) -> Iterator["Sandbox"]:
        shutil.copytree(template, root, symlinks=True)
        before = Path.cwd()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(root / "home"))
            patch.setenv("XDG_CACHE_HOME", str(root / "home" / ".cache"))
            patch.setenv("ONELOOK_CACHE", str(root / "cache"))
            patch.delenv("ONELOOK_DATA", raising=False)
            patch.setenv("COLUMNS", "200")
            os.chdir(root / "here")
            try:
                yield cls(root)
            finally:
                os.chdir(before)
                shutil.rmtree(root, ignore_errors=True)

    def judge(self, words: Sequence[str], own: Sequence[str], inputs: Sequence[str]) -> tuple[Outcome, list[str]]:
        """Call, and list what is against the law.

        own: paths below which it may write, relative to `here`. inputs: those where nothing that is there may change.
        """
        before = snapshot(self.root)
        outcome = call(*words)
        after = snapshot(self.root)
        own, inputs = (
            [os.path.relpath(os.path.realpath(self.here / one), self.root) for one in paths] for paths in (own, inputs)
        )
        changed = [
            path
            for path in sorted(before.keys() | after.keys())
            if before.get(path) != after.get(path)
            and not (_is_below(path, ["cache", *own]) and not (path in before and _is_below(path, inputs)))
            and not (path not in before and any(_is_below(one, [path]) for one in own))  # a folder on the way to them
        ]
        return outcome, outcome.complaints() + [f"it changed {path!a}" for path in changed]


def _is_below(path: str, places: Sequence[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
