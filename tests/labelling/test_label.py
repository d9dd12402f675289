"""From a folder to labels: what is right, what is kept, and what stops before any work."""

from collections import Counter
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.features import one_sentence
from helpers.images import class_image, classes, write_files
from onelook.data.images import Rejected
from onelook.errors import DataError, SettingsError, UserError
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Notice, Progress, finish
from onelook.labelling.folder import SORTED_FOLDER, list_folder
from onelook.labelling.label import LabelConfig, Labelled, label_folder, save_classifier, suggest_images
from onelook.labelling.report import make_report, write_report
from onelook.machine import Place
from onelook.ops import normalise


def folder_of(path: Path, n_classes: int = 3, n_labelled: int = 2, n_others: int = 6, **more: bytes) -> Path:
    """Examples in folders `class 00` …, and loose images `00-9.png` … named by their true class."""
    files = classes(n_classes, n_labelled)
    files |= {f"{k:02d}-{i}.png": class_image(k, 50 + i) for k in range(n_classes) for i in range(n_others)}
    return write_files(path, files | more)


def labelled(folder: Path, cache: Path | None = None, **settings: Any) -> tuple[Labelled, list[Any]]:
    events: list[Any] = []
    settings = {"network": "small"} | settings
    work = label_folder(LabelConfig(folder, **settings), Place(cache or folder.parent / "cache", None, "float32"))
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return end.value, events


def n_computed(events: list[Any]) -> int:
    """Images whose features were computed."""
    return sum(
        e.total for e in events if isinstance(e, Progress) and e.stage == "computing features" and e.done == e.total
    )


def refused(folder: Path, error: type[UserError] = DataError, **settings: Any) -> str:
    """The sentence, where nothing else was said and nothing was read before it."""
    work = label_folder(LabelConfig(folder, **settings), Place(folder.parent / "cache", None, "float32"))
    with pytest.raises(error) as caught:
        next(work)
    return one_sentence(caught.value)


Easy = tuple[Labelled, list[Any]]


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Easy:
    return labelled(folder_of(tmp_path_factory.mktemp("easy") / "images"))


# ------------------------------------------------------------------------------------------------------------ answers


def test_images_of_an_easy_folder_get_their_labels_in_the_order_of_their_names(easy: Easy) -> None:
    done, events = easy
    assert [p.path for p in done.predictions] == sorted(f"{k:02d}-{i}.png" for k in range(3) for i in range(6))
    assert all(p.label == f"class {p.path[:2]}" != p.runner_up for p in done.predictions)
    assert n_computed(events) == 24
    assert [e.text for e in events if isinstance(e, Notice)] == list(done.found.messages())


def test_probabilities_are_told_to_six_digits(easy: Easy) -> None:
    done, _ = easy
    for p, row in zip(done.predictions, done.classifier.transduction_proba_, strict=True):
        assert (p.probability, p.margin) == (round(p.probability, 6), round(p.margin, 6))
        first, second = np.sort(row)[:-3:-1]
        assert p.probability == pytest.approx(first, abs=6e-7)
        assert p.margin == pytest.approx(first - second, abs=2e-6)


def test_the_neighbours_of_an_image_are_labelled_examples_of_its_class(easy: Easy) -> None:
    done, _ = easy
    report = make_report(done)
    assert set(report.labelled) == set(classes(3, 2))
    assert report.neighbours is not None
    assert report.neighbours.shape == (18, 3)
    for p, near in zip(done.predictions, report.neighbours.tolist(), strict=True):
        assert report.labelled[near[0]].startswith(p.label)


def test_a_second_run_computes_nothing_and_a_new_image_is_computed_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 2)
    first, events = labelled(folder)
    assert n_computed(events) == 16
    again, events = labelled(folder)
    assert n_computed(events) == 0
    assert again.predictions == first.predictions
    write_files(folder, {"new.png": class_image(1, 90)})
    more, events = labelled(folder)
    assert n_computed(events) == 1
    assert more.predictions[-1].path == "new.png"
    assert more.predictions[-1].label == "class 01"


def test_every_file_is_read_once_and_again_for_its_thumbnail_and_one_classifier_is_fitted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reads, fits = folder_of(tmp_path / "images", 2), Counter[str](), []
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    read, learn = Path.read_bytes, FewShotClassifier.fit_with_events

    def count_read(path: Path) -> bytes:
        if path.suffix == ".png":
            reads[path.relative_to(folder).as_posix()] += 1
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", count_read)
    monkeypatch.setattr(
        FewShotClassifier, "fit_with_events", lambda self, *a, **k: fits.append(self) or learn(self, *a, **k)
    )
    for already in range(2):  # the second time from the cache
        done, _ = labelled(folder)
        assert reads == dict.fromkeys(names, 2 * already + 1)
        finish(write_report(done, tmp_path / "report.html"))
        assert reads == dict.fromkeys(names, 2 * already + 2)
    assert len(fits) == 2


