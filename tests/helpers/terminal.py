"""The command line as at the terminal, but in this process."""

import contextlib
import io
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import App

from onelook import cli
from onelook.cli import terminal


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def onelook(*words: str | Path) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = terminal.call(cli.app, list(map(str, words)))
    return Outcome(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def start(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose messages are read, and which ends with the test however that ends."""
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


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


def commands(app: App = cli.app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that does something, with the words that call it."""
    for name, command in app.resolved_commands().items():
        if not name.startswith("-"):
            yield from commands(command, (*path, name))
            if command.default_command is not None:
                yield (*path, name), command


def options(command: App) -> dict[str, str]:
    """Names and help of the options of a command."""
    arguments = command.assemble_argument_collection(parse_docstring=True)
    return {name: one.parameter.help or "" for one in arguments for name in one.names if name.startswith("-")}


def parse(line: str) -> Any:
    """The function that a line of the shell calls. Raises CycloptsError where it does not parse; calls nothing."""
    program, *words = shlex.split(line, comments=True)
    assert program == "onelook"
    function, _, _ = cli.app.parse_args(words, exit_on_error=False, print_error=False)
    return function
