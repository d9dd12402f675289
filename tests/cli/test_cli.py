"""The command line, from a folder of images to a table, and what a clumsy person gets to read."""

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.images import classes, divided, write_files
from helpers.terminal import commands, done, onelook, options, parse, refused
from onelook import artifacts, cli
from onelook.artifacts import Artifact
from onelook.cli import benchmark
from onelook.experiments import demo
from onelook.files import is_own
from onelook.machine import Place
from onelook.train import recipes

SMALL = ("--epochs", "1", "--batch-size", "32", "--image-size", "16", "--learning-rate", "0.05")
SMALL += ("--validation-tasks", "4")


@pytest.fixture(scope="module", autouse=True)
def _short_trainings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        recipe = recipes.RECIPES["fast"]
        config = replace(recipe.config, n_steps=3, tasks_per_step=2, validate_every=2, n_validation_tasks=4)
        patch.setitem(recipes.RECIPES, "fast", replace(recipe, config=config))
        yield


@dataclass(frozen=True)
class Made:
    """What the commands leave behind."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "images"

    @property
    def backbone(self) -> Path:
        return self.folder / "net" / "model.safetensors"

    @property
    def sib(self) -> Path:
        return self.folder / "sib" / "model.safetensors"

    @property
    def features(self) -> dict[str, Path]:
        return {split: self.folder / f"{split}.npz" for split in ("train", "val", "test")}

    @property
    def common(self) -> tuple[str | Path, ...]:
        return ("--precision", "float32", "--cache", self.folder / "cache")

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("--query", "3", "--tasks", "6", "--shot", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    m = Made(tmp_path_factory.mktemp("whole path"))
    write_files(m.data, divided(6, 20))
    done("pretrain", "--data", m.data, *SMALL, "--out", m.backbone.parent, "--precision", "float32")
    done("train", "--data", m.data, "--backbone", m.backbone, "--query", "3", "--out", m.sib.parent, *m.common)
    for split, file in m.features.items():
        done("embed", "--data", m.data, "--split", split, "--backbone", m.backbone, "--out", file, *m.common)
    return m


# ------------------------------------------------------------------------------------------------ the whole path


KEYS = {
    "dataset",
    "split",
    "backbone",
    "precision",
    "average",
    "method",
    "settings",
    "n_way",
    "n_shot",
    "n_query",
    "protocol",
    "n_total",
    "n_tasks",
    "seed",
    "tasks",
    "accuracy",
    "ci95",
    "versus",
    "seconds",
    "milliseconds",
    "memory_mb",
    "commit",
    "machine",
}

COSTS = ("seconds", "milliseconds", "memory_mb")


def without_costs(file: Path) -> list[dict[str, Any]]:
    records = json.loads(file.read_text())
    return [{k: v for k, v in record.items() if k not in COSTS} for record in records]


def test_a_benchmark_on_images_gives_the_promised_records_and_the_same_ones_when_run_again(
    made: Made, tmp_path: Path
) -> None:
    words = (
        "benchmark",
        "--data",
        made.data,
        "--backbone",
        made.backbone,
        "--methods",
        "feature-averaging, sib",
        *made.tasks,
        *made.common,
        "--protocol",
        "balanced,dirichlet:2",
        "--json",
    )
    out = done(*words, tmp_path / "a.json")
    records = artifacts.load_results(tmp_path / "a.json")
    assert [(r["method"], r["protocol"]) for r in records] == [
        ("feature-averaging", "balanced"),
        ("sib", "balanced"),
        ("feature-averaging", "dirichlet:2"),
        ("sib", "dirichlet:2"),
    ]
    for record in records:
        assert set(record) == KEYS
        assert set(record["versus"]) == {"method", "difference", "ci95"}
        assert record["dataset"] == made.data.name
        assert (record["split"], record["n_tasks"], record["n_query"]) == ("test", 6, 3)
        assert 0 <= record["accuracy"] <= 100
        assert record["accuracy"] > 30  # the classes differ in colour
    assert records[1]["versus"]["method"] == "feature-averaging"
    assert f"data {made.data.name}, " in out
    for record in records:  # at 80 columns, whole
        line = next(line for line in out.splitlines() if record["protocol"] in line and record["method"][:10] in line)
        assert f"{record['accuracy']:.2f}" in line
    assert "…" not in out
    done(*words, tmp_path / "b.json")
    assert without_costs(tmp_path / "a.json") == without_costs(tmp_path / "b.json")


def test_a_benchmark_on_features_needs_no_images(made: Made, tmp_path: Path) -> None:
    done(
        "benchmark",
        "--embeddings",
        made.features["test"],
        "--train-embeddings",
        made.features["train"],
        "--methods",
        "feature-averaging,prototypical",
        *made.tasks,
        *made.common,
        "--way",
        "3",
        "--shot",
        "1,2",
        "--json",
        tmp_path / "deep" / "r.json",
    )
    records = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert [(r["method"], r["n_shot"]) for r in records] == [
        (method, shot) for shot in (1, 2) for method in ("feature-averaging", "prototypical")
    ]
    assert {r["dataset"] for r in records} == {"test"}


def test_features_of_a_file_and_of_the_images_give_the_same_accuracy(made: Made, tmp_path: Path) -> None:
    for name, source in (
        ("a", ("--data", made.data, "--backbone", made.backbone)),
        ("b", ("--embeddings", made.features["test"])),
    ):
        done("benchmark", *source, "--methods", "prototypical", *made.tasks, *made.common, "--json", tmp_path / name)
    a, b = (artifacts.load_results(tmp_path / name)[0]["accuracy"] for name in "ab")
    assert a == b


def test_trained_files_are_compared_under_their_own_names(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model.safetensors"
    other.parent.mkdir()
    other.write_bytes(made.sib.read_bytes())
    out = done(
        "benchmark",
        "--embeddings",
        made.features["test"],
        "--methods",
        f"{made.sib},{other}",
        *made.tasks,
        *made.common,
        "--json",
        tmp_path / "r.json",
    )
    records = artifacts.load_results(tmp_path / "r.json")
    assert [r["method"] for r in records] == [str(made.sib), str(other)]
    assert records[0]["accuracy"] == records[1]["accuracy"]
    assert records[1]["versus"]["difference"] == 0
    assert out


def test_averaged_features_are_said_in_records_tables_and_trained_methods(made: Made, tmp_path: Path) -> None:
    averaged = ("--data", made.data, "--backbone", made.backbone, "--average", "mirror", *made.common)
    done("train", *averaged, "--query", "3", "--out", tmp_path / "sib")
    trained = artifacts.load(tmp_path / "sib" / "model.safetensors", "method").about["config"]
    assert trained["trained_on"] == f"{made.data}:train, each the mean over mirror"
    done("benchmark", *averaged, "--methods", "prototypical", *made.tasks, "--json", tmp_path / "a.json")
    done("embed", *averaged, "--out", tmp_path / "f.npz")
    words = ("benchmark", "--embeddings", tmp_path / "f.npz", "--methods", "prototypical", *made.tasks, *made.common)
    done(*words, "--json", tmp_path / "b.json")
    (record,), (same,) = (artifacts.load_results(tmp_path / name) for name in ("a.json", "b.json"))
    assert record["average"] == "mirror"
    assert record["accuracy"] == same["accuracy"]
    assert "conv4-64, mirror |" in done("show", tmp_path / "a.json", "--markdown")
    with np.load(tmp_path / "f.npz") as content, np.load(made.features["test"]) as plain:
        assert content["features"].shape == plain["features"].shape
        assert not np.allclose(content["features"], plain["features"])


def test_everything_that_was_written_may_be_replaced_when_a_command_is_run_again(made: Made, tmp_path: Path) -> None:
    words = ("benchmark", "--embeddings", made.features["test"], "--methods", "prototypical", *made.tasks, *made.common)
    for _ in range(2):
        done(*words, "--json", tmp_path / "r.json")
    assert all(map(is_own, (made.backbone, made.sib, made.sib.parent / "state.safetensors", *made.features.values())))


def test_embedded_features_are_those_of_the_split(made: Made) -> None:
    with np.load(made.features["val"]) as content:
        assert content["features"].shape == (120, 64)
        assert np.bincount(content["labels"]).tolist() == [20] * 6
        assert list(content["class_names"]) == [f"class {k:02d}" for k in range(6, 12)]


def test_results_are_shown_as_a_table_as_markdown_and_as_json(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    done(
        "benchmark",
        "--embeddings",
        made.features["test"],
        "--methods",
        "prototypical",
        *made.tasks,
        *made.common,
        "--json",
        file,
    )
    accuracy = f"{json.loads(file.read_text())[0]['accuracy']:.2f}"
    assert accuracy in done("show", file)
    lines = done("show", file, "--markdown").splitlines()
    assert len(lines) == 3
    assert accuracy in lines[2]
    assert len(done("show", file, file, "--markdown").splitlines()) == 4
    assert json.loads(done("show", file, "--json")) == json.loads(file.read_text())


def test_a_model_says_what_it_is(made: Made) -> None:
    text = done("show", made.backbone)
    assert "backbone conv4-64" in text
    assert re.search(r"best on validation: \d+\.\d\d ± \d+\.\d\d % at step 3", text)
    assert f"data: {made.data}:train" in text
    assert "method sib" in done("show", made.sib)
    assert "of an unfinished run" in done("show", made.sib.parent / "state.safetensors")


def test_json_is_all_there_is_on_standard_output(made: Made, tmp_path: Path) -> None:
    again = ("--data", made.data, "--precision", "float32", "--json")
    net = json.loads(done("pretrain", *again, *SMALL, "--out", made.backbone.parent))
    assert net["kind"] == "backbone"
    words = ("--backbone", made.backbone, "--query", "3", "--out", made.sib.parent, "--cache", made.folder / "cache")
    assert json.loads(done("train", *again, *words))["kind"] == "method"
    assert json.loads(done("show", made.backbone, "--json")) == net
    assert {row["name"] for row in json.loads(done("data", "list", "--home", tmp_path, "--json"))} >= {"cifar-fs"}


def test_all_rotations_of_the_paper_and_mixup_can_be_asked_for(made: Made, tmp_path: Path) -> None:
    turned = (
        "--rotation-weight",
        "1",
        "--rotations",
        "3",
        "--mixup",
        "2",
        "--average-from",
        "0.5",
        "--precision",
        "float32",
        "--json",
    )
    told = json.loads(done("pretrain", "--data", made.data, *SMALL, *turned, "--out", tmp_path))
    config = artifacts.load(tmp_path / "model.safetensors", "backbone").about["config"]
    assert (config["rotation_weight"], config["rotations"], config["mixup"]) == (1.0, 3, 2.0)
    assert config["optimisation"]["average_from"] == 0.5
    assert told["kind"] == "backbone"


def test_a_network_can_be_the_teacher_of_the_next(made: Made, tmp_path: Path) -> None:
    taught = ("--teacher", made.backbone, "--temperature", "2", "--precision", "float32")
    done("pretrain", "--data", made.data, *SMALL, *taught, "--out", tmp_path)
    told = artifacts.load(tmp_path / "model.safetensors", "backbone").about["config"]
    assert re.fullmatch("[0-9a-f]{16}", told["teacher"])
    assert told["temperature"] == 2.0
    assert "teacher" not in artifacts.load(made.backbone, "backbone").about["config"]
    message = refused("pretrain", "--data", made.data, *SMALL, *taught[2:], "--out", tmp_path)
    assert "with other settings (teacher: " in message


def test_images_that_were_left_out_are_listed_on_standard_error(made: Made, tmp_path: Path) -> None:
    files = classes(2, 2) | {f"class 00/bad [{i}].png": b"words" for i in range(12)}
    write_files(tmp_path / "images", files)
    words = ("embed", "--data", tmp_path / "images", "--split", "all", "--backbone", made.backbone, *made.common)
    outcome = onelook(*words, "--out", tmp_path / "f.npz")
    assert outcome.code == 0
    assert "4 images" in outcome.out
    lines = outcome.err.splitlines()
    assert lines[0] == "embedding: 12 images cannot be read and were left out"
    assert lines[1] == "  class 00/bad [0].png: it is not an image"
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 12


def test_a_network_may_be_named(made: Made, tmp_path: Path) -> None:
    words = ("embed", "--data", write_files(tmp_path / "images", classes(2, 2)), "--split", "all", *made.common)
    done(*words, "--backbone", artifacts.SMALL, "--out", tmp_path / "named.npz")
    done(*words, "--backbone", artifacts.SHIPPED_NETWORK, "--out", tmp_path / "file.npz")
    named, file = (np.load(tmp_path / f"{one}.npz")["features"] for one in ("named", "file"))
    np.testing.assert_array_equal(named, file)


def test_the_demo_is_called_with_its_seed_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(config: demo.DemoConfig, out: Path, place: Place) -> Generator[Any, None, Any]:
        assert (config, out, place) == (demo.DemoConfig(seed=3), tmp_path, Place(tmp_path / "cache", None, "float32"))
        yield from ()
        return SimpleNamespace(records=[{"method": "sib"}], facts={"seconds": 1})

    monkeypatch.setattr(demo, "demo", short)
    words = ("demo", "--out", tmp_path, "--seed", "3", "--precision", "float32")
    assert json.loads(done(*words, "--json")) == [{"method": "sib"}]


# ------------------------------------------------------------------------------------------------ mistakes


def mistakes(m: Made, folder: Path) -> dict[str, tuple[tuple[str | Path, ...], str]]:
    """Words of a command, and part of the sentence that answers them."""
    few = write_files(folder / "few", classes(4, 20))
    file = write_files(folder, {"a file": b"words"}) / "a file"
    content = m.backbone.read_bytes()
    write_files(
        folder,
        {
            "cut.safetensors": content[: len(content) // 2],
            "words.safetensors": b"words",
            "words.json": b"words",
            "other.json": b'[{"accuracy": 1}]',
            "no.json": b"{}",
        },
    )
    artifacts.save(Artifact("state", {}, {}), folder / "state.safetensors")
    np.savez(folder / "wrong.npz", features=np.zeros((3, 2)))
    features, net = ("--embeddings", m.features["test"]), ("--backbone", m.backbone)
    data, out, npz = ("--data", m.data), ("--out", folder / "out"), ("--out", folder / "f.npz")
    bare = ("--methods", "prototypical")
    return {
        "method": (("benchmark", *features, "--methods", "sbi"), "no method named 'sbi'; did you mean 'sib'"),
        "no method": (("benchmark", *features, "--methods", ""), "no method named ''; known: "),
        "setting": (("benchmark", *features, "--methods", "sib:n_stepps=1"), "did you mean 'n_steps'"),
        "value": (("benchmark", *features, "--methods", "sib:n_steps=x"), "must be a whole number >= 0, but is 'x'"),
        "network": (("pretrain", *data, "--backbone", "conv4", *out), "no feature network named 'conv4'; did you mean"),
        "network of train": (("train", *data, "--backbone", "resnet", *out), "did you mean 'resnet12'"),
        "data": (("pretrain", "--data", "cifar-sf", *out), "no data named 'cifar-sf'"),
        "path": (("pretrain", "--data", folder / "none", *out), f"no file or folder {folder / 'none'}"),
        "data is a file": (("pretrain", "--data", file, *out), "neither a folder nor a zip nor a table"),
        "split": (("embed", *data, *net, *npz, "--split", "tset"), "no split 'tset'; known: train"),
        "divided data": (("embed", *data, *net, *npz, "--split", "all"), "divided into train, val"),
        "5 ways of 4": (("benchmark", "--data", few, "--split", "all", *net, *bare), "only 4 of the 4 classes of"),
        "too few to divide": (("benchmark", "--data", few, *net), "use --split all"),
        "another kind": (("benchmark", *data, "--backbone", m.sib), "holds a method, but a backbone is needed"),
        "another kind as method": (("benchmark", *features, "--methods", m.backbone), "but a method is needed"),
        "unfinished": (("benchmark", *data, "--backbone", folder / "state.safetensors"), "holds a state, but"),
        "truncated": (("benchmark", *data, "--backbone", folder / "cut.safetensors"), "no file of Onelook, or damaged"),
        "words": (("benchmark", *data, "--backbone", folder / "words.safetensors"), "no file of Onelook, or damaged"),
        "no checkpoint": (("benchmark", *data, "--backbone", folder / "none.safetensors"), "no backbone file"),
        "no backbone": (("benchmark", *data), "give --backbone NAME or FILE with --data, or --embeddings FILE"),
        "no training": (("benchmark", *features, "--methods", "sib"), "--train-embeddings FILE"),
        "features": (("benchmark", "--embeddings", folder / "wrong.npz"), "needs the arrays features"),
        "no features": (("benchmark", "--embeddings", folder / "none.npz"), "cannot be read"),
        "shots": (("benchmark", *features, "--shot", "one"), "--shot takes whole numbers divided by commas"),
        "no shots": (("benchmark", *features, "--shot", "0"), "must be a whole number >= 1, but is 0"),
        "protocol": (("benchmark", *features, "--protocol", "dirichlet"), "known: balanced, dirichlet:A"),
        "precision": (("benchmark", *features, "--precision", "half"), "auto, float32 or bfloat16, but got 'half'"),
        "average": (("embed", *data, *net, *npz, "--average", "flip"), "but got 'flip'"),
        "average of characters": (("embed", *net, *npz, "--average", "mirror"), "A mirrored character is another"),
        "average of a file": (("benchmark", *features, "--average", "mirror"), "`onelook embed --average`"),
        "average of a new network": (
            ("train", *data, "--method", "prototypical", "--average", "mirror", *out),
            "trained on single images; give --average to `onelook benchmark`",
        ),
        "ways": (("benchmark", *features, "--way", "1"), "must be a whole number >= 2, but is 1"),
        "rotations": (("pretrain", *data, "--rotations", "4", *out), "must be a whole number >= 1 and <= 3, but is 4"),
        "epochs": (("pretrain", *data, "--epochs", "0", *out), "must be a whole number >= 1, but is 0"),
        "batch": (("pretrain", *data, "--batch-size", "500", *out), "fewer than a batch of 500"),
        "rate": (("pretrain", *data, "--learning-rate", "-1", *out), "must be a number > 0, but is -1.0"),
        "teacher": (("pretrain", *data, "--teacher", m.sib, *out), "holds a method, but a backbone is needed"),
        "temperature": (("pretrain", *data, "--temperature", "0", *out), "must be a number > 0, but is 0"),
        "averaged weights": (
            ("pretrain", *data, "--average-from", "1", *out),
            "must be a number >= 0 and < 1, but is 1.0",
        ),
        "nothing to learn": (("train", *data, *net, "--method", "prototypical", *out), "has nothing to learn"),
        "weights along": (("train", *data, "--method", "sib", *out), "run `onelook pretrain`"),
        "place of a run": (("pretrain", *data, "--out", file / "x"), "could not be written (Not a directory)"),
        "place of a training": (("train", *data, *net, "--out", file), "could not be written (Not a directory)"),
        "place of features": (("embed", *data, *net, "--out", file / "f.npz"), "could not be written"),
        "place of results": (("benchmark", *features, "--json", folder), "is a folder; give the name of a file"),
        "another run": (("pretrain", *data, "--out", m.backbone.parent, "--batch-size", "16"), "with other settings"),
        "no results": (("show", folder / "none.json"), "cannot be read as a results file"),
        "words as results": (("show", folder / "words.json"), "cannot be read as a results file"),
        "other results": (("show", folder / "other.json"), "not results of `onelook benchmark`"),
        "a dictionary": (("show", folder / "no.json"), "is not a results file"),
        "no model": (("show", folder / "none.safetensors"), "no model file"),
        "a model among results": (("show", folder / "other.json", folder / "cut.safetensors"), "is a model, which is"),
        "standard set": (("data", "fetch", "cifar"), "no benchmark named 'cifar'; did you mean 'cifar-fs'"),
        "absent set": (("data", "verify", "cub", "--home", folder), "not there"),
    }


def test_every_mistake_is_answered_by_one_sentence_and_exit_code_2(made: Made, tmp_path: Path) -> None:
    found = {}
    for name, (words, part) in mistakes(made, tmp_path).items():
        more = made.common if words[0] in ("benchmark", "embed", "train") and "--precision" not in words else ()
        sentence = refused(*words, *more)
        if part not in sentence or sentence[-1] not in ".?":
            found[name] = sentence
    assert found == {}


def test_names_with_brackets_line_ends_and_colons_are_said_as_they_are(tmp_path: Path) -> None:
    name = "[red]two\nlines[/] [1] :smile: \\"
    assert refused("show", tmp_path / name) == (
        f"{tmp_path}/[red]two\\nlines[/] [1] :smile: \\ cannot be read as a results file "
        "(no such file or directory); give another file."
    )


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--bogus"),
        ("bogus",),
        ("benchmark", "--tasks", "many"),
        ("show",),
        ("embed",),
        ("pretrain", "--image-size", "eight"),
        ("data", "fetch"),
    ],
)
def test_what_the_parser_refuses_exits_with_2_and_points_to_the_help(words: tuple[str, ...]) -> None:
    outcome = onelook(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "--help" in outcome.err


def test_completion_knows_commands_and_options_at_every_depth() -> None:
    script = cli.app.generate_completion(shell="bash")
    assert all(word in script for word in ("predict", "paper", "--class-priors", "--rotation-backbone"))


# ------------------------------------------------------------------------------------------------ help


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_of_every_command_holds_an_example_that_parses(path: tuple[str, ...]) -> None:
    assert "Example" in done(*path, "--help")
    function = COMMANDS[path].default_command
    text = " ".join((function.__doc__ or "").split("Example")[1].split())
    examples = [one.strip() for one in text.split(":", 1)[1].split(";")]
    assert examples
    for example in examples:
        assert parse(example) is function


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_of_every_command_says_what_it_is(path: tuple[str, ...]) -> None:
    assert [name for name, text in options(COMMANDS[path]).items() if not text] == []


def test_the_list_of_commands_shows_the_first_line_of_each_one() -> None:
    for group, listed in ((cli.app, cli.COMMANDS), (cli.app["benchmark"], benchmark.COMMANDS)):
        lines = {name: text[1] if isinstance(text, tuple) else text for name, text in listed.items()}
        functions = {name: group[name].default_command for name in lines}
        found = {name: one.__doc__.splitlines()[0] if one else group[name].help for name, one in functions.items()}
        assert found == lines