def test_the_features_of_all_images_have_length_one(easy: Easy) -> None:
    np.testing.assert_allclose(easy[0].embeddings.features.norm(dim=1), 1, rtol=1e-6)


def test_a_copy_of_a_folder_elsewhere_finds_the_features_too(tmp_path: Path) -> None:
    labelled(folder_of(tmp_path / "images", 2), tmp_path / "cache")
    _, events = labelled(folder_of(tmp_path / "elsewhere", 2), tmp_path / "cache")
    assert n_computed(events) == 0


def test_class_priors_decide_about_images_in_doubt(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 2, 2, 0, **{f"{i}.png": class_image(5, i) for i in range(4)})
    shares = []
    for text in ("0.98/0.02", "0.02/0.98"):
        done, _ = labelled(folder, class_priors=text)
        assert done.classifier.class_priors == dict(
            zip(("class 00", "class 01"), map(float, text.split("/")), strict=True)
        )
        shares.append(done.classifier.transduction_proba_[:, 0].mean())
    assert shares[0] > shares[1]


def test_the_prior_of_a_class_whose_examples_cannot_be_read_is_dropped(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 2, **{"lost/1.png": b"words"})
    done, _ = labelled(folder, class_priors="0.3/0.3/0.4")
    assert done.classifier.classes_.tolist() == ["class 00", "class 01"]
    assert {p.label for p in done.predictions} == {"class 00", "class 01"}


def test_strange_images_are_set_aside_when_asked_for_and_only_then(tmp_path: Path) -> None:
    strange = {f"strange {i}.png": class_image(30 + i, i) for i in range(3)}
    folder = folder_of(tmp_path / "images", 2, 6, **strange)
    none, _ = labelled(folder)
    assert not any(p.unknown for p in none.predictions)
    done, _ = labelled(folder, unknown_rate=0.2)
    aside = {p.path for p in done.predictions if p.unknown}
    assert len(aside & set(strange)) >= 2
    assert len(aside - set(strange)) <= 0.5 * 12


def test_one_image_to_label_and_one_example_of_each_class_are_enough(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 2, 1, 0, **{"one.png": class_image(1, 60)})
    done, _ = labelled(folder)
    assert [(p.path, p.label) for p in done.predictions] == [("one.png", "class 01")]
    finish(write_report(done, tmp_path / "report.html"))
    assert "one.png" in (tmp_path / "report.html").read_text()
    assert [one.index for one in suggest_images(done, 5).suggestions] == [0]


def test_what_the_unlabelled_images_changed_is_counted_without_what_is_set_aside(easy: Easy) -> None:
    done, _ = easy
    classifier = copy(done.classifier)
    classifier.inductive_ = np.where(np.arange(18) < 5, "class 99", classifier.inductive_.astype(str)).astype(object)
    answers = tuple(replace(p, unknown=i in (4, 17)) for i, p in enumerate(done.predictions))
    one = replace(done, classifier=classifier, predictions=answers).assessment
    assert (done.assessment.n_changed, one.n_changed, one.n_images) == (0, 4, 18)
    assert (one.class_names, one.n_examples) == (("class 00", "class 01", "class 02"), (2, 2, 2))


def test_all_images_are_suggested_once_where_more_are_asked_for(easy: Easy) -> None:
    done, _ = easy
    advice = suggest_images(done, 1000).suggestions
    assert sorted(one.index for one in advice) == list(range(18))
    assert suggest_images(done, 3).suggestions == advice[:3]


def test_a_saved_classifier_knows_its_network_and_answers_as_before(easy: Easy, tmp_path: Path) -> None:
    done, _ = easy
    save_classifier(done, tmp_path / "model.safetensors")
    again = FewShotClassifier.load(tmp_path / "model.safetensors")
    assert again.network_ == {"name": "small", "digest": done.network.digest().hex(), "average": "none"}
    rows = normalise(done.embeddings.features).numpy()[done.unlabelled]
    np.testing.assert_array_equal(again.predict_proba(rows), done.classifier.predict_proba(rows))


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_images_that_cannot_be_read_are_listed_and_the_others_labelled(tmp_path: Path) -> None:
    bad = {"bad.png": b"words", "class 00/bad.png": b""}
    done, events = labelled(folder_of(tmp_path / "images", 2, **bad))
    assert {one.name for one in done.rejected} == set(bad)
    assert [e for e in events if isinstance(e, Rejected)] == list(done.rejected)
    assert len(done.predictions) == 12
    assert len(done.labelled) == 4


