"""Interruptions and errors, as the person at the terminal meets them."""

import os
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from cyclopts import App

from onelook.benchmark.tables import Table
from onelook.cli import console
from onelook.cli.console import run
from onelook.cli.terminal import Interrupted, call, exit_code
from onelook.errors import (
    ArtifactError,
    DataError,
    DivergedError,
    DownloadError,
    SettingsError,
    StorageError,
    UserError,
)
from onelook.events import Notice, Progress
from onelook.scoring import Estimate
from onelook.train.loop import Resumed, Stepped, Validated


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Work:
    """Ten steps, of which some may press Ctrl-C; it remembers how it ended."""

    def __init__(self, *pressed_in: int) -> None:
        self.pressed_in = pressed_in
        self.done = 0
        self.closed = False

    def __iter__(self) -> Generator[Any, None, str]:
        try:
            for step in range(1, 11):
                for _ in range(self.pressed_in.count(step)):
                    interrupt()
                self.done = step
                yield Stepped(step, 10, 0.5)
        except GeneratorExit:
            self.closed = True
            raise
        return "result"


@pytest.fixture(autouse=True)
def _handler_is_restored() -> Iterator[None]:
    def own(_number: int, _frame: object) -> None:
        raise AssertionError("the handler of the test was called")

    before = signal.signal(signal.SIGINT, own)
    yield
    found = signal.signal(signal.SIGINT, before)
    assert found is own


def test_work_gives_its_result() -> None:
    assert run(iter(Work()), "work") == "result"


@pytest.mark.parametrize("step", [1, 4, 10])
def test_an_interruption_lets_the_step_end_and_closes_the_work_at_its_next_event(step: int) -> None:
    work = Work(step)
    with pytest.raises(Interrupted, match=f"step {step} of 10"):
        run(iter(work), "work")
    assert work.done == step
    assert work.closed


def test_a_second_interruption_ends_the_work_within_the_step() -> None:
    work = Work(4, 4)
    with pytest.raises(KeyboardInterrupt):
        run(iter(work), "work")
    assert work.done == 3


def test_the_old_handler_is_back_after_work_that_failed() -> None:
    def failing() -> Generator[Any, None, None]:
        yield Stepped(1, 2, 0.5)
        raise DataError("No images.")

    with pytest.raises(DataError):
        run(failing(), "work")  # the fixture looks at the handler


def test_an_interruption_after_the_last_event_does_not_lose_the_result_but_ends_the_command_before_more_work() -> None:
    def work() -> Generator[Any, None, str]:
        yield Stepped(1, 1, 0.5)
        interrupt()
        return "result"

    assert run(work(), "work") == "result"
    more = Work()
    with pytest.raises(KeyboardInterrupt):
        run(iter(more), "more")
    assert more.done == 0
    assert run(iter(more), "of the next command") == "result"


def test_every_event_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Generator[Any, None, None]:
        yield Progress("reading", 0, 3, "a note")
        yield Progress("reading", 3, 3)
        yield Resumed(1, 900)
        for step in range(2, 30):
            yield Stepped(step, 900, 0.5)
        yield Validated(29, 900, 0.5, Estimate.from_half_width(0.61234, 0.015), True)

    run(work(), "work")
    out, err = capsys.readouterr()
    assert out == ""  # standard output is for results
    assert "work: step 29 of 900, loss 0.500, validation 61.23 ± 1.50 %" in err


def test_a_long_training_is_announced_before_it_is_spent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))  # a second for each look

    def work(n_steps: int) -> Generator[Any, None, None]:
        for step in range(1, 40):
            yield Stepped(step, n_steps, 0.5)

    run(work(110), "short")
    run(work(3000), "long")
    announced = [line for line in capsys.readouterr().err.splitlines() if "on this machine" in line]
    assert len(announced) == 1
    assert announced[0].startswith("long: about")


def test_without_a_terminal_a_line_each_minute_says_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    run((Progress("reading", done, 300) for done in range(300)), "label")
    lines = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert lines[0] == "label: reading, 59 of 300, about 4 min left"
    assert [int(line.split()[2]) for line in lines] == [59, 119, 179, 239, 299]


