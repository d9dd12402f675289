"""Laws of the log of answers: durable, append-only, undone in order, and shared by processes."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelook.errors import ArtifactError, SettingsError, StorageError
from onelook.labelling.answer_log import AnswerLog, read_reviewed
from onelook.labelling.answers import CLEARED, NONE_OF_THESE, Image


def images(*names: str) -> list[Image]:
    return [Image(name, name * 3) for name in names]


def test_what_was_answered_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    log = AnswerLog(path)
    cat = log.answer(images("a", "b"), CLEARED, "me", new_class="cat")
    dog = log.add_class("dog", "me")
    log.answer(images("b"), dog, "me")
    log.answer(images("c"), NONE_OF_THESE, "me")
    for state in (log.state, AnswerLog(path).state, read_reviewed(path)):  # the first was never closed, as after a kill
        assert state.labels() == {"a": "cat", "b": "dog"}
        assert state.answers["c"].label == NONE_OF_THESE
        assert state.names == {cat: "cat", dog: "dog"}
        assert (state.answers["a"].who, state.answers["a"].image.digest) == ("me", "aaa")


def test_undo_and_redo_are_entries_and_go_back_and_forth_in_order(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "review.sqlite")
    log.answer(images("a"), CLEARED, "me", new_class="cat")
    log.answer(images("a"), CLEARED, "me", new_class="dog")
    dog = log.state.answers["a"].label
    log.rename_class(dog, "wolf", "me")
    before = log.sequence
    seen = [log.state.labels()]
    while log.undo("me"):
        seen.append(log.state.labels())
    assert seen == [{"a": "wolf"}, {"a": "dog"}, {"a": "cat"}, {}]
    assert log.sequence == before + 3, "history is kept"
    assert not log.state.names
    back = []
    while log.redo("me"):
        back.append(log.state.labels())
    assert [{}, *back] == seen[::-1]
    log.undo("me")
    log.answer(images("b"), dog, "me")
    assert log.redo("me") is None, "something else was done since"


def test_each_person_undoes_their_own(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "review.sqlite")
    log.answer(images("a"), CLEARED, "me", new_class="cat")
    log.answer(images("b"), CLEARED, "you", new_class="dog")
    log.undo("me")
    assert log.state.labels() == {"b": "dog"}
    assert log.read("me") == (log.state, {"undo": False, "redo": True})


def test_a_merged_class_takes_its_labels_along_and_gives_them_back(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "review.sqlite")
    cat = log.answer(images("a"), CLEARED, "me", new_class="cat")
    kitten = log.answer(images("b"), CLEARED, "me", new_class="kitten")
    log.merge_classes(kitten, cat, "me")
    assert log.state.labels() == {"a": "cat", "b": "cat"}
    log.undo("me")
    assert log.state.labels() == {"a": "cat", "b": "kitten"}
    assert log.add_class("cat", "me") == cat, "a name is one class"


def test_two_that_hold_one_file_see_each_others_answers(tmp_path: Path) -> None:
    mine, yours = (AnswerLog(tmp_path / "review.sqlite") for _ in range(2))
    mine.answer(images("a"), CLEARED, "me", new_class="cat")
    yours.answer(images("b"), CLEARED, "you", new_class="dog")
    assert yours.state.labels() == {"a": "cat", "b": "dog"}
    assert mine.refresh()
    assert mine.state == yours.state
    assert not mine.refresh()


@given(st.lists(st.sampled_from(["cat", "dog", "undo", "redo", "merge", "clear"]), max_size=12))
def test_any_history_reads_the_same_from_the_file(tmp_path_factory: pytest.TempPathFactory, history: list[str]) -> None:
    log = AnswerLog(tmp_path_factory.mktemp("log") / "review.sqlite")
    for i, word in enumerate(history):
        if word == "merge" and len(log.state.names) > 1:
            log.merge_classes(*list(log.state.names)[:2], "me")
        elif word in ("cat", "dog"):
            log.answer(images(str(i % 3)), CLEARED, "me", new_class=word)
        elif word == "clear":
            log.answer(images("0"), CLEARED, "me")
        elif word != "merge":
            getattr(log, word)("me")
    assert read_reviewed(log.path) == log.state


@pytest.mark.parametrize("name", ["", " ", " cat", "a\nb", "x" * 201])
def test_a_name_that_is_none_is_refused_and_changes_nothing(tmp_path: Path, name: str) -> None:
    log = AnswerLog(tmp_path / "review.sqlite")
    with pytest.raises(SettingsError, match="name of a class"):
        log.answer(images("a"), CLEARED, "me", new_class=name)
    assert log.sequence == 0
    with pytest.raises(SettingsError, match="gone by now"):
        log.answer(images("a"), 7, "me")


def test_a_file_that_is_no_log_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 9)
    with pytest.raises(ArtifactError, match=r"is no file of answers"):
        AnswerLog(path)
    assert path.read_bytes().startswith(b"not a database")
    with pytest.raises(StorageError):
        read_reviewed(tmp_path / "none.sqlite")
    other = tmp_path / "newer.sqlite"
    AnswerLog(other).close()
    with sqlite3.connect(other) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(ArtifactError, match="newer Onelook"):
        AnswerLog(other)


def change_entries(path: Path, content: str, where: str = "1") -> None:
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute(f"UPDATE entries SET content = ? WHERE {where}", (content,))


DAMAGED = (
    "[" * 100_000,
    "[]",
    "7",
    '{"images": [["a", "", "liked"]], "label": 1}',
    '{"images": [["a", "", "answered"]], "label": [1]}',
    '{"images": [["a", "", "answered"]], "label": 32768}',
    '{"images": [[["a"], "", "answered"]], "label": 1}',
    '{"images": [], "label": 1, "add": {"id": "one", "name": "cat"}}',
    '{"images": [], "label": 1, "add": {"id": 1, "name": null}}',
)


@pytest.mark.parametrize("content", DAMAGED, ids=lambda text: text[:60])
def test_an_entry_that_no_review_has_written_is_named(tmp_path: Path, content: str) -> None:
    log = AnswerLog(tmp_path / "review.sqlite")
    log.answer(images("a"), CLEARED, "me", new_class="cat")
    log.close()
    change_entries(log.path, content)
    with pytest.raises(ArtifactError, match="or damaged"):
        AnswerLog(log.path)


def test_classes_that_are_merged_in_a_circle_end(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "review.sqlite")
    cat, dog = (log.answer(images(name), CLEARED, "me", new_class=name) for name in ("cat", "dog"))
    log.merge_classes(cat, dog, "me")
    log.answer(images("a"), dog, "me")
    log.merge_classes(log.add_class("fox", "me"), dog, "me")
    log.close()
    change_entries(
        log.path,
        f'{{"images": [["a", "", "answered"]], "label": 1, "add": {{"id": {cat}, "name": "x"}}}}',
        "sequence = 4",
    )
    change_entries(log.path, f'{{"id": {dog}, "into": {cat}}}', "sequence = 6")
    assert set(read_reviewed(log.path).labels().values()) == {"x"}
    change_entries(log.path, f'{{"id": {dog}, "into": {dog}}}', "sequence = 6")
    assert read_reviewed(log.path).labels()["dog"] == "dog"


def test_reading_leaves_no_file_behind_and_sees_what_is_being_written(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "review.sqlite")
    log.answer(images("a"), CLEARED, "me", new_class="cat")
    assert read_reviewed(log.path).labels() == {"a": "cat"}
    log.close()
    assert read_reviewed(log.path).labels() == {"a": "cat"}
    assert list(tmp_path.iterdir()) == [log.path]
