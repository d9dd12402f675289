"""Simulated users with a few labels: the figures are what slow loops give, and nothing is measured twice."""

import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from helpers.features import one_sentence, random_embeddings
from helpers.trainings import events_and_result
from onelook.data.protocols import UNKNOWN
from onelook.data.sampler import TaskSampler
from onelook.errors import DataError
from onelook.estimators.calibration import clopper_pearson
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Notice, finish
from onelook.experiments import practice as module
from onelook.experiments.practice import PracticeConfig, digits, practice
from onelook.experiments.practice_measure import LABELLED_ONLY, OWN, compare_classifiers, rivals
from onelook.experiments.practice_report import (
    ALPHA,
    N_BINS,
    RATE,
    add_unknown,
    area,
    calibration_ci95,
    calibration_error,
    draw_user,
)
from onelook.machine import Place
from onelook.scoring import Estimate, paired
from onelook.tasks import Embeddings

CONFIG = PracticeConfig("small", ("one", "folder/two.zip"), (1, 3), n_way=3, n_query=5, n_users=2)
METHODS = [
    OWN,
    LABELLED_ONLY,
    "nearest centroid",
    "logistic regression",
    "logistic regression, tuned",
    "ridge regression, tuned",
    "random forest",
    "SVM",
    "label spreading",
    "self-training",
]


def made_up(name: str) -> Embeddings:
    """The sets by the last letter of their names; those of small ones have 5 images a class."""
    return random_embeddings(6, 5 if "small" in name else 30, 64, n_views=1, seed=ord(name[-1]), noise=1.5)


@dataclass(frozen=True)
class Run:
    events: list[Any]
    records: list[dict[str, Any]]
    measured: list[tuple[str, int]]
    """What was not found in files: the stage, and the labels a class."""

    @property
    def notices(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Notice)]


def measure_nothing(*_: Any) -> Generator[Any, None, list[dict[str, Any]]]:
    """In place of `compare_classifiers`, where it matters only which cells are measured."""
    yield from ()
    return [{"method": OWN}]


def run(out: Path, config: PracticeConfig = CONFIG, stop_after: int = -1, measure: Any = compare_classifiers) -> Run:
    """On made-up features. stop_after: so many cells, as Ctrl-C would."""
    measured: list[tuple[str, int]] = []

    def features(name: str, *_: Any) -> Generator[Any, None, Embeddings]:
        yield from ()
        return made_up(name)

    def watched(data: Embeddings, spec: Any, n_users: int, stage: str) -> Generator[Any, None, Any]:
        if len(measured) == stop_after:
            raise KeyboardInterrupt
        measured.append((stage, spec.n_shot))
        return (yield from measure(data, spec, n_users, stage))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_features", features)
        patch.setattr(module, "compare_classifiers", watched)
        try:
            events, records = events_and_result(practice(config, out, Place(out / "cache", precision="float32")))
        except KeyboardInterrupt:
            return Run([], [], measured)
    return Run(events, records, measured)


pytestmark = pytest.mark.usefixtures("small_forest")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_forest: None) -> tuple[Path, Run]:  # noqa: ARG001
    out = tmp_path_factory.mktemp("made")
    return out, run(out)


def without_costs(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "milliseconds"} for r in records]


# ------------------------------------------------------------------------------------------------ the figures


def test_every_cell_has_every_classifier_our_own_first_and_alone_with_what_it_said(made: tuple[Path, Run]) -> None:
    records = made[1].records
    cells = [(name, shot) for name in ("one", "two") for shot in (1, 3)]
    assert [(r["dataset"], r["n_shot"], r["method"]) for r in records] == [(*c, m) for c in cells for m in METHODS]
    assert [r["method"] for r in records if "report" in r] == [OWN] * 4
    for r in records:
        assert (r["n_tasks"], r["n_total"], r["split"]) == (2, 15, "all")
        assert "/" not in f"{r['dataset']}{r['split']}{r['backbone']}", (
            "a page is no place for the folders of a machine"
        )
        if r["method"] == OWN:
            assert r["versus"] == {"method": OWN, "difference": 0.0, "ci95": 0.0}


