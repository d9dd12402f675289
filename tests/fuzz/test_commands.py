"""Hostile input to every option of every command. What the commands are is read from the command line itself, so that a
new one, or a new option, is tested or fails `test_every_command_and_every_reader_is_known_here`."""

import contextlib
import json
import os
import shutil
import socket
import zipfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn import ensemble
from starlette.testclient import TestClient

from fuzz.damage import HOSTILE_WORDS, SPECIAL, damages, replace_by
from fuzz.law import Outcome, Sandbox, call
from helpers.features import random_embeddings
from helpers.images import class_image, classes, divided, encoded, picture, write_files
from helpers.networks import onnx_file
from helpers.terminal import commands
from helpers.trainings import network_file, shorten_trainings
from onelook import methods
from onelook.artifacts import load_results, method_artifact, save
from onelook.data.vectors import save_features
from onelook.experiments import demo, domains, lines
from onelook.labelling.answer_log import AnswerLog
from onelook.labelling.answers import CLEARED, NONE_OF_THESE, Image
from onelook.server import listen

pytest.importorskip("pyarrow")

CALLS: dict[str, dict[str, str | None]] = {
    "label": {"FOLDER": "images", "--network": "small", "--out": "out", "--no-report": None},
    "predict": {"CLASSIFIER": "classifier.safetensors", "IMAGES": "images", "--out": "out.csv"},
    "export": {"CLASSIFIER": "classifier.safetensors", "--out": "out.onnx"},
    "suggest": {"FOLDER": "images", "--network": "small"},
    "doctor": {"FOLDER": "images"},
    "networks": {"--no-measure": None},
    "review": {"FOLDER": "images", "--network": "small", "--out": "out", "--port": "0", "--no-open": None},
    "demo": {"--out": "out"},
    "serve": {"--out": "out", "--port": "0", "--network": "small"},
    "data list": {"--home": "home"},
    "data fetch": {"NAME": "cifar-fs", "--home": "home", "--from": "from"},
    "data verify": {"NAME": "cifar-fs", "--home": "home"},
    "pretrain": {"--data": "sets.zip", "--epochs": "1", "--image-size": "16", "--batch-size": "32", "--out": "out"},
    "train": {"--data": "sets.zip", "--backbone": "network.safetensors", "--query": "3", "--out": "out"},
    "embed": {"--data": "sets.zip", "--backbone": "network.safetensors", "--out": "out.npz"},
    "benchmark": {"--embeddings": "features.npz", "--methods": "prototypical", "--tasks": "2", "--query": "2"},
    "benchmark paper": {"--backbone": "network.safetensors", "--data": "sets.zip", "--rows": "sib-0", "--tasks": "2"},
    "benchmark protocols": {"--embeddings": "features.npz", "--methods": "tim", "--tasks": "2", "--query": "2"},
    "benchmark curves": {"--backbone": "network.safetensors", "--data": "sets.zip", "--tasks": "2"},
    "benchmark bottleneck": {"--backbone": "network.safetensors", "--data": "sets.zip", "--tasks": "2"},
    "benchmark lines": {"--seeds": "1"},
    "benchmark networks": {"--network": "small", "--data": "sets.zip:test", "--shot": "1", "--users": "2"},
    "benchmark domains": {"--data": "domains", "--image-size": "16"},
    "benchmark practice": {
        "--backbone": "network.safetensors",
        "--data": "sets.zip:test",
        "--shot": "1",
        "--users": "2",
    },
    "show": {"FILES": "results.json"},
}
"""A call of each command that is quick; None stands for an option without a value."""
for _name, _more in {
    "benchmark paper": {"--out": "out", "--shot": "1"},
    "benchmark protocols": {"--out": "out", "--protocol": "balanced", "--shot": "1"},
    "benchmark curves": {"--steps": "1", "--queries": "1", "--shot": "1"},
    "benchmark bottleneck": {"--prior-weights": "0.1", "--shot": "1"},
    "benchmark practice": {"--out": "out", "--way": "2", "--query": "3"},
    "benchmark networks": {"--out": "out", "--way": "2", "--query": "3"},
}.items():
    CALLS[_name] |= _more

