"""How a command ends: an exit code, and one sentence on standard error for a mistake."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from rich.console import Console
from rich.markup import escape

from onelook.errors import UserError

error_console = Console(stderr=True, highlight=False)


class Interrupted(Exception):
    """Ctrl-C, after the step under way was finished and its state saved."""


def say(text: str, head: str = "") -> None:
    """Print one line on standard error; names of files may hold brackets, line ends and the like."""
    error_console.print(head + escape("\\n".join(text.splitlines())), soft_wrap=True, emoji=False)


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
    try:
        code = command()
    except (UserError, CycloptsError) as error:
        say(_sentence(error), head="[bold red]onelook:[/] ")
        return 2
    except Interrupted as stop:
        error_console.print(f"Stopped{f' at {stop}' if str(stop) else ''}; the same command goes on from here.")
        return 130
    except KeyboardInterrupt:
        error_console.print("Stopped at once; the same command goes on from the last saved state.")
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone
        return 141
    return code if isinstance(code, int) else 0


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