@pytest.mark.parametrize("gone", ["00-0.png", "class 00/00.png"])
def test_an_image_that_vanishes_after_it_was_listed_is_left_out(gone: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 2)
    work = label_folder(LabelConfig(folder), Place(tmp_path / "cache", None, "float32"))
    assert isinstance(next(work), Notice)  # it is listed now, and not read
    (folder / gone).unlink()
    done = finish(work)
    assert [(one.name, one.reason) for one in done.rejected] == [(gone, "no such file or directory")]
    assert gone not in done.embeddings.items


def test_an_image_that_vanishes_before_the_page_is_written_has_no_picture_there(tmp_path: Path) -> None:
    done, _ = labelled(folder_of(tmp_path / "images", 2))
    (tmp_path / "images" / "00-0.png").unlink()
    finish(write_report(done, tmp_path / "report.html"))
    assert "00-0.png" in (tmp_path / "report.html").read_text()


def test_names_of_all_kinds_of_characters_are_labelled(tmp_path: Path) -> None:
    names = ['it\'s "quoted".png', "new\nline.png", "\N{GRINNING FACE}.png", "a,b;c.png", "=1+1.png", "\udcff.png"]
    folder = folder_of(tmp_path / "images", 2, 2, 1, **{name: class_image(1, 70 + i) for i, name in enumerate(names)})
    done, _ = labelled(folder)
    assert {p.label for p in done.predictions if p.path in names} == {"class 01"}
    assert len(done.predictions) == 2 + len(names)
    finish(write_report(done, tmp_path / "report.html"))


def test_what_onelook_sorted_is_no_source_of_labels(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 2)
    before, _ = labelled(folder)
    write_files(folder, {f"out/{SORTED_FOLDER}/wrong/a.png": class_image(0, 50), f"{SORTED_FOLDER}/b.png": b""})
    after, events = labelled(folder)
    assert after.predictions == before.predictions
    said = [e.text for e in events if isinstance(e, Notice)]
    assert f"out/{SORTED_FOLDER} was passed over" in said[2]
    inside, _ = labelled(
        write_files(tmp_path, classes(2, 2, f"{SORTED_FOLDER}/") | {f"{SORTED_FOLDER}/a.png": class_image(0, 3)})
        / SORTED_FOLDER
    )
    assert [p.label for p in inside.predictions] == ["class 00"]  # who names the folder means it


def test_a_folder_with_nothing_to_go_by_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    files = {"a/1.png": b"", "b/1.png": b"", "c.png": b""}
    assert "There is no folder" in refused(tmp_path / "none")
    assert "is a file" in refused(write_files(tmp_path, {"file.png": b""}) / "file.png")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(tmp_path / "empty")
    assert "none is labelled" in refused(write_files(tmp_path / "bare", {"a.png": b""}))
    one = write_files(tmp_path / "one", dict.fromkeys(("a/1.png", "c.png"), b""))
    assert "All labelled examples of" in refused(one)
    everything = write_files(tmp_path / "all", dict.fromkeys(("a/1.png", "b/1.png"), b""))
    assert "is labelled already" in refused(everything)
    good = write_files(tmp_path / "good", files)
    for text in ("half", "", "0.5", "0.2/0.3/0.5", "1/-1", "nan/1", "0/0", "inf/1"):
        which = "of the 2 classes (a, b)" if text == "0.2/0.3/0.5" else "class"
        assert f"each {which}, written like 0.5/0.3/0.2, but is {text!r}" in refused(
            good, SettingsError, class_priors=text
        )


def test_a_folder_that_cannot_be_read_is_named_where_it_may_be_why_there_is_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list_folder(write_files(tmp_path / "one", dict.fromkeys(("a/1.png", "c.png"), b"")))
    locked = replace(found, skipped=(Rejected("b", "the folder cannot be read (permission denied)"),))
    monkeypatch.setattr("onelook.labelling.label.list_folder", lambda *_, **__: locked)
    with pytest.raises(DataError, match=r"are a \(b: the folder cannot be read \(permission denied\)\); label one"):
        labelled(tmp_path / "one")


def test_examples_that_all_cannot_be_read_are_said_to_be_the_reason(tmp_path: Path) -> None:
    bad = write_files(tmp_path / "bad", {"a/1.png": b"", "b/1.png": b"words", "c.png": class_image(0, 0)})
    with pytest.raises(DataError, match=r"can be read of no class, but two .* a/1\.png cannot be, for"):
        labelled(bad)
    write_files(bad, {"a/1.png": class_image(0, 1)})
    with pytest.raises(DataError, match=r"can be read of one class, but two .* b/1\.png cannot be, for example: it is"):
        labelled(bad)
    write_files(bad, {"b/1.png": class_image(1, 1), "c.png": b"words"})
    with pytest.raises(DataError, match=r"no image to label that can be read; c\.png cannot be"):
        labelled(bad)
