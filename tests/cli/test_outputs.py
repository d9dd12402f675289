"""No command loses a file, whatever an option that names what is written leads to."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclopts import Parameter

from helpers.features import contents
from helpers.images import write_files
from helpers.terminal import commands, refused
from onelook.cli.options import find_output
from onelook.cli.outputs import check_outputs
from onelook.errors import SettingsError, UserError
from onelook.files import Output, is_own

COMMANDS = {" ".join(path): command.default_command.__signature__.parameters for path, command in commands()}
READ = {"classifier", "embeddings", "features", "files", "folder", "images", "labels", "source", "teacher"}
READ |= {"backbone", "data", "rotation_backbone", "train_embeddings"}
"""Parameters that are paths of what a command reads."""
NAMING = {"backbone", "data", "method", "methods", "network", "sources"}
"""Parameters that are words, among them names of files."""
PLACES = {"cache", "home"}
"""Folders of files under names of Onelook's own, which are neither inputs nor outputs of a person."""


def kinds(annotation: Any) -> set[Any]:
    """Types that an annotation is made of."""
    inner = [one for one in get_args(annotation) if isinstance(one, type) or get_args(one)]
    return {annotation}.union(*map(kinds, inner)) if inner else {annotation}


def call(command: str, given: dict[str, str | Path]) -> list[str | Path]:
    """Words of a command with these values of its parameters, and something for whatever else it cannot do without."""
    words: list[str | Path] = command.split()
    for name, one in COMMANDS[command].items():
        needed = one.default is one.empty or (name == "backbone" and "embeddings" not in given)
        if name in given or needed:
            parameter = next(each for each in get_args(one.annotation) if isinstance(each, Parameter))
            option = () if one.kind is one.POSITIONAL_ONLY else parameter.name or ()
            words += [*option, given.get(name, "other")]
    return words


def outputs() -> Iterator[tuple[str, str, Output]]:
    for command, parameters in COMMANDS.items():
        for name, one in parameters.items():
            if (mark := find_output(one.annotation)) is not None:
                yield command, name, mark


OUTPUTS = {f"{command} {name}": (command, name, mark) for command, name, mark in outputs()}
each_output = pytest.mark.parametrize("case", OUTPUTS)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"other": b"read", "folder/1.png": b"an image"})


def test_every_path_of_every_command_is_either_read_or_marked_as_written() -> None:
    found = {
        f"{command} {name}"
        for command, parameters in COMMANDS.items()
        for name, one in parameters.items()
        if Path in kinds(one.annotation) and find_output(one.annotation) is None and name not in READ | PLACES
    }
    assert found == set(), "Mark these as `Output` (cli/outputs.py), or add them to READ."
    assert len(OUTPUTS) >= 15


def files_of(mark: Output, parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """Files that are written by default, or where a file is named, each with the place that is given."""
    place = Path("out" if mark.files is not None else "file")
    given = {name: one.default for name, one in parameters.items()}
    return [(str(place), str(file)) for file in mark.list_files(place, given)]


@each_output
def test_what_a_command_reads_or_onelook_did_not_write_is_never_replaced(case: str, tmp_path: Path) -> None:
    command, option, mark = OUTPUTS[case]
    parameters = COMMANDS[command]
    for place, file in files_of(mark, parameters):
        write_files(tmp_path, {file: b"nelook, or so it seems"})
        before = contents(tmp_path)
        for name in (name for name in parameters if name in READ | NAMING and name != option):
            sentence = refused(*call(command, {option: place, name: tmp_path / file}))
            assert f"would replace {file}, which is read" in sentence, name
        (tmp_path / file).write_bytes(b"of somebody else")
        assert f"would replace {file}, which Onelook did not write" in refused(*call(command, {option: place}))
        (tmp_path / file).write_bytes(b"nelook, or so it seems")
        assert contents(tmp_path) == before
        (tmp_path / file).unlink()


@each_output
def test_what_is_no_regular_file_is_never_replaced(case: str, tmp_path: Path) -> None:
    command, option, mark = OUTPUTS[case]
    for place, file in files_of(mark, COMMANDS[command]):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / file)
        assert f"{file} is no regular file" in refused(*call(command, {option: place}))
        assert (tmp_path / file).is_fifo()
        (tmp_path / file).unlink()
        (tmp_path / file).mkdir()
        assert f"{file} is a folder; give the name of a file in it" in refused(*call(command, {option: place}))
        (tmp_path / file).rmdir()
    if mark.files is None:
        assert "/dev/null is no regular file" in refused(*call(command, {option: "/dev/null"}))


def check(written: Path, *read: str | Path) -> None:
    check_outputs({"save": Output()}, {"save": written, "read": read}, {"save": "--save"})


@pytest.mark.parametrize("spelling", ["absolute", "dots", "symlink", "hard link", "link to its folder", "in a word"])
def test_a_file_is_known_under_all_its_names(spelling: str, tmp_path: Path) -> None:
    write_files(tmp_path, {"a/model": b"Onelook"})
    Path("symlink").symlink_to("a/model")
    Path("hard").hardlink_to("a/model")
    Path("b").symlink_to("a")
    names = {
        "absolute": tmp_path / "a/model",
        "dots": Path("b/../a/./model"),
        "symlink": Path("symlink"),
        "hard link": Path("hard"),
        "link to its folder": Path("b/model"),
        "in a word": "prototypical,a/model:steps=2",
    }
    with pytest.raises(SettingsError, match="which is read"):
        check(Path("a/model"), names[spelling])
    if isinstance(names[spelling], Path):
        with pytest.raises(SettingsError, match="which is read"):
            check(names[spelling], Path("a/model"))  # type: ignore[arg-type]
    check(Path("a/other"), names[spelling], "\0", "x" * 5000)


def test_two_outputs_of_one_command_are_two_files() -> None:
    marks = {"out": Output((("labels.csv", ""), ("page", "report"))), "save": Output()}
    values = {"out": Path("x"), "report": False}
    options = {"out": "--out", "save": "--save"}
    with pytest.raises(SettingsError, match="which another option writes"):
        check_outputs(marks, values | {"save": Path("x/../x/labels.csv")}, options)
    check_outputs(marks, values | {"save": Path("x/page")}, options)
    check_outputs(marks, values | {"save": None}, options)
    assert not Path("x").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_work_and_nothing_is_made() -> None:
    for place in (Path("other/file"), Path("other/folder/file"), Path("/proc/none/file")):
        with pytest.raises(UserError, match="could not be written"):
            check(place)
    check(Path("new/folder/file"))
    assert sorted(p.name for p in Path().iterdir()) == ["folder", "other"]


def test_a_mark_stands_at_either_end_of_a_file_of_any_length(tmp_path: Path) -> None:
    for before in (b"", b"x" * 5000):
        for after in (b"", b"x" * 3000, b"x" * 9000):
            (tmp_path / "f").write_bytes(before + b"Onelook" + after)
            assert is_own(tmp_path / "f") == (len(before) < 4096 or len(after) <= 4096 - 7)
    (tmp_path / "f").write_bytes(b"")
    assert is_own(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"x")
    assert not is_own(tmp_path / "f")