def test_accuracies_and_differences_are_those_of_a_loop_over_the_users(made: tuple[Path, Run]) -> None:
    for spec in CONFIG.specs:
        sampler = TaskSampler(made_up("one"), spec)
        right: dict[str, list[float]] = {m: [] for m in METHODS}
        for i in range(CONFIG.n_users):
            rows = sampler.rows(i)
            unit = torch.nn.functional.normalize(sampler.data.views[0], dim=1).numpy()
            x, y, pool, truth = unit[rows.support], rows.support_labels, unit[rows.query], rows.query_labels
            answers = {m: answer(x, y, pool) for m, answer in rivals().items()}
            answers[OWN] = FewShotClassifier().fit(x, y, unlabeled=pool).transduction_
            answers[LABELLED_ONLY] = FewShotClassifier(features="network").fit(x, y).predict(pool)
            for m in METHODS:
                right[m].append(float(np.mean(answers[m] == truth)))
        for r in made[1].records:
            if (r["dataset"], r["n_shot"]) == ("one", spec.n_shot):
                one = Estimate.from_values(torch.tensor(right[r["method"]]))
                to = paired(torch.tensor(right[r["method"]]), torch.tensor(right[OWN]))
                assert one.record("accuracy").items() <= r.items()
                assert r["versus"] == {"method": OWN, **to.record("difference")}


def test_what_it_said_is_counted_user_by_user(made: tuple[Path, Run]) -> None:
    (said,) = (r["report"] for r in made[1].records if "report" in r and (r["dataset"], r["n_shot"]) == ("two", 3))
    spec = CONFIG.specs[1]
    data = made_up("folder/two.zip")
    covered, excess, in_set, size, largest = [], [], [], [], []
    for i in range(CONFIG.n_users):
        user = draw_user(TaskSampler(data, spec), i)
        own = FewShotClassifier().fit(user.x, user.y, unlabeled=user.pool)
        expected, accuracy = own.estimate_accuracy().accuracy, (own.transduction_ == user.truth).mean()
        covered.append(expected.low <= accuracy <= expected.high)
        excess.append(expected.value - accuracy)
        sets = own.predict_set(user.pool, alpha=ALPHA)
        in_set += [s[t] for s, t in zip(sets, user.truth, strict=True)]
        size += [s.sum() for s in sets]
        largest.append(max(np.mean(user.truth == k) for k in range(3)))
    low, high = clopper_pearson(float(sum(covered)), float(len(covered) - sum(covered)), 0.95)
    expected_said = {
        "estimate_covers": np.mean(covered),
        "estimate_covers_low": low,
        "estimate_covers_high": high,
        "estimate_excess": np.mean(excess),
        "set_coverage": np.mean(in_set),
        "set_size": np.mean(size),
        "largest_share": np.mean(largest),
    }
    assert {name: said[name] for name in expected_said} == pytest.approx(expected_said, abs=6e-5)


def test_strangers_are_in_the_pools_of_users_of_their_own(made: tuple[Path, Run]) -> None:
    (said,) = (r["report"] for r in made[1].records if "report" in r and (r["dataset"], r["n_shot"]) == ("one", 3))
    sampler = TaskSampler(made_up("one"), add_unknown(CONFIG.specs[1]))
    false, found, scores = [], [], []
    for i in range(CONFIG.n_users):
        user = draw_user(sampler, i)
        strange = user.truth == UNKNOWN
        assert strange.sum() == 3  # a fifth of 15
        own = FewShotClassifier().fit(user.x, user.y, unlabeled=user.pool)
        aside = own.reject(user.pool, rate=RATE)
        false.append(aside[~strange].mean())
        found.append(aside[strange].mean())
        nearest = [min(1 - float(row @ x) for x in user.x) for row in user.pool]
        scores.append((roc_auc_score(strange, own.unknown_score(user.pool)), roc_auc_score(strange, nearest)))
    names = ("false_rejections", "unknown_found", "auroc", "auroc_nearest")
    expected = [np.mean(false), np.mean(found), *np.mean(scores, 0)]
    assert [said[name] for name in names] == pytest.approx(expected, abs=6e-5)


