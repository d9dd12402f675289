"""`onelook benchmark paper` and `onelook train --end-to-end`, from a folder of images to a table."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.images import divided, write_files
from helpers.terminal import Outcome, done, onelook, refused
from helpers.trainings import network_file, shorten_trainings
from onelook.artifacts import load_method, load_results
from onelook.experiments.paper_rows import ROWS
from onelook.methods import RidgeRegression


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        shorten_trainings(patch)
        yield


@dataclass(frozen=True)
class Made:
    folder: Path
    backbone: Path
    data: Path

    @property
    def common(self) -> tuple[str | Path, ...]:
        return (
            "--data",
            self.data,
            "--backbone",
            self.backbone,
            "--precision",
            "float32",
            "--cache",
            self.folder / "cache",
        )

    def paper(self, out: Path, rows: str = "sib-0,sib,r2d2") -> tuple[str | Path, ...]:
        return ("benchmark", "paper", *self.common, "--rows", rows, "--tasks", "4", "--out", out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("paper")
    return Made(folder, network_file(folder / "net.safetensors"), write_files(folder / "images", divided(5, 20)))


@pytest.fixture(scope="module")
def straight(made: Made, _short_trainings: None) -> tuple[Outcome, Path]:
    """A comparison without interruption, and its records."""
    file = made.folder / "deep" / "r.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        return onelook(*made.paper(made.folder / "rows"), "--json", file), file


# ------------------------------------------------------------------------------------------------ benchmark paper


def test_the_comparison_of_the_paper_prints_its_table_whole_and_writes_its_records(
    straight: tuple[Outcome, Path],
) -> None:
    outcome, file = straight
    assert outcome.code == 0, outcome.err
    records = load_results(file)
    assert [(r["row"], r["n_shot"]) for r in records] == [(row, n) for row in ("sib-0", "sib", "r2d2") for n in (1, 5)]
    assert "…" not in outcome.out
    for r in records:
        (line,) = (line for line in outcome.out.splitlines() if line.startswith(ROWS[r["row"]].title + " ("))
        for part in (
            r["paper"],
            f"{r['accuracy']:.2f} ± {r['ci95']:.2f}",
            str(r["published"] or "–"),
            f"{r['parameters']:,}",
        ):
            assert part in line
        if r["row"] != "sib":
            assert f"{r['versus']['difference']:+.2f} ± {r['versus']['ci95']:.2f}" in line
    for i, row in enumerate(("sib-0", "sib", "r2d2"), 1):
        assert f"paper: row {i} of 3: {ROWS[row].title}" in outcome.err
    assert "paper: r2d2:recipe=joint: 3 steps of 1 tasks of images, about" in outcome.err
    assert "SIB, K = 3" in done("show", file)


def test_the_comparison_goes_on_after_an_interruption(
    made: Made, straight: tuple[Outcome, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    loss = RidgeRegression.loss

    def interrupted(self: RidgeRegression, tasks: Any) -> Any:
        asked.append(1)
        if len(asked) == 6:  # two that take the time, three of the head alone: in the first with the network
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, tasks)

    monkeypatch.setattr(RidgeRegression, "loss", interrupted)
    outcome = onelook(*made.paper(tmp_path / "rows"), "--json", tmp_path / "r.json")
    assert (outcome.code, outcome.out) == (130, "")
    assert "Stopped at step 1 of 3; the same command goes on from here." in outcome.err
    assert not (tmp_path / "r.json").exists()
    asked.clear()
    done(*made.paper(tmp_path / "rows"), "--json", tmp_path / "r.json")
    assert len(asked) == 4  # two that take the time, and the two steps that were left
    costs = ("train_seconds",)
    found, expected = (
        [{k: v for k, v in r.items() if k not in costs} for r in load_results(file)]
        for file in (tmp_path / "r.json", straight[1])
    )
    assert found == expected


def test_mistakes_are_answered_by_one_sentence_before_any_work(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    other = ("--rotation-backbone", tmp_path / "gone.safetensors")
    assert "no row named 'r2d'; did you mean 'r2d2'" in refused(*made.paper(out, "sib,r2d"))
    assert "no row named ''" in refused(*made.paper(out, ""))
    assert "is a folder; give the name of a file in it" in refused(*made.paper(out), "--json", tmp_path)
    assert "There is no backbone file" in refused(*made.paper(out), *other)
    taken = write_files(tmp_path, {"file": b"words"}) / "file"
    assert "could not be written" in refused(*made.paper(taken))
    assert not out.exists()


def test_options_before_the_word_paper_are_not_silently_left_out(made: Made) -> None:
    words = ("benchmark", "--seed", "3", "paper", "--backbone", made.backbone)
    assert "`onelook benchmark` has no command 'paper', or takes no 'paper' after its options" in refused(*words)


def test_a_benchmark_without_the_word_paper_is_one_of_methods(made: Made, tmp_path: Path) -> None:
    words = ("--methods", "prototypical", "--query", "3", "--tasks", "4", "--shot", "1", "--json", tmp_path / "r.json")
    done("benchmark", *made.common, *words)
    (record,) = load_results(tmp_path / "r.json")
    assert (record["method"], record["n_tasks"]) == ("prototypical", 4)


@pytest.mark.parametrize("words", [("benchmark", "--help"), ("benchmark", "paper", "--help"), ("train", "--help")])
def test_the_help_says_what_there_is(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = done(*words)
    expected = {"benchmark": ("--methods", "paper"), "train": ("--end-to-end", "--tasks-per-step", "--learning-rate")}
    found = ("--rows", "--rotation-backbone", "--out") if "paper" in words else expected[words[0]]
    for name in found:
        assert name in text


# ------------------------------------------------------------------------------------------------ train --end-to-end


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--end-to-end", "--method", "r2d2"), "r2d2"),
        (("--method", "maml:adapt=head"), "maml"),
        (("--method", "tadam"), "tadam"),
        (("--end-to-end", "--method", "prototypical"), "prototypical"),
    ],
)
def test_a_method_is_trained_together_with_its_network_and_compared_with_others(
    words: tuple[str, ...], name: str, made: Made, tmp_path: Path
) -> None:
    more = ("--shot", "2", "--query", "3", "--steps", "2", "--tasks-per-step", "2", "--learning-rate", "0.002")
    outcome = onelook("train", *made.common, *words, *more, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "2 steps of 2 tasks of images, about 10 s on this machine" in outcome.err
    file = tmp_path / "run" / "model.safetensors"
    _, about = load_method(file)
    assert about["name"] == name
    assert about["backbone"] == {"name": "conv4-64", "channels": 3, "image_size": 16}
    config = about["config"]
    assert (config["n_steps"], config["tasks_per_step"], config["shots"]) == (2, 2, [2])
    assert config["optimisation"]["learning_rate"] == 0.002
    assert f"method {name}" in done("show", file)
    asked = ("--methods", f"prototypical,{file}", "--query", "3", "--tasks", "4", "--shot", "1")
    done("benchmark", *made.common, *asked, "--json", tmp_path / "r.json")
    records = json.loads((tmp_path / "r.json").read_text())
    assert [r["method"] for r in records] == ["prototypical", str(file)]
    assert records[1]["versus"]["method"] == "prototypical"


def test_a_learning_rate_of_nothing_is_refused_and_not_taken_for_the_usual_one(made: Made, tmp_path: Path) -> None:
    rate = ("--learning-rate", "0", "--out", tmp_path / "run")
    assert "learning_rate of Optimisation must be a number > 0" in refused("train", *made.common, "--end-to-end", *rate)
    new = ("--data", made.data, "--backbone", "conv4-64", "--method", "prototypical")
    assert "learning_rate of Optimisation must be a number > 0" in refused("train", *new, *rate)


@pytest.mark.parametrize("method", ["r2d2", "maml"])
def test_a_network_to_begin_with_must_be_given(method: str, made: Made, tmp_path: Path) -> None:
    words = ("train", "--data", made.data, "--end-to-end", "--method", method, "--out", tmp_path / "run")
    assert "run `onelook pretrain`, then `onelook train --backbone` with its file" in refused(*words)
