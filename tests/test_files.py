"""A file is the old one or the new one, whole, whatever happens in between."""

import errno
import os
import socket
import stat
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import contents, fill, one_sentence, small_disk
from onelook import files
from onelook.errors import StorageError
from onelook.events import finish
from onelook.files import (
    cache_home,
    digest,
    is_regular,
    parse_json,
    read_regular,
    read_tensors,
    replacing,
    write_atomically,
    write_tensors,
)


def make_special(folder: Path) -> dict[str, str]:
    """Things that are no regular files, with the reason against each."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "itself").symlink_to("itself")
    words = {"fifo": "it is a pipe", "socket": "it is a socket", "zero": "it is a device", ".": "it is a folder"}
    return words | {"none": "No such file", "itself": "Too many levels", "a\0b": "NUL character"}


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    for name, reason in make_special(Path()).items():
        assert not is_regular(Path(name))
        with pytest.raises(OSError, match=reason):
            read_regular(Path(name))
    Path("file").write_bytes(b"text")
    Path("link").symlink_to("file")
    assert read_regular(Path("link")) == b"text"
    assert is_regular(Path("link"))


@pytest.mark.parametrize("before", [None, b"old"])
def test_what_was_written_is_there_and_nothing_else(tmp_path: Path, before: bytes | None) -> None:
    if before is not None:
        (tmp_path / "file").write_bytes(before)
    write_atomically(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"new"}


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("folder/file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "folder") == {"file": b"new"}


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StorageError, match="give the name of a file"):
            write_atomically(tmp_path / name, b"new")
    with pytest.raises(StorageError, match="no regular file"):
        write_atomically(Path("/dev/null"), b"new")
    assert (tmp_path / "pipe").is_fifo()
    assert not list(tmp_path.glob("*.part"))


def test_a_file_whose_name_is_as_long_as_may_be_is_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("x" * 255), b"new")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"new"


def test_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "file", b"new")
    assert contents(tmp_path) == {"a/b/file": b"new"}


@pytest.mark.parametrize("before", [{}, {"file": b"old"}])
@pytest.mark.parametrize("what", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_write_that_fails_leaves_the_folder_as_it_was_and_its_error_passes(
    tmp_path: Path, before: dict[str, bytes], what: type[BaseException]
) -> None:
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(what), replacing(tmp_path / "file") as temporary:  # noqa: PT012 - the block is what is tested
        temporary.write_bytes(b"half")
        raise what
    assert contents(tmp_path) == before


def test_until_the_block_ends_the_old_content_is_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
        assert temporary.parent == tmp_path  # or taking the place would be a copy, which can stop halfway
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_reader_that_has_the_old_file_open_goes_on_reading_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    with (tmp_path / "file").open("rb") as reader:
        write_atomically(tmp_path / "file", b"new")
        assert reader.read() == b"old"


def test_the_content_reaches_the_disk_before_the_file_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    seen = []
    monkeypatch.setattr(files.os, "fsync", lambda _: seen.append((tmp_path / "file").read_bytes()))
    write_atomically(tmp_path / "file", b"new")
    assert seen == [b"old"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_permissions_are_those_of_an_ordinary_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "ours", b"")
        (tmp_path / "ordinary").write_bytes(b"")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "ordinary")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
def test_an_error_of_the_disk_at_any_step_is_one_sentence_and_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    where = {"mkstemp": (files.tempfile, "mkstemp"), "fsync": (files.os, "fsync"), "replace": (Path, "replace")}
    monkeypatch.setattr(*where[step], fail)
    with pytest.raises(StorageError) as error:
        write_atomically(tmp_path / "file", b"new")
    monkeypatch.undo()
    message = one_sentence(error.value)
    assert str(tmp_path / "file") in message
    assert os.strerror(number) in message
    assert ("free some space" in message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert contents(tmp_path) == {"file": b"old"}


def test_a_place_that_is_a_file_and_no_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(StorageError, match="choose a place that can be written"):
        write_atomically(tmp_path / "file" / "below", b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        write_atomically(disk / "file", b"old")
        fill(disk)
        with pytest.raises(StorageError, match="free some space"):
            write_atomically(disk / "file", b"new" * 100_000)
        assert contents(disk)["file"] == b"old"
        assert sorted(contents(disk)) == ["file", "filler"]


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_a_digest_tells_how_its_parts_are_divided(first: list[bytes], second: list[bytes]) -> None:
    assert (digest(*first) == digest(*second)) == (first == second)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONELOOK_CACHE", str(tmp_path))
    assert cache_home() == tmp_path
    monkeypatch.setenv("ONELOOK_CACHE", "")
    assert cache_home().name == "onelook"


# ------------------------------------------------------------------------------------------------ finished results


def test_a_result_is_computed_once_and_found_again_by_its_key(tmp_path: Path) -> None:
    store = files.ResultStore(tmp_path / "results")
    calls: list[int] = []

    def compute() -> Generator[str, None, files.Stored]:
        calls.append(1)
        yield "computing"
        return files.Stored({"x": torch.arange(3)}, {"seconds": 1.5})

    key = {"method": "sib", "seed": 0}
    first = finish(store.get_or(key, compute))
    again = finish(store.get_or(dict(reversed(key.items())), compute))
    assert calls == [1]
    assert torch.equal(first.tensors["x"], again.tensors["x"])
    assert first.about == again.about == {"seconds": 1.5}
    assert store.find(key | {"seed": 1}) is None
    store.path(key).write_bytes(store.path(key).read_bytes()[:-5])
    assert store.find(key) is None


def test_a_result_without_tensors_is_stored_too(tmp_path: Path) -> None:
    store = files.ResultStore(tmp_path)
    store.save({"a": 1}, files.Stored(about={"records": [{"b": 2}]}))
    found = store.find({"a": 1})
    assert found is not None
    assert found == files.Stored({}, {"records": [{"b": 2}]})


@pytest.mark.parametrize("text", ["", "[" * 200_000, '{"a":' * 200_000, "9" * 5_000, b"\xff\xfe[", "nonsense", "[1,]"])
def test_json_that_will_not_do_is_a_value_error_and_no_other(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are those of the json module
        parse_json(text)


def test_tensors_are_read_from_a_file_of_any_name(tmp_path: Path) -> None:
    for name in ("plain", os.fsdecode(b"caf\xe9"), "two\nlines"):
        write_tensors(tmp_path / name, {"x": torch.arange(3)}, {"said": "é"})
        tensors, header = read_tensors(tmp_path / name)
        assert tensors["x"].tolist() == [0, 1, 2]
        assert header == {"said": "é"}
