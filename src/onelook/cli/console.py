"""The person at the terminal: progress bars, tables, interruptions."""

import json
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from onelook import events
from onelook.artifacts import Artifact
from onelook.benchmark.measure import tabulate
from onelook.benchmark.tables import Table
from onelook.cli.terminal import (
    Interrupted,
    Terminal,
    clean,
    end_after_this,
    error_console,
    say,
    stop_if_asked,
    write,
    write_data,
)
from onelook.cli.together import is_one_of_several
from onelook.data.images import Rejected
from onelook.errors import ArtifactError, describe_cause, describe_seconds, plural, quote_name
from onelook.machine import keep_freed_memory
from onelook.train.loop import Resumed, Stepped, Validated

Result = TypeVar("Result")

ANNOUNCED = 120
"""Seconds of work that are announced before they are spent."""
REPORTED = 60
"""Seconds between two lines about the progress of a stage, where the terminal shows no bars."""
N_NAMED = 10
"""Number of unreadable images that are named."""
FOLDED = ("data", "method", "where", "licence")
"""Columns of a table whose cells may be folded."""
NARROWEST = 8
"""Least width of a folded column, in characters."""


def run(work: Generator[Any, None, Result], title: str) -> Result:
    """Draw the events of long work as progress bars on standard error, and return its result.

    Ctrl-C ends the work at its next event, where it can save its state; a second one ends it at once. After the last
    event it leaves the result as it is, and ends the command before other work begins.
    """
    stop_if_asked()
    keep_freed_memory()
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=error_console,
        disable=not error_console.is_terminal,  # a file would get the last picture of the bars, line by line
    )
    display = _Display(bars, title)
    with bars, _interruptible() as interrupted:

        def show(event: Any) -> None:
            display.show(event)
            if interrupted:
                raise Interrupted(display.where)

        result = events.finish(work, show)
        display.name_unreadable()
    if interrupted:
        end_after_this()
    return result


class _Display:
    """Bars of the stages of the work, and lines beside them."""

    def __init__(self, bars: Progress, title: str) -> None:
        self.bars = bars
        self.title = title
        self.where = ""
        self._stage = ""
        self._bar = bars.add_task(title, total=None, note="")
        self._note = ""
        self._done = 0
        self._started = (time.monotonic(), 0)
        self._said = 0.0
        self._unreadable: list[Rejected] = []

    def show(self, event: Any) -> None:
        if isinstance(event, events.Progress):
            self._advance(event.stage, event.done, event.total, event.note)
        elif isinstance(event, events.Notice):
            say(f"{self.title}: {event.text}")
        elif isinstance(event, Rejected):
            self._unreadable.append(event)
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
                say(f"{self.title}: step {event.step:,} of {event.n_steps:,}, {self._note}")

    def name_unreadable(self) -> None:
        """Say which images could not be read, or the first of them."""
        if not self._unreadable:
            return
        n = len(self._unreadable)
        say(f"{self.title}: {plural(n, 'image')} cannot be read and {'was' if n == 1 else 'were'} left out")
        for one in self._unreadable[:N_NAMED]:
            say(f"  {one.name}: {one.reason}")
        if len(self._unreadable) > N_NAMED:
            say(f"  and {len(self._unreadable) - N_NAMED:,} more")

    def _advance(self, stage: str, done: int, total: int, note: str) -> None:
        if stage != self._stage or done < self._done:  # another stage, or the same once more
            self._stage = stage
            self._note = ""
            self._started = (time.monotonic(), done)
            self.bars.update(self._bar, visible=False)
            self._bar = self.bars.add_task(clean(f"{self.title}: {stage}"), total=total, note=note)
        self._done = done
        self.bars.update(self._bar, completed=done, total=total, note=clean(note))
        self._report(done, total)

    def _report(self, done: int, total: int) -> None:
        """Say from time to time how long a stage goes on, where no bar does."""
        now, (begun, first) = time.monotonic(), self._started
        if self.bars.console.is_terminal or now - max(begun, self._said) < REPORTED or not first < done < total:
            return
        self._said = now
        left = describe_seconds((now - begun) / (done - first) * (total - done))
        say(f"{self.title}: {self._stage}, {done:,} of {total:,}, about {left} left")

    def _announce(self, event: Stepped) -> None:
        """Say how long a training will take, after its first steps."""
        begun, first = self._started
        if event.step - first != 20 or event.n_steps - event.step < 100:
            return
        seconds = (time.monotonic() - begun) / 19 * (event.n_steps - event.step)
        if seconds > ANNOUNCED:
            cost = f"about {describe_seconds(seconds)} on this machine"
            say(f"{self.title}: {cost}; Ctrl-C stops it, and the same command goes on.")


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """Yield a list that is empty until Ctrl-C, to which a process that ignores it stays deaf."""
    pressed: list[bool] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if pressed and not is_one_of_several():  # torchrun passes on a Ctrl-C that its processes have seen
            raise KeyboardInterrupt
        pressed.append(True)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield pressed
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def print_json(value: Any) -> None:
    write_data(json.dumps(value, indent=2) + "\n")


def print_records(records: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(records)
    else:
        print_table(results_table(records))


def print_table(table: Table) -> None:
    """Print a table for a narrow terminal: what all rows share stands once above it, and nothing is cut off."""
    table = Table(table.columns, tuple(tuple(map(clean, row)) for row in table.rows))
    before = table.columns.index("method") if "method" in table.columns else 0
    alike = [i for i in range(before) if len({row[i] for row in table.rows}) == 1]
    if alike:
        write(", ".join(f"{table.columns[i]} {table.rows[0][i]}" for i in alike))
    shown = [i for i in range(len(table.columns)) if i not in alike]
    view = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    widths, narrowest = 0, 0
    for i in shown:
        name, width = table.columns[i], max(len(row[i]) for row in (table.columns, *table.rows))
        view.add_column(name, overflow="fold", no_wrap=name not in FOLDED)
        widths += width + 2
        narrowest += 2 + (NARROWEST if name in FOLDED else width)
    for row in table.rows:
        view.add_row(*(Text(row[i]) for i in shown))
    console = Terminal()
    if narrowest > console.width:  # lines are as long as they must be then, and the terminal wraps them
        console = Terminal(width=widths)
    console.print(view)


def results_table(records: list[dict[str, Any]]) -> Table:
    try:
        return tabulate(records)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"a record lacks {error}" if isinstance(error, KeyError) else describe_cause(error)
        raise ArtifactError(f"These are not results of `onelook benchmark`: {reason}.") from error


def print_artifact(artifact: Artifact, path: Path, as_json: bool) -> None:
    about = {"file": str(path), "kind": artifact.kind, **artifact.about}
    if as_json:
        print_json(about)
        return
    best = max(about.pop("history", []), key=lambda h: h["accuracy"], default=None)
    n_weights = sum(x.numel() for x in artifact.tensors.values())
    of = f"of {len(about.get('classes', []))} classes" if artifact.kind == "classifier" else "of an unfinished run"
    write(f"{path}: {artifact.kind} {quote_name(about.get('name', of))}, {n_weights:,} numbers")
    if best:
        write(f"best on validation: {best['accuracy']:.2f} ± {best['ci95']:.2f} % at step {best['step']:,}")
    for key, value in about.get("config", {}).items():
        write(f"  {key}: {value}")
