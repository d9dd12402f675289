"""The person at the terminal: progress bars, tables, interruptions and errors."""

import json
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from onelook import events
from onelook.artifacts import Artifact
from onelook.benchmark import audit
from onelook.benchmark.measure import table
from onelook.data.images import Rejected
from onelook.errors import ArtifactError, UserError, plural
from onelook.train.loop import Resumed, Stepped, Validated

Result = TypeVar("Result")

error_console = Console(stderr=True, highlight=False)
A_LOT = 120
"""Seconds of work that are announced before they are spent."""
SOME = 10
"""Images that were left out are named up to this number."""
FOLDED = ("data", "method")
"""Columns of a table that may be folded, and to what width at least."""
NARROWEST = 8


class Interrupted(Exception):
    """Ctrl-C, after the step under way was finished and its state saved."""


def run(work: Generator[Any, None, Result], title: str) -> Result:
    """Draw the events of long work as progress bars on standard error, and return its result.

    Ctrl-C ends the work at its next event, where it can save its state; a second one ends it at once.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=error_console,
        disable=not error_console.is_terminal,  # a file would get the last picture of the bars, line by line
    )
    display = _Display(bars, title)
    with bars, _interruptible() as interrupted:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                display.tell_left_out()
                return end.value  # type: ignore[no-any-return]
            display.show(event)
            if interrupted:
                work.close()
                raise Interrupted(display.where)


class _Display:
    """One bar for each stage of the work."""

    def __init__(self, bars: Progress, title: str) -> None:
        self.bars = bars
        self.title = title
        self.where = ""
        self._stage = ""
        self._bar = bars.add_task(title, total=None, note="")
        self._note = ""
        self._done = 0
        self._started = (time.monotonic(), 0)
        self._left_out: list[Rejected] = []

    def show(self, event: Any) -> None:
        if isinstance(event, events.Progress):
            self._advance(event.stage, event.done, event.total, event.note)
        elif isinstance(event, events.Notice):
            error_console.print(f"{self.title}: {escape(event.text)}", soft_wrap=True, emoji=False)
        elif isinstance(event, Rejected):
            self._left_out.append(event)
        elif isinstance(event, Resumed):
            self._note = f"resumed at step {event.step:,}"
            self._advance("training", event.step, event.n_steps, self._note)
        elif isinstance(event, Stepped):
            self._advance("training", event.step, event.n_steps, self._note)
            self.where = f"step {event.step:,} of {event.n_steps:,}"
            self._announce(event)
        elif isinstance(event, Validated):
            self._note = f"loss {event.loss:.3f}, validation {event.accuracy.plus_minus()} %"
            if not self.bars.console.is_terminal:
                error_console.print(f"{self.title}: step {event.step:,} of {event.n_steps:,}, {self._note}")

    def tell_left_out(self) -> None:
        """The images that could not be read, or the first of them."""
        if not self._left_out:
            return
        n = len(self._left_out)
        say(f"{self.title}: {plural(n, 'image')} cannot be read and {'was' if n == 1 else 'were'} left out")
        for one in self._left_out[:SOME]:
            say(f"  {one.name}: {one.reason}")
        if len(self._left_out) > SOME:
            say(f"  and {len(self._left_out) - SOME:,} more")

    def _advance(self, stage: str, done: int, total: int, note: str) -> None:
        if stage != self._stage or done < self._done:  # another stage, or the same once more
            self._stage = stage
            self._note = ""
            self._started = (time.monotonic(), done)
            self.bars.update(self._bar, visible=False)
            self._bar = self.bars.add_task(f"{self.title}: {stage}", total=total, note=note)
        self._done = done
        self.bars.update(self._bar, completed=done, total=total, note=note)

    def _announce(self, event: Stepped) -> None:
        """The cost of a long training, as soon as a few steps tell it."""
        begun, first = self._started
        if event.step - first != 20 or event.n_steps - event.step < 100:
            return
        seconds = (time.monotonic() - begun) / 19 * (event.n_steps - event.step)
        if seconds > A_LOT:
            error_console.print(
                f"{self.title}: about {seconds / 60:.0f} minutes on this machine; "
                f"Ctrl-C stops it, and the same command goes on."
            )


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list that is empty until Ctrl-C."""
    pressed: list[bool] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def exit_code(call: Any) -> int:
    """Run a command and turn what it raises into an exit code and one sentence."""
    try:
        call()
    except UserError as error:
        say(str(error), head="[bold red]onelook:[/] ")
        return 2
    except Interrupted as stop:
        error_console.print(f"Stopped{f' at {stop}' if str(stop) else ''}; the same command goes on from here.")
        return 130
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # into which typer turns a KeyboardInterrupt
            raise
        error_console.print("Stopped at once; the same command goes on from the last saved state.")
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has left; nothing more to say
        return 141
    return 0