# ------------------------------------------------------------------------------------------------ measures

shares = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=40))
def test_the_calibration_error_is_the_gap_of_each_bin_weighted_by_its_size(answers: list[tuple[float, bool]]) -> None:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for one in answers:
        bins.setdefault(min(int(one[0] * N_BINS), N_BINS - 1), []).append(one)
    slow = sum(
        len(b) / len(answers) * abs(sum(p for p, _ in b) / len(b) - sum(ok for _, ok in b) / len(b))
        for b in bins.values()
    )
    confidence, right = (np.array(column) for column in zip(*answers, strict=True))
    assert calibration_error(confidence, right) == pytest.approx(slow, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_that_of_scikit_learn_with_equal_scores_too(answers: list[tuple[int, bool]]) -> None:
    score, positive = (np.array(column) for column in zip(*answers, strict=True))
    if 0 < positive.sum() < len(positive):
        assert area(score, positive) == pytest.approx(roc_auc_score(positive, score))


def test_the_interval_of_the_calibration_error_is_the_spread_over_users_drawn_again() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.3, 1, (40, 20))
    right = draw.uniform(size=(40, 20)) < confidence - draw.uniform(0, 0.3, (40, 1))
    again = []
    for _ in range(1500):
        users = draw.integers(40, size=40)
        again.append(calibration_error(confidence[users].ravel(), right[users].ravel()))
    made = calibration_ci95(confidence, right, 0)
    assert made == pytest.approx(1.96 * np.std(again), rel=0.1)
    assert made == calibration_ci95(confidence, right, 0) != calibration_ci95(confidence, right, 1)
    assert calibration_ci95(confidence[:1].repeat(5, 0), right[:1].repeat(5, 0), 0) == pytest.approx(0, abs=1e-12)


def test_what_a_rival_warns_of_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = SVC.fit

    def warning(self: SVC, *rows: Any) -> Any:
        warnings.warn("it has not converged", stacklevel=1)
        return fit(self, *rows)

    monkeypatch.setattr(SVC, "fit", warning)
    user = draw_user(TaskSampler(made_up("one"), CONFIG.specs[0]), 0)
    with pytest.raises(UserWarning, match="not converged"):
        SVC().fit(user.x, user.y)
    assert len(rivals()["SVM"](user.x, user.y, user.pool)) == len(user.pool)


def test_every_rival_answers_every_row_with_a_label_that_exists() -> None:
    user = draw_user(TaskSampler(made_up("one"), CONFIG.specs[0]), 1)
    for label, answer in rivals().items():
        answers = answer(user.x, user.y, user.pool)
        assert answers.shape == user.truth.shape, label
        assert set(answers.tolist()) <= {0, 1, 2}, label  # -1 would count against self-training where it is unsure


# ------------------------------------------------------------------------------------------------ cells and sets


def test_an_interrupted_run_goes_on_and_a_finished_one_measures_nothing(made: tuple[Path, Run], tmp_path: Path) -> None:
    config = replace(CONFIG, shots=(1,))
    assert len(run(tmp_path, config, stop_after=1).measured) == 1
    again = run(tmp_path, config)
    assert again.measured == [("two, 1 a class", 1)]
    assert again.notices == ["1 of 2 cells are there already."]
    assert without_costs(again.records) == without_costs([r for r in made[1].records if r["n_shot"] == 1])
    nothing = run(tmp_path, config)
    assert nothing.measured == []
    assert nothing.records == again.records


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"n_users": 3}, {"n_query": 4}, {"n_way": 4}, {"protocol": "balanced"}], ids=str
)
def test_another_question_is_another_cell(change: dict[str, Any], made: tuple[Path, Run]) -> None:
    config = replace(CONFIG, sets=("one",), shots=(1,))
    assert run(made[0], config).measured == []
    assert len(run(made[0], replace(config, **change), measure=measure_nothing).measured) == 1


