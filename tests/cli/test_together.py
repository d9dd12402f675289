"""Commands in several processes, of which the first one speaks."""

import signal
import sys
from collections.abc import Callable, Generator, Iterator

import pytest

from onelook import events
from onelook.cli import app, console, terminal, together

SENTENCE = "torchrun starts `onelook pretrain` and `onelook train` only; run others without it."


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(together, "PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(terminal.error_console, "_file", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def call(words: list[str], rank: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["onelook", *words])
    assert together.is_one_of_several()
    return together.call(app)


@pytest.mark.parametrize("words", [["label", "images"], ["benchmark", "networks"], ["--help"], []])
def test_a_command_that_does_not_train_says_so(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(words, "0", monkeypatch) == 2
    assert capsys.readouterr() == ("", f"onelook: {SENTENCE}\n")


def speak(end: Callable[[], object]) -> Callable[[object], int]:
    def work(_: object) -> int:
        terminal.write("result")
        terminal.say("progress")
        return terminal.exit_code(end)

    return work


def test_the_first_process_alone_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "call", speak(lambda: 0))
    assert call(["train"], "0", monkeypatch) == 0
    assert capsys.readouterr() == ("result\n", "progress\n")
    assert call(["train"], "1", monkeypatch) == 0
    assert capsys.readouterr() == ("", "")


def test_another_process_that_is_still_there_says_what_is_wrong_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "call", speak(together._refuse))
    assert call(["train"], "1", monkeypatch) == 2
    assert capsys.readouterr() == ("", f"process 1: onelook: {SENTENCE}\n")


def test_a_process_that_torchrun_ends_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "call", speak(lambda: signal.raise_signal(signal.SIGTERM)))
    assert call(["train"], "0", monkeypatch) == 130
    end = "Stopped at once, as torchrun ends it; the same command goes on from the last saved state."
    assert capsys.readouterr().err == f"progress\n{end}\n"


def test_a_process_that_ignores_ctrl_c_goes_on() -> None:
    """All but the first one do, which ends them when it has saved its step."""

    def work() -> Generator[events.Notice, None, str]:
        signal.raise_signal(signal.SIGINT)
        yield events.Notice("still here")
        return "done"

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert console.run(work(), "work") == "done"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