READS: dict[str, tuple[str, ...]] = {
    "FOLDER": tuple(f"images:images/{name}" for name in ("one.png", "red/a.png", "a.jpg", "b.tif", "c.gif", "d.webp")),
    "IMAGES": ("images:images/one.png", "images/a.jpg"),
    "CLASSIFIER": ("classifier.safetensors",),
    "FILES": ("results.json", "classifier.safetensors", "method.safetensors", "run/state.safetensors"),
    "--labels": ("table.csv", "table.tsv", "table.parquet", "reviewed/review.sqlite"),
    "--features": ("vectors.npz", "vectors.safetensors", "vectors.csv", "vectors.parquet"),
    "--network": ("network.safetensors", "network.onnx"),
    "--backbone": ("network.safetensors",),
    "--teacher": ("network.safetensors",),
    "--rotation-backbone": ("network.safetensors",),
    "--embeddings": ("features.npz",),
    "--train-embeddings": ("features.npz",),
    "--methods": ("method.safetensors",),
    "--data": ("sets.zip", "sets.csv", "images:images/red/a.png"),
    "--sources": ("sets.zip@network.safetensors:network.safetensors",),
    "--home": ("home:home/cifar-fs.zip",),
    "--from": ("from:from/cifar-100-binary.tar.gz",),
    "--cache": ("table.csv",),
}
"""Files that an option reads, whatever its command; after a colon the file that is damaged, where the option names its
folder."""
RESUMED = {
    "pretrain": ("run:run/state.safetensors", "run:run/model.safetensors"),
    "label": ("reviewed:reviewed/review.sqlite",),
    "review": ("reviewed:reviewed/review.sqlite",),
    "serve": ("kept:kept/one.safetensors",),
}
"""Files of an earlier run that a command takes up, in the folder that its --out names."""
WORDS = {
    *("--also-class", "--also-name", "--average", "--class-priors", "--device", "--host", "--label-studio", "--method"),
    *("--label-studio-token", "--not-class", "--pattern", "--precision", "--protocol", "--reference", "--rows"),
    *("--memory", "--ray", "--sort", "--split", "--token", "NAME"),
}
"""Options of words that name no file; every other is in READS."""
WRITES = ("--out", "--save", "--json", "--shards")
WHOLE = (
    "label FOLDER",
    "doctor FOLDER",
    "predict CLASSIFIER",
    "label --labels",
    "label --features",
    "label --out",
    "review --out",
    "serve --out",
    "show FILES",
    "embed --backbone",
    "benchmark --embeddings",
)
"""Options that are tried with every damage: the first of each reader."""
N_CASES, N_WORDS = 12, 6
"""Cases of every other option, and hostile words that an option is tried with."""
PLACES = (
    "table.csv/below",
    "pipe",
    "device",
    "circle",
    "missing/deep/x",
    "images/one.png",
    "images/red/a.png",
    "images",
)
"""Places that an output may be told to be at, beside the inputs of its command."""


@dataclass(frozen=True)
class Case:
    """One hostile input."""

    command: str
    option: str
    value: str
    about: str
    """Damage, in words that a test is called by."""
    damaged: str = ""
    """File that is damaged."""
    seed: int = 0

    def __str__(self) -> str:
        return ascii(f"{self.command} {self.option} {self.damaged or self.value[:30]}, {self.about}")[1:-1]

    def words(self) -> tuple[str, ...]:
        given = CALLS[self.command] | {self.option: self.value}
        if self.command.startswith("benchmark") and self.option in ("--data", "--backbone") and "--embeddings" in given:
            del given["--embeddings"]
            given = {"--data": "sets.zip", "--backbone": "network.safetensors"} | given
        arguments = [value for name, value in given.items() if name.isupper()]
        named = [(name, value) for name, value in given.items() if not name.isupper()]
        options = [word for pair in named for word in pair if word is not None]
        return (*self.command.split(), *(one for one in arguments if one is not None), *options)

    def own(self) -> list[str]:
        """Paths that the command is told to write to."""
        given = CALLS[self.command] | {self.option: self.value}
        named = [value for name, value in given.items() if name in (*WRITES, "--cache") and value is not None]
        if self.command == "export":
            named += [str(Path(one).parent / f"{Path(one).stem}.md") for one in named]
        return named + [value.split("/")[0] for value in named if ".." in value]  # made on the way there

    def inputs(self) -> list[str]:
        """Paths that it is told to read."""
        return [value for name, value in CALLS[self.command].items() if name not in WRITES and value]


def options_of(command: str) -> dict[str, Any]:
    """Names of the options and arguments of a command, with their types."""
    app = next(app for path, app in commands() if " ".join(path) == command)
    found = app.assemble_argument_collection(parse_docstring=True)
    return {one.names[0]: one.hint for one in found}


def is_path(hint: Any) -> bool:
    return holds(Path, hint)


def holds(kind: type, hint: Any) -> bool:
    return hint is kind or any(holds(kind, one) for one in get_args(hint))


def every_case() -> Iterator[Case]:
    for command in CALLS:
        for option, hint in options_of(command).items():
            cases = list(_cases_of_an_option(command, option, hint)) if hint is not bool else []
            is_whole = f"{command} {option}" in WHOLE or len(cases) <= N_CASES
            yield from cases if is_whole else Random(command + option).sample(cases, N_CASES)


