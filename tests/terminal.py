"""The command line as at the terminal, but in this process."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from onelook import cli
from onelook.cli import console


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def onelook(*words: str | Path) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = console.exit_code(lambda: cli.app(list(map(str, words)), prog_name="onelook"))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*words: str | Path) -> str:
    """What a command that succeeds prints."""
    outcome = onelook(*words)
    assert outcome.code == 0, outcome.err
    return outcome.out


def refused(*words: str | Path) -> str:
    """The one sentence of a command that fails by the user's mistake."""
    outcome = onelook(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("onelook: ")
    assert "Traceback" not in line
    return line.removeprefix("onelook: ")