def raising(error: BaseException) -> Any:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "kind", [UserError, SettingsError, DataError, ArtifactError, DownloadError, StorageError, DivergedError]
)
@pytest.mark.parametrize(
    "text",
    [
        "There is no file a.png.",
        "class [b] and [/] and [red]",
        r"C:\data\[x]",
        "a :smile: in a name",
        "x" * 300,
        "50% {}",
    ],
)
def test_an_error_that_a_person_can_mend_is_one_line_on_standard_error_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], kind: type[UserError], text: str
) -> None:
    assert exit_code(raising(kind(text))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"onelook: {text}\n"


@pytest.mark.parametrize("error", [Interrupted("step 3 of 10"), Interrupted(""), KeyboardInterrupt()])
def test_an_interruption_says_that_the_same_command_goes_on_and_is_exit_code_130(
    capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert exit_code(raising(error)) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "the same command goes on" in err
    assert str(error) in err


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("x"), ValueError("x")])
def test_a_defect_keeps_its_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)):
        exit_code(raising(error))


def test_a_command_that_ends_well_is_exit_code_0() -> None:
    assert exit_code(lambda: None) == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["work", "interrupted"], 130, "the same command goes on"),
        (["work", "stopped"], 130, "the same command goes on"),
        (["work", "wrong"], 2, "onelook: No images.\n"),
        (["work", "well"], 0, ""),
        (["work", "leaky"], 1, ""),
        (["wrok"], 2, 'onelook: Unknown command "wrok". Did you mean "work"?'),
        (["work"], 2, "onelook: "),
        (["work", "well", "worse"], 2, "onelook: `onelook work` has no command 'worse', or takes no 'worse' after its"),
        (["work", "well", "--fsat"], 2, "Did you mean --fast? See `onelook work --help`.\n"),
        (["--help"], 0, ""),
    ],
)
def test_through_the_parser_of_the_command_line_codes_and_messages_are_the_same(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    app = App(name="onelook", suppress_keyboard_interrupt=False)
    errors = {"interrupted": KeyboardInterrupt(), "stopped": Interrupted("step 3"), "wrong": DataError("No images.")}

    @app.command
    def work(what: str, /, *, fast: bool = False) -> int:
        del fast
        if what in errors:
            raise errors[what]
        return int(what == "leaky")

    @app.command
    def other() -> None: ...

    assert call(app, words) == code
    assert said in capsys.readouterr().err


def test_progress_can_be_drawn_only_by_the_main_thread_and_says_so() -> None:
    """Handlers of signals belong to the main thread; a server must not end up here."""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            run(iter(Work()), "work")
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


# ------------------------------------------------------------------------------------------------ words and tables


def test_a_notice_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Generator[Any, None, str]:
        yield Notice("about [red]5[/] minutes :smile: " + "x" * 200)
        yield Stepped(1, 2, 0.5)
        return "result"

    assert run(work(), "title") == "result"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[0] == "title: about [red]5[/] minutes :smile: " + "x" * 200


@pytest.mark.parametrize("width", [20, 80, 120, 300])
@pytest.mark.parametrize("n_columns", [1, 4, 9])
def test_no_cell_of_a_table_is_cut_off_on_a_terminal_of_any_width(
    width: int, n_columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = tuple((f"method {k}", *(f"{k}{i}.25 ± 0.50" for i in range(n_columns))) for k in range(3))
    console.print_table(Table(("method", *(f"{i}-shot" for i in range(n_columns))), rows))
    shown = capsys.readouterr().out
    for row in rows:
        for cell in row[1:]:
            assert shown.count(cell) == 1
    narrow = 2 * n_columns + 12 * n_columns + 10
    if narrow <= width:
        assert max(map(len, shown.splitlines())) <= width
    assert not shown.startswith("\n")  # no empty line, where nothing is the same in all rows


def test_what_is_the_same_in_all_rows_is_said_once_above_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(("set", f"{k}-way", f"method {k}", "1.00") for k in range(2))
    console.print_table(Table(("data", "way", "method", "1-shot"), rows))
    first, head, *_ = capsys.readouterr().out.splitlines()
    assert first == "data set"
    assert head.split() == ["way", "method", "1-shot"]
