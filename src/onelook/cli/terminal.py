"""The streams of the person: what is printed, and how a command ends, with an exit code and a sentence for a mistake.

Everything that is printed goes through `write`, `write_data` or `say`, so that no name of a file or class can break a
line or command the terminal.
"""

import contextlib
import errno
import io
import logging
import os
import sys
import unicodedata
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from rich.console import Console
from rich.markup import escape

from onelook.errors import UserError, list_names


class Terminal(Console):
    """Console of rich that raises what goes wrong, and takes a width of 0, as of no terminal, for none."""

    def __init__(self, **settings: Any) -> None:
        given = {name: value for name, value in os.environ.items() if name != "COLUMNS" or value.strip("0")}
        super().__init__(highlight=False, _environ=given, **settings)

    def on_broken_pipe(self) -> None:
        raise


error_console = Terminal(stderr=True)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of a disk that standard output is sent to."""


class Interrupted(Exception):
    """Ctrl-C, after the step under way was finished and its state saved."""


_late: list[bool] = []
"""Whether Ctrl-C came too late to end the work under way; the command ends before it begins more."""


def end_after_this() -> None:
    """Let the result be shown that the work has ended with, and the command end then."""
    _late.append(True)


def stop_if_asked() -> None:
    """Raise the Ctrl-C that came too late for the work before."""
    if _late:
        _late.clear()
        raise KeyboardInterrupt


def prepare_streams() -> None:
    """Let every character be printed, by an escape where the encoding has none, and no warning of another library."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger().addHandler(logging.NullHandler())  # without any, Python prints their warnings
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def end(number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM: end as after a mistake, so that what is half written is removed."""
    del frame
    raise SystemExit(128 + number)


def clean(text: str) -> str:
    """The text in one line, with escapes for control characters and whatever else cannot be printed.

    >>> clean("red\\x1b[31m\\n")
    'red\\\\x1b[31m\\\\n'
    """
    shown = (c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text)
    return "".join(shown)


def write(*lines: str) -> None:
    """Print lines on standard output."""
    print("\n".join(map(clean, lines)))


def write_data(text: str) -> None:
    """Print what a program may read: as it is and in UTF-8, but for a terminal."""
    if sys.stdout is None:  # closed by who called us
        return
    if sys.stdout.isatty():
        write(*text.splitlines())
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    else:
        print(text, end="")


def say(text: str, head: str = "") -> None:
    """Print one line on standard error."""
    error_console.print(head + escape(clean(text)), soft_wrap=True, emoji=False)


def call(app: App, words: Sequence[str] | None = None) -> int:
    """Run the command that the words name, by default those of the shell, and return its exit code."""

    def run() -> Any:
        for one in app.parse_commands(words)[1]:
            if one.default_command is not None:  # the list of commands has only the first line of its help
                one.help, one.help_format = one.default_command.__doc__, "markdown"
        return app(words, exit_on_error=False, print_error=False, result_action="return_value")

    return exit_code(run)


def exit_code(command: Callable[[], Any]) -> int:
    """Run a command and turn what it raises into an exit code and one sentence; it may return a code of its own."""
    _late.clear()
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can be told that this fails
    except (UserError, CycloptsError) as error:
        say(_sentence(error), head="[bold red]onelook:[/] ")
        return 2
    except Interrupted as stop:
        say(f"Stopped{f' at {stop}' if str(stop) else ''}; the same command goes on from here.")
        return 130
    except KeyboardInterrupt as stop:
        why = f", as {stop}" if str(stop) else ""
        say(f"Stopped at once{why}; the same command goes on from the last saved state.")
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output()
        return 141
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            said = f"{list_names([error.filename])} is too long for the name of a file; give a shorter one."
        elif error.errno in FULL and error.filename is None:
            _drop_output()
            said = f"Standard output could not be written ({error.strerror})."
        else:
            raise
        say(said, head="[bold red]onelook:[/] ")
        return 2
    return code if isinstance(code, int) else 0


def open_page(page: Path) -> None:
    """Open a page in the browser of the person, or say where it lies."""
    if not webbrowser.open(page.resolve().as_uri()):
        say(f"No browser could be opened; open {page.resolve()} yourself.")


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that Python does not complain of it at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: UserError | CycloptsError) -> str:
    if isinstance(error, UserError):
        return str(error)
    command = " ".join(["onelook", *(error.command_chain or ())])
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        word = error.unused_tokens[0]
        return f"`{command}` has no command {word!r}, or takes no {word!r} after its options; see `{command} --help`."
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"`{command}` needs a value for {error.keyword or error.argument.name}; see `{command} --help`."
    error.verbose = False
    return f"{error} See `{command} --help`."