def test_what_cannot_be_read_or_is_of_another_version_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = replace(CONFIG, sets=("one",), shots=(1,), n_users=2)
    run(tmp_path, config, measure=measure_nothing)
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    other = whole.replace(rb"\"seed\": 0", rb"\"seed\": 5", 1)
    assert other != whole
    for damaged in (whole[:20], b"[]", b"", other):
        file.write_bytes(damaged)
        assert len(run(tmp_path, config, measure=measure_nothing).measured) == 1
    assert run(tmp_path, config).measured == []
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert len(run(tmp_path, config, measure=measure_nothing).measured) == 1


def test_a_set_with_too_few_images_is_left_out_with_a_notice_and_alone_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, sets=("small", "one"), shots=(1, 3), n_query=4, n_users=2)
    made = run(tmp_path, config, measure=measure_nothing)
    assert {(r["dataset"], r["n_shot"]) for r in made.records} == {("small", 1), ("one", 1), ("one", 3)}
    (notice,) = made.notices
    assert notice.startswith("small is left out with 3 labels a class: A task needs 12 queries, but")
    with pytest.raises(DataError, match="No set has images enough") as error:
        run(tmp_path, replace(config, sets=("small",), shots=(3, 16)))
    one_sentence(error.value)


def test_users_who_know_all_classes_have_no_unknown_images(tmp_path: Path) -> None:
    made = run(tmp_path, replace(CONFIG, sets=("one",), shots=(1,), n_way=6, n_users=2))
    (report,) = (r["report"] for r in made.records if "report" in r)
    assert "set_size" in report
    assert "auroc" not in report


def test_a_name_is_a_set_and_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:b.zip").touch()
    monkeypatch.chdir(tmp_path)
    asked = {text: module.split_name(text) for text in ("cifar-fs", "cifar-fs:val", "digits", "a:b.zip", "x:test")}
    assert asked == {
        "cifar-fs": ("cifar-fs", "test"),
        "cifar-fs:val": ("cifar-fs", "val"),
        "digits": ("digits", "all"),
        "a:b.zip": ("a:b.zip", "all"),
        "x:test": ("x", "test"),
    }


def test_an_unknown_set_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data named 'cifar-sf'") as error:
        finish(practice(replace(CONFIG, sets=("cifar-sf",)), tmp_path, Place(tmp_path, precision="float32")))
    one_sentence(error.value)


def test_without_the_pool_our_answer_is_that_of_the_nearest_centroid(made: tuple[Path, Run]) -> None:
    by = {(r["dataset"], r["n_shot"], r["method"]): r["accuracy"] for r in made[1].records}
    for name, shot in (("one", 1), ("one", 3), ("two", 1), ("two", 3)):
        assert by[name, shot, LABELLED_ONLY] == by[name, shot, "nearest centroid"]


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (20, 3)])
def test_digits_are_images_of_the_size_that_a_network_takes(size: int, channels: int) -> None:
    made, known = digits(size, channels), load_digits()
    assert made.pixels.shape == (1, 1797, channels, size, size)
    assert made.pixels.dtype == torch.uint8
    assert made.class_names == tuple("0123456789")
    assert made.labels.tolist() == known.target.tolist()
    assert len(set(made.names)) == len(made.digests) == 1797
    assert (made.pixels == made.pixels[:, :, :1]).all()
    assert made.pixels.max() > 200  # of 16 grey levels as they are it would be 16
    if size == 8:  # nothing is enlarged
        assert (made.pixels[0, :, 0].numpy() / 255 * 16).round().tolist() == known.images.tolist()
