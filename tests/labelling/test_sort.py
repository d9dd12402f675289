"""Whatever is sorted, edited, stopped and sorted again: originals and what a person made stay as they are."""

import json
import os
import string
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import one_sentence
from helpers.images import write_files
from onelook.errors import ArtifactError, SettingsError, StorageError
from onelook.events import finish
from onelook.labelling.export import Prediction
from onelook.labelling.folder import list_folder
from onelook.labelling.sort import MANIFEST, MODES, PART, Sorted, escape_label, sort_images

ORIGINALS = {"1.jpg": b"one", "b/1.jpg": b"other", "2.jpg": b"two", "b/c/3.jpg": b"three"}
each_mode = pytest.mark.parametrize("mode", MODES)


def state(folder: Path) -> dict[str, Any]:
    """Everything below a folder: folders, links, and files with their bytes and times."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()).replace(str(folder.parent), ""))
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def visible(folder: Path) -> dict[str, Any]:
    """The state without the manifest, and without parts of it that a stop left behind."""
    return {name: value for name, value in state(folder).items() if ".onelook-sorted" not in name}


def originals(folder: Path) -> Path:
    write_files(folder / "in", ORIGINALS)
    for name in ORIGINALS:
        os.utime(folder / "in" / name, ns=(10**18, 10**18))
    return folder


def rows(**labels: str) -> list[Prediction]:
    """Predictions for the originals; `_unknown` stands for an image of none of the classes."""
    given = dict(zip(ORIGINALS, ("cat", "cat", "a/b", "_unknown"), strict=True)) | labels
    return [Prediction(name, label, 1.0, unknown=label == "_unknown") for name, label in given.items() if label]


def sort(folder: Path, mode: str = "copy", **labels: str) -> Sorted:
    return finish(sort_images(rows(**labels), folder / "out", mode, folder / "in"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.jpg")}


SORTED = {"cat/1.jpg": b"one", "cat/1 (2).jpg": b"other", "a/b/2.jpg": b"two", "_unknown/3.jpg": b"three"}


@each_mode
def test_images_go_to_the_folders_of_their_labels_and_a_second_time_changes_nothing(mode: str, tmp_path: Path) -> None:
    before = state(originals(tmp_path) / "in")
    done = sort(tmp_path, mode)
    assert (done.n_sorted, done.left, done.failed) == (4, (), ())
    assert contents(tmp_path / "out") == SORTED
    assert {p.is_symlink() for p in (tmp_path / "out").rglob("*.jpg")} == {mode == "link"}
    assert (tmp_path / "out/cat/1.jpg").stat().st_mtime_ns == 10**18
    first = state(tmp_path / "out")
    inodes = {p: p.lstat().st_ino for p in (tmp_path / "out").rglob("*.jpg")}
    assert sort(tmp_path, mode) == done
    assert state(tmp_path / "out") == first
    assert inodes == {p: p.lstat().st_ino for p in inodes}
    assert state(tmp_path / "in") == before


@given(st.lists(st.text(st.sampled_from("./\\%A2a\0 " + string.ascii_letters), max_size=8), min_size=1))
def test_no_label_leads_out_of_the_target_or_is_hidden_and_two_have_two_folders(labels: list[str]) -> None:
    for label in labels:
        folder = escape_label(label)
        assert not folder.is_absolute()
        assert len(folder.parts) == label.count("/") + 1
        assert not any(part.startswith(".") or "\0" in part or "\\" in part for part in folder.parts)
    assert len({escape_label(label) for label in labels}) == len(set(labels))


def test_unknown_images_have_a_folder_that_is_no_class(tmp_path: Path) -> None:
    sort(originals(tmp_path))
    found = list_folder(tmp_path / "out")
    assert found.listing.class_names == ("a/b", "cat")
    assert [found.listing.names[i] for i in found.unlabelled] == ["_unknown/3.jpg"]


# ------------------------------------------------------------------------------------------------------ sorting again


def test_other_labels_replace_what_was_sorted_and_empty_folders_go(tmp_path: Path) -> None:
    sort(originals(tmp_path))
    (tmp_path / "out/mine").mkdir()
    done = sort(tmp_path, "link", **{"1.jpg": "dog", "b/1.jpg": "dog", "2.jpg": ""})
    assert (done.n_sorted, done.left) == (3, ())
    assert visible(tmp_path / "out") == {
        "dog": "folder",
        "dog/1.jpg": ("link", "/in/1.jpg"),
        "dog/1 (2).jpg": ("link", "/in/b/1.jpg"),
        "_unknown": "folder",
        "_unknown/3.jpg": ("link", "/in/b/c/3.jpg"),
        "mine": "folder",
    }


def test_an_original_that_changed_or_a_copy_that_was_deleted_is_copied_again(tmp_path: Path) -> None:
    sort(originals(tmp_path))
    (tmp_path / "in/1.jpg").write_bytes(b"new")
    (tmp_path / "out/a/b/2.jpg").unlink()
    assert sort(tmp_path).left == ()
    assert contents(tmp_path / "out") == SORTED | {"cat/1.jpg": b"new"}


def test_what_a_person_changed_renamed_or_added_stays_and_is_named(tmp_path: Path) -> None:
    sort(originals(tmp_path))
    out = tmp_path / "out"
    times = (out / "cat/1.jpg").stat()
    (out / "cat/1.jpg").write_bytes(b"ONE")  # of the same size and time
    os.utime(out / "cat/1.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    (out / "cat/1 (2).jpg").rename(out / "cat/best.jpg")
    write_files(out, {"dog/2.jpg": b"stranger", "notes.txt": b"mine", "a/.DS_Store": b""})
    theirs = {"cat/1.jpg": b"ONE", "cat/best.jpg": b"other", "dog/2.jpg": b"stranger"}
    done = sort(tmp_path, **{"2.jpg": "dog"})
    assert {(one.name, one.reason) for one in done.left} == {
        ("cat/1.jpg", "changed"),
        ("cat/best.jpg", "added"),
        ("dog/2.jpg", "added"),
        ("notes.txt", "added"),
    }
    assert "What you changed or added there stays: cat/1.jpg (changed) and 3 more." in done.summary()
    again = {"cat/1 (2).jpg": b"other", "dog/2 (2).jpg": b"two", "_unknown/3.jpg": b"three"}
    assert contents(out) == theirs | again  # a changed copy stands for its image
    assert sort(tmp_path, **{"2.jpg": "dog"}) == done
    assert contents(out) == theirs | again
    sort(tmp_path, "link", **{"1.jpg": "dog", "b/1.jpg": "dog", "2.jpg": "dog"})
    assert {name: (out / name).read_bytes() for name in theirs} == theirs
    assert (out / "dog/1.jpg").read_bytes() == b"one"  # which has another label now than its changed copy


def test_the_last_copy_of_an_image_is_never_removed(tmp_path: Path) -> None:
    sort(originals(tmp_path))
    (tmp_path / "in/1.jpg").unlink()
    done = sort(tmp_path, **{"1.jpg": ""})
    assert [(one.name, one.reason) for one in done.left] == [("cat/1.jpg", "its original is gone")]
    assert contents(tmp_path / "out") == SORTED
    assert sort(tmp_path, **{"1.jpg": ""}) == done


def test_originals_that_were_moved_replace_the_copies_of_before(tmp_path: Path) -> None:
    sort(originals(tmp_path))
    (tmp_path / "in").rename(tmp_path / "moved")
    predictions = rows(**{"2.jpg": "dog"})
    done = finish(sort_images(predictions, tmp_path / "out", "copy", tmp_path / "moved"))
    assert (done.n_sorted, done.left, done.failed) == (4, (), ())
    assert contents(tmp_path / "out") == {
        "cat/1.jpg": b"one",
        "cat/1 (2).jpg": b"other",
        "dog/2.jpg": b"two",
        "_unknown/3.jpg": b"three",
    }


NAMES = ["cat/1.jpg", "dog/2.jpg", "cat/mine.jpg", "_unknown/3.jpg", "a/b/2.jpg"]
LABELS = st.sampled_from(["cat", "dog", "a/b", "_unknown", "CAT"])
STEPS = st.one_of(
    st.tuples(st.just("sort"), st.sampled_from(MODES), st.tuples(*[LABELS] * len(ORIGINALS))),
    st.tuples(st.just("write"), st.sampled_from(NAMES)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
    st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
)


@given(st.lists(STEPS, min_size=2, max_size=10))
def test_after_any_sequence_originals_and_the_work_of_a_person_are_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    folder = originals(tmp_path_factory.mktemp("any"))
    out, before, theirs = folder / "out", state(folder / "in"), dict[str, bytes]()
    for i, (kind, *what) in enumerate(steps):
        place = out / what[0]
        if kind == "sort":
            labels = dict(zip(ORIGINALS, what[1], strict=True))
            done = sort(folder, what[0], **labels)
            first = state(out)
            assert sort(folder, what[0], **labels) == done
            assert state(out) == first
            assert {one.name for one in done.left} == set(theirs)
            changed = {str(Path(one.name).parent) for one in done.left if one.reason == "changed"}
            for name, label in labels.items():
                there = {path.read_bytes() for path in (out / label).glob("*.jpg")}
                assert ORIGINALS[name] in there or label in changed
        elif kind == "write":
            place.unlink(missing_ok=True)  # or a link would be followed, as any editor would
            write_files(out, {what[0]: b"by a person %d" % i})
            theirs[what[0]] = place.read_bytes()
        elif kind == "delete":
            place.unlink(missing_ok=True)
            theirs.pop(what[0], None)
        elif place.exists() and what[0] in theirs:
            write_files(out, {what[1]: b""})
            place.replace(out / what[1])
            theirs[what[1]] = theirs.pop(what[0])
        assert state(folder / "in") == before
        assert {name: (out / name).read_bytes() for name in theirs} == theirs


@each_mode
def test_two_who_sort_at_once_make_what_one_makes(mode: str, tmp_path: Path) -> None:
    files = {f"{i}.jpg": bytes([i]) * 200_000 for i in range(12)}
    write_files(tmp_path / "in", files)
    predictions = [Prediction(name, "cat", 1.0) for name in files]
    with ThreadPoolExecutor() as pool:
        work = [sort_images(predictions, tmp_path / "out", mode, tmp_path / "in") for _ in range(3)]
        found = list(pool.map(finish, work))
    assert [(one.n_sorted, one.failed) for one in found] == [(12, ())] * 3
    assert contents(tmp_path / "out") == {f"cat/{name}": content for name, content in files.items()}
    assert sort_again(tmp_path, predictions, mode).left == ()
    assert not list((tmp_path / "out").glob(f"{PART}*"))


def sort_again(folder: Path, predictions: list[Prediction], mode: str) -> Sorted:
    return finish(sort_images(predictions, folder / "out", mode, folder / "in"))


def test_a_copy_that_was_given_up_long_ago_is_removed_and_a_young_one_may_be_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sort(originals(tmp_path))
    (tmp_path / "out" / f"{PART}x").write_bytes(b"half")
    sort(tmp_path)
    assert (tmp_path / "out" / f"{PART}x").exists()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    assert sort(tmp_path).left == ()
    assert not (tmp_path / "out" / f"{PART}x").exists()


# --------------------------------------------------------------------------------------------------------- stopped


class Stop(BaseException):
    """The machine stops; what would have cleaned up does not run any more."""


CALLS = ("link", "symlink", "unlink", "rename", "replace", "mkdir", "rmdir", "open")


def run_until(work: Callable[[], Any], patch: pytest.MonkeyPatch, at: int, after: bool, links: bool) -> bool:
    """Whether `work` came to its end before or after the call number `at` of the system, at which all stops."""
    count = 0

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            if count > at:
                raise Stop
            count += 1
            if count > at and not after:
                raise Stop
            if name == "link" and not links:
                raise PermissionError(1, "Operation not permitted")
            result = real(*arguments, **more)
            if count > at:
                raise Stop
            return result

        return call

    with patch.context() as context:
        for name in CALLS:
            context.setattr(os, name, wrap(name, getattr(os, name)))
        try:
            work()
        except Stop:
            return False
    return True


@each_mode
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_sorting_that_was_stopped_anywhere_is_completed_by_sorting_again(
    mode: str, after: bool, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing is lost with the process, and it takes time

    def begin(folder: Path) -> Path:
        write_files(originals(folder), {"out/dog/1.jpg": b"stranger"})
        os.utime(folder / "out/dog/1.jpg", ns=(10**18, 10**18))
        sort(folder)
        return folder

    labels = {"1.jpg": "dog", "b/1.jpg": "dog"}
    sort(begin(tmp_path / "straight"), mode, **labels)
    straight = visible(tmp_path / "straight/out")
    for at in range(1000):
        here = begin(tmp_path / str(at))
        before = state(here / "in")
        ended = run_until(lambda here=here: sort(here, mode, **labels), monkeypatch, at, after, links)
        assert state(here / "in") == before
        assert (here / "out/dog/1.jpg").read_bytes() == b"stranger"
        assert len(sort(here, mode, **labels).left) == 1
        assert visible(here / "out") == straight, f"stopped at operation {at}"
        if ended:
            break
    assert 10 < at < 999


# ------------------------------------------------------------------------------------------------- what goes wrong


@each_mode
def test_links_in_the_target_are_never_followed(mode: str, tmp_path: Path) -> None:
    sort(originals(tmp_path), mode)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "out/cat").rename(elsewhere)
    (tmp_path / "out/cat").symlink_to(elsewhere)
    before = state(elsewhere)
    done = sort(tmp_path, mode)
    assert [(one.name, one.reason) for one in done.left] == [("cat", "added")]
    assert [Path(one.name).name for one in done.failed] == ["1.jpg", "1.jpg"]
    assert {one.reason for one in done.failed} == {"a link is where its folder would be"}
    sort(tmp_path, mode, **{"1.jpg": "dog", "b/1.jpg": "cat/deep"})
    assert state(elsewhere) == before


@each_mode
def test_images_that_cannot_be_had_or_placed_are_named_and_the_others_sorted(mode: str, tmp_path: Path) -> None:
    write_files(originals(tmp_path), {"out/cat": b"a file"})
    (tmp_path / "in/2.jpg").unlink()
    done = sort(tmp_path, mode, **{"b/1.jpg": "cat/deep"})
    assert done.n_sorted == 1
    assert sorted(one.reason for one in done.failed) == ["file exists", "no such file or directory", "not a directory"]
    assert any("was not sorted: no such file" in line for line in done.summary())
    assert contents(tmp_path / "out") == {"_unknown/3.jpg": b"three"}


def test_a_target_around_the_originals_is_refused(tmp_path: Path) -> None:
    write_files(originals(tmp_path), {"out/1.jpg": b"", "link/x": b""})
    (tmp_path / "in/linked.jpg").symlink_to(tmp_path / "out/1.jpg")
    before = state(tmp_path)
    for name, target in (("1.jpg", "in"), ("1.jpg", "."), ("linked.jpg", "out")):
        with pytest.raises(SettingsError, match="choose another place"):
            finish(sort_images([Prediction(name, "cat", 1.0)], tmp_path / target, "copy", tmp_path / "in"))
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    "content", [b"words", b"[]", b'{"a": 1}', b'{"a": {"x": 1}}', b'{"../in/1.jpg": {"source": "", "sha256": ""}}']
)
def test_a_damaged_manifest_is_one_sentence_and_nothing_is_touched(content: bytes, tmp_path: Path) -> None:
    sort(originals(tmp_path))
    (tmp_path / "out" / MANIFEST).write_bytes(content)
    before = state(tmp_path)
    with pytest.raises(ArtifactError) as error:
        sort(tmp_path)
    assert "sort again" in one_sentence(error.value)
    assert state(tmp_path) == before


def test_the_manifest_is_json_of_names_in_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    write_files(tmp_path / "in", {name: b"x"})
    for _ in range(2):
        finish(sort_images([Prediction(name, "=1", 1.0)], tmp_path / "out", "copy", tmp_path / "in"))
    assert list(json.loads((tmp_path / "out" / MANIFEST).read_text())) == [f"=1/{name}"]
    assert (tmp_path / "out/=1" / name).read_bytes() == b"x"


@pytest.mark.parametrize("name", ["mkdir", "link", "replace"])
def test_a_target_that_cannot_be_written_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals(tmp_path)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as context:
        for one in (name, "rename"):
            context.setattr(os, one, refuse)
        with pytest.raises(StorageError) as error:
            sort(tmp_path)
    assert "could not be written (Read-only file system)" in one_sentence(error.value)
    sort(tmp_path)
    assert contents(tmp_path / "out") == SORTED


def test_another_mode_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'copy'"):
        finish(sort_images([], tmp_path, "cpoy"))