def say(text: str, head: str = "") -> None:
    """One line on standard error; names of files may hold brackets, line ends and the like."""
    error_console.print(head + escape("\\n".join(text.splitlines())), soft_wrap=True, emoji=False)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_records(records: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(records)
    else:
        print_markdown(results_table(records))


def print_markdown(markdown: str) -> None:
    """For a narrow terminal: what is the same in all rows is said once above, and nothing is cut off."""
    head, _, *rows = [line.strip("| ").split(" | ") for line in markdown.splitlines()]
    alike = [i for i in range(head.index("method")) if len({row[i] for row in rows}) == 1]
    said = [f"{head[i]} {rows[0][i]}" for i in alike]
    to = {cell.split(" to ", 1)[1] for row in rows for cell in row[head.index("method") + 1 :] if " to " in cell}
    if len(to) == 1:
        said.append(f"differences to {min(to)}")
        rows = [[cell.removesuffix(f" to {min(to)}") for cell in row] for row in rows]
    view = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, name in enumerate(head):
        if i not in alike:
            view.add_column(name.removeprefix("paired "), overflow="fold", no_wrap=name not in FOLDED)
    for row in rows:
        view.add_row(*(Text(cell) for i, cell in enumerate(row) if i not in alike))
    if said:
        print(", ".join(said))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head)) if i not in alike]
    folded = [name in FOLDED for i, name in enumerate(head) if i not in alike]
    narrowest = sum(2 + (NARROWEST if fold else width) for width, fold in zip(widths, folded, strict=True))
    console = Console()
    if narrowest > console.width:  # lines are as long as they must be then, and the terminal wraps them
        console = Console(width=sum(widths) + 2 * len(widths))
    console.print(view)


def print_audits(records: list[dict[str, Any]]) -> bool:
    """A table, what its words mean, and a sentence for each leak; returns whether there is one."""
    print_markdown(audit.table(records))
    print("same: no answer depends on it; as declared: answers do, and the method says so; LEAK: and it does not.")
    for record in records:
        for leak in record["leaks"]:
            print(f"{record['method']}, {record['n_shot']}-shot, {record['protocol']} queries: it {leak}")
    return any(record["leaks"] for record in records)


def results_table(records: list[dict[str, Any]]) -> str:
    try:
        return table(records)
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"These are not results of `onelook benchmark`: a record lacks {error}.") from error


def print_artifact(artifact: Artifact, path: Path, as_json: bool) -> None:
    about = {"file": str(path), "kind": artifact.kind, **artifact.about}
    if as_json:
        print_json(about)
        return
    history = about.pop("history", [])
    best = max(history, key=lambda h: h["accuracy"], default=None)
    n_weights = sum(x.numel() for x in artifact.tensors.values())
    of = f"of {len(about['classes'])} classes" if artifact.kind == "classifier" else "of an unfinished run"
    print(f"{path}: {artifact.kind} {about.get('name', of)}, {n_weights:,} numbers")
    if best:
        print(f"best on validation: {best['accuracy']:.2f} ± {best['ci95']:.2f} % at step {best['step']:,}")
    for key, value in about.get("config", {}).items():
        print(f"  {key}: {value}")