def _cases_of_an_option(command: str, option: str, hint: Any) -> Iterator[Case]:
    words = Random(command + option).sample(HOSTILE_WORDS, N_WORDS)
    for file in (*READS.get(option, ()), *(RESUMED.get(command, ()) if option == "--out" else ())):
        yield from _cases_of_a_file(command, option, file)
    if option in WRITES and is_path(hint):
        inputs = Case(command, option, "", "").inputs()
        yield from (Case(command, option, one, "as an output") for one in dict.fromkeys((*inputs, *PLACES, *words)))
    else:
        yield from (Case(command, option, word, "as a word") for word in words)


def _cases_of_a_file(command: str, option: str, file: str) -> Iterator[Case]:
    value, _, damaged = file.rpartition(":")
    value = value or damaged
    for seed, damage in enumerate(damages(Path(damaged).suffix)):
        yield Case(command, option, value, f"{damage.__name__} {seed}", damaged, seed)
    for kind in SPECIAL:
        yield Case(command, option, value, kind, damaged)


CASES = list(every_case())
STUDIES = [command for command in CALLS if command.startswith("benchmark ")]
SLOW = (*STUDIES, "export")
"""Commands whose calls take seconds."""
SAMPLE = Random(0).sample([case for case in CASES if case.command not in (*SLOW, "pretrain", "train")], 30)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every call of `CALLS` works and ends soon."""
    with short_work():
        yield make_template(tmp_path_factory.mktemp("template"))


@contextlib.contextmanager
def short_work() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shorten_trainings(patch)
        patch.setattr(lines, "lines", _shortened(lines.lines, epochs=1))
        patch.setattr(domains, "domains", _shortened(domains.domains, pretrain_epochs=1, meta_steps=1))
        patch.setattr(demo, "demo", _no_demo)
        forest = ensemble.RandomForestClassifier  # of 100 trees it takes most of the time
        patch.setattr(ensemble, "RandomForestClassifier", lambda **more: forest(**more | {"n_estimators": 3}))
        patch.setattr(listen, "make_server", _server_of_a_moment)
        yield


def _shortened(work: Any, **changes: Any) -> Any:
    return lambda config, *more: work(replace(config, **changes), *more)


def _server_of_a_moment(app: Any, *_: Any, **__: Any) -> SimpleNamespace:
    """A server that is asked for what it has found, and ends."""

    def run(sockets: Iterable[socket.socket]) -> None:
        for one in sockets:
            one.close()
        if not any(getattr(one, "path", "").startswith("/classifiers") for one in app.routes):
            return
        client = TestClient(app)
        for one in client.get("/classifiers").json()["classifiers"]:
            for what in ("", "/accuracy", "/suggest"):
                answer = client.request("POST" if what == "/suggest" else "GET", f"/classifiers/{one['name']}{what}")
                assert answer.status_code in (200, 409, 422), answer.text

    return SimpleNamespace(run=run, started=False, should_exit=True)


def _fill_review(file: Path) -> None:
    log = AnswerLog(file)
    log.add_class("red", "me", is_given=True)
    log.answer([Image("one.png", "")], CLEARED, "me", new_class="blue")
    log.answer([Image("two.png", "", "corrected")], CLEARED, "me", new_class="green")
    log.rename_class(2, "azure", "me")
    log.merge_classes(3, 1, "me")
    log.answer([Image("one.png", "", "rejected")], NONE_OF_THESE, "you")
    log.undo("you")
    log.redo("you")
    log.close()


def _no_demo(config: Any, out: Path, place: Any) -> Generator[Any, None, Any]:
    del config, out, place
    yield from ()
    return SimpleNamespace(records=load_results(Path("results.json")), facts={"seconds": 1})


def _fill(here: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pictures = {
        f"images/{c}/{n}.png": class_image(k, i) for k, c in enumerate(("red", "blue")) for i, n in enumerate("ab")
    }
    write_files(here, pictures | {f"images/{n}.png": class_image(i, 9) for i, n in enumerate(("one", "two"))})
    others = {"a.jpg": "JPEG", "b.tif": "TIFF", "c.gif": "GIF", "d.webp": "WEBP"}
    write_files(here, {f"images/{n}": encoded(picture(i, 64, 48), kind) for i, (n, kind) in enumerate(others.items())})
    write_files(here, {f"domains/{d}/{name}": one for d in "abc" for name, one in classes(2, 3).items()})
    write_files(here, {"home/cifar-fs.zip": b"PK\x05\x06" + bytes(18), "from/cifar-100-binary.tar.gz": b"\x1f\x8b"})
    with zipfile.ZipFile(here / "sets.zip", "w") as archive:
        for name, content in divided(6, 20).items():
            archive.writestr(name, content)
    rows = [("one.png", ""), ("red/a.png", "red"), ("red/b.png", "red"), ("blue/a.png", "blue"), ("blue/b.png", "blue")]
    names, x = [name for name, _ in rows], np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    (here / "table.csv").write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    (here / "table.tsv").write_text("path\tlabel\n" + "".join(f"{name}\t{label}\n" for name, label in rows))
    (here / "sets.csv").write_text("path,label\n" + "".join(f"images/{name},{label}\n" for name, label in rows[1:]))
    numbers = [",".join([name, *map(str, row)]) + "\n" for name, row in zip(names, x.tolist(), strict=True)]
    (here / "vectors.csv").write_text("path,a,b,c,d\n" + "".join(numbers))
    labels = [label or None for _, label in rows]
    pyarrow.parquet.write_table(pyarrow.table({"path": names, "label": labels}), here / "table.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"path": names, "features": list(x)}), here / "vectors.parquet")
    np.savez(here / "vectors.npz", features=x, path=names)
    save_file({"features": torch.from_numpy(x)}, here / "vectors.safetensors", {"path": json.dumps(names)})
    save_features(random_embeddings(6, 20, feature_size=64, n_views=1), here / "features.npz")
    _fill_review(here / "reviewed" / "review.sqlite")
    network_file(here / "network.safetensors")
    onnx_file(here / "network.onnx")
    save(
        method_artifact(methods.create("sib", feature_size=64, n_way=5), {"config": {}, "history": []}),
        here / "method.safetensors",
    )


def make_template(root: Path) -> Path:
    """Fill a folder with what the commands read, some of it made by the commands themselves."""
    for name in ("home", "cache", "here"):
        (root / name).mkdir()
    _fill(root / "here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "here")
        patch.setenv("ONELOOK_CACHE", str(root / "cache"))
        for line in (
            "label images --network small --no-report --out made --save classifier.safetensors",
            "pretrain --data sets.zip --epochs 1 --image-size 16 --batch-size 32 --out run",
            "benchmark --embeddings features.npz --methods tim --tasks 2 --query 2 --shot 1 --json results.json",
            "embed --data sets.zip --backbone network.safetensors --out made/x.npz",
        ):
            outcome = call(*line.split())
            assert (outcome.code, outcome.raised) == (0, None), outcome
    shutil.rmtree(root / "here" / "made")
    (root / "here" / "kept").mkdir()
    shutil.copy(root / "here" / "classifier.safetensors", root / "here" / "kept" / "one.safetensors")
    return root


def judge(case: Case, template: Path, root: Path) -> tuple[Outcome, list[str]]:
    """Run one case in a copy of the template."""
    with Sandbox.of(template, root) as box:
        if case.option in WRITES:
            os.mkfifo("pipe")
            Path("device").symlink_to("/dev/zero")
            Path("circle").symlink_to("circle")
        if case.damaged and case.about in SPECIAL:
            replace_by(case.about, Path(case.damaged))
        elif case.damaged:
            path = Path(case.damaged)
            path.write_bytes(damages(path.suffix)[case.seed](path.read_bytes(), Random(str(case))))
        return box.judge(case.words(), case.own(), case.inputs())


def check(case: Case, template: Path, root: Path) -> Outcome:
    outcome, complaints = judge(case, template, root)
    assert not complaints, (complaints, " ".join(map(ascii, outcome.words)), outcome.err[-600:])
    return outcome


def test_every_command_and_every_reader_is_known_here() -> None:
    found = {" ".join(path) for path, _ in commands()}
    assert set(CALLS) == found
    options = [one for command in found for one in options_of(command).items()]
    assert {option for option, hint in options if is_path(hint)} <= {*READS, *WRITES}
    assert {option for option, hint in options if holds(str, hint)} <= {*READS, *WORDS}


def test_there_are_more_than_a_thousand_hostile_inputs() -> None:
    assert len(set(map(str, CASES))) > 1000


@pytest.mark.parametrize("command", [pytest.param(one, marks=pytest.mark.slow if one in SLOW else ()) for one in CALLS])
def test_the_calls_that_are_changed_work(command: str, made: Path, tmp_path: Path) -> None:
    if command in ("data fetch", "data verify"):
        pytest.skip("the whole data set would be needed")
    outcome = check(Case(command, *next(iter(CALLS[command].items())), "unchanged"), made, tmp_path / "sandbox")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_hostile_input_is_refused_or_used_in_a_sample(case: Case, made: Path, tmp_path: Path) -> None:
    check(case, made, tmp_path / "sandbox")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_hostile_input_is_refused_or_used(case: Case, made: Path, tmp_path: Path) -> None:
    check(case, made, tmp_path / "sandbox")
