"""A run that was stopped, killed or refused ends as if nothing had happened."""

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from itertools import chain, cycle, islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.features import contents, one_sentence, random_embeddings, random_images
from onelook import artifacts, backbones, methods
from onelook.artifacts import Artifact, load
from onelook.data.augment import Augmentation
from onelook.data.sampler import TaskSpec
from onelook.errors import ArtifactError, DivergedError, SettingsError
from onelook.events import finish
from onelook.scoring import Estimate
from onelook.train.episodes import EpisodicPretraining, MetaTrainConfig, MetaTraining
from onelook.train.loop import Event, Objective, Resumed, Stepped, Validated, train
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import PretrainConfig, Pretraining
from onelook.train.processes import ALL
from onelook.train.teacher import CosineClassifier, Teacher

AVERAGED = Optimisation("sgd", learning_rate=1e-2, schedule="constant", average_from=0.4)
ADAM = Optimisation("adam", learning_rate=1e-2, weight_decay=0.0)
SGD = Optimisation("sgd", learning_rate=1e-2, schedule="constant")
SPEC = TaskSpec(n_way=3, n_shot=1, n_query=3)
SAVE_EVERY = 3


@dataclass(frozen=True)
class Case:
    make: Callable[[], Objective]
    optimisation: Optimisation
    n_steps: int

    def train(self, run: Path, save_every: int = SAVE_EVERY, **config: Any) -> Generator[Event, None, Path]:
        return train(self.make(), self.optimisation, {"lr": 0.01, "name": "x"} | config, run, save_every)


def seeded(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **kwargs)


def meta_training(name: str, validate_every: int = 4, **kept: Any) -> Objective:
    method = seeded(methods.create, name, feature_size=6, **kept)
    training, validation = random_embeddings(seed=1), random_embeddings(seed=2, n_views=1, noise=1.5)
    return MetaTraining(method, training, validation, MetaTrainConfig(11, 2, SPEC, ADAM, validate_every, 20))


def pretraining(
    rotation_weight: float = 0.0, precision: str = "float32", teacher: Teacher | None = None, **kept: Any
) -> Objective:
    config = PretrainConfig(
        3, 8, Augmentation(crop_padding=1), SGD, precision, rotation_weight, n_validation_tasks=10, **kept
    )
    training, validation = random_images(5, 5), random_images(5, 16, seed=1)
    backbone = seeded(backbones.create, "conv4-64", 3, 16)
    return Pretraining("conv4-64", backbone, training, validation, config, teacher)


def taught() -> Objective:
    teacher = Teacher(seeded(backbones.create, "conv4-64", 3, 16), seeded(CosineClassifier, 64, 5, torch.Generator()))
    return pretraining(teacher=teacher)


def episodes() -> Objective:
    backbone = seeded(backbones.create, "conv4-64", 3, 16)
    method = methods.create("prototypical", feature_size=backbone.feature_size)
    config = MetaTrainConfig(5, 1, SPEC, ADAM, 2, 10)
    return EpisodicPretraining(
        "conv4-64", backbone, method, random_images(3, 4), random_images(5, 4, seed=1), config, "float32"
    )


CASES = {
    "sib": Case(lambda: meta_training("sib", n_way=3, step_size=0.1), ADAM, 11),
    "feature-averaging": Case(lambda: meta_training("feature-averaging"), SGD, 11),
    "pretraining": Case(pretraining, Optimisation(learning_rate=0.05), 9),
    "pretraining with rotations": Case(lambda: pretraining(0.5, "bfloat16"), SGD, 9),
    "pretraining with mixup": Case(lambda: pretraining(0.5, mixup=2.0, mixup_probability=0.7), SGD, 9),
    "pretraining with a teacher": Case(taught, SGD, 9),
    "pretraining with averaged weights": Case(pretraining, AVERAGED, 9),
    "averaged weights": Case(lambda: meta_training("sib", n_way=3, step_size=0.1), AVERAGED, 11),
    "episodes": Case(episodes, ADAM, 5),
}
QUICK = ("sib", "feature-averaging", "averaged weights")
each_case = pytest.mark.parametrize("case", CASES)
each_quick_case = pytest.mark.parametrize("case", QUICK)
quick_cases_first = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in (*QUICK, "pretraining") else pytest.mark.slow) for case in CASES]
)
"""All of them are stopped again and again; most pretrainings are killed at every event in the slow tests only."""


@cache
def straight(case: str) -> tuple[bytes, tuple[Event, ...]]:
    """The bytes of the model, and the events, of a run that nothing happened to."""
    with tempfile.TemporaryDirectory() as run:
        work = CASES[case].train(Path(run))
        events = tuple(collected(work))
        return (Path(run) / "model.safetensors").read_bytes(), events


def collected(work: Generator[Event, None, Path]) -> list[Event]:
    return list(work)


def completed(case: str, run: Path) -> bytes:
    """The bytes of the model after the same command was given once more."""
    path = finish(CASES[case].train(run))
    assert path == run / "model.safetensors"
    return path.read_bytes()


def stop_after(n_events: int, work: Generator[Event, None, Path]) -> list[Event]:
    events = list(islice(work, n_events))
    work.close()
    return events


# ------------------------------------------------------------------------------------------------ stopped and killed


@each_case
def test_the_straight_run_takes_every_step_once_and_validates_when_it_should(case: str) -> None:
    events = straight(case)[1]
    n_steps = CASES[case].n_steps
    every = CASES[case].make().validate_every
    assert [e.step for e in events if isinstance(e, Stepped)] == list(range(1, n_steps + 1))
    expected = sorted({*range(every, n_steps + 1, every), n_steps})
    assert [e.step for e in events if isinstance(e, Validated)] == expected
    assert all(e.n_steps == n_steps for e in events)


@each_case
def test_a_run_stopped_again_and_again_ends_as_the_straight_run(case: str, tmp_path: Path) -> None:
    model, _ = straight(case)
    steps: list[int] = []
    for n_events in chain([1], cycle([2, 3, 4])):  # the first event of a run that goes on tells that it does
        work = CASES[case].train(tmp_path)
        steps += [e.step for e in stop_after(n_events, work) if isinstance(e, Stepped)]
        if (tmp_path / "model.safetensors").exists():
            break
    assert steps == list(range(1, CASES[case].n_steps + 1))  # no step that was reported is taken again
    assert (tmp_path / "model.safetensors").read_bytes() == model


@quick_cases_first
def test_a_run_killed_at_any_event_goes_on_from_its_last_saved_state(case: str, tmp_path: Path) -> None:
    model, _ = straight(case)
    n_steps = CASES[case].n_steps
    (tmp_path / "run").mkdir()
    left: dict[str, int] = {}  # what kills leave, and the step that is saved in it
    done = 0
    for event in CASES[case].train(tmp_path / "run"):
        done = event.step if isinstance(event, Stepped) else done
        saved = n_steps if done == n_steps else done - done % SAVE_EVERY
        assert (tmp_path / "run" / "state.safetensors").exists() == (saved > 0)
        copy = str(sorted(contents(tmp_path / "run").items()))
        if copy not in left:
            shutil.copytree(tmp_path / "run", tmp_path / str(len(left)))
            left[copy] = saved
    assert {0, SAVE_EVERY, n_steps} <= set(left.values())
    for i, saved in enumerate(left.values()):
        again = collected(CASES[case].train(tmp_path / str(i)))
        if saved:
            assert again[0] == Resumed(saved, n_steps)
        assert [e.step for e in again if isinstance(e, Stepped)] == list(range(saved + 1, n_steps + 1))
        assert (tmp_path / str(i) / "model.safetensors").read_bytes() == model


@each_quick_case
def test_a_run_killed_during_or_after_any_write_ends_as_the_straight_run(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Path] = []

    def copying(artifact: Artifact, path: Path) -> None:
        for moment in ("during", "after"):
            if moment == "after":
                artifacts.save(artifact, path)
            copies.append(tmp_path / f"{len(copies)}-{moment}")
            shutil.copytree(path.parent, copies[-1])
            if moment == "during":
                (copies[-1] / f".{path.name}.xyz.part").write_bytes(b"half")

    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("onelook.train.loop.artifacts", _Replaced(copying))
        finish(CASES[case].train(tmp_path / "run"))
    assert len(copies) == 2 * (11 // SAVE_EVERY + 2)  # the state every 3 steps and at the end, and the model
    for copy in copies:
        assert completed(case, copy) == straight(case)[0]


class _Replaced:
    """The module `artifacts` with another `save`."""

    def __init__(self, save: Callable[[Artifact, Path], None]) -> None:
        self.save = save

    def __getattr__(self, name: str) -> Any:
        return getattr(artifacts, name)


@each_quick_case
@pytest.mark.parametrize("save_every", [1, 4, 20])
def test_how_often_the_state_is_saved_does_not_influence_the_result(case: str, save_every: int, tmp_path: Path) -> None:
    assert finish(CASES[case].train(tmp_path, save_every)).read_bytes() == straight(case)[0]


@each_case
def test_the_history_is_in_the_model_and_is_that_of_the_events(case: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(straight(case)[0])
    about = load(tmp_path / "model", artifacts.read_kind(tmp_path / "model")).about
    told = [e for e in straight(case)[1] if isinstance(e, Validated)]
    assert about["history"] == [{"step": e.step, "loss": e.loss, **e.accuracy.record("accuracy")} for e in told]
    assert about["config"] == {"lr": 0.01, "name": "x"}
    steps = [e for e in straight(case)[1] if isinstance(e, Stepped)]
    first = [e.loss for e in steps if e.step <= told[0].step]
    assert told[0].loss == pytest.approx(sum(first) / len(first))


@each_quick_case
def test_the_global_random_numbers_are_neither_used_nor_moved(case: str, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert completed(case, tmp_path) == straight(case)[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_validating_more_often_leaves_the_steps_as_they_are(tmp_path: Path) -> None:
    last = []
    for every in (1, 4, 11):
        case = Case(lambda every=every: meta_training("sib", every, n_way=3, step_size=0.1), ADAM, 11)
        finish(case.train(tmp_path / str(every)))
        state = load(tmp_path / str(every) / "state.safetensors", "state").tensors
        last.append({k: v for k, v in state.items() if k.startswith(("last.", "optimiser."))})
    assert last[0]
    for other in last[1:]:
        assert other.keys() == last[0].keys()
        assert all(torch.equal(other[k], last[0][k]) for k in other)


@each_case
def test_validation_gives_the_same_twice_and_changes_nothing(case: str) -> None:
    objective = CASES[case].make()
    objective.module.eval()
    before = {k: v.clone() for k, v in objective.module.state_dict().items()}
    first = objective.validate()
    torch.rand(3)
    assert objective.validate() == first
    assert all(torch.equal(v, before[k]) for k, v in objective.module.state_dict().items())
    objective.loss(0).backward()
    objective.validate()
    assert CASES[case].make().validate() == first


@each_case
def test_the_loss_of_a_step_is_a_function_of_weights_and_number(case: str) -> None:
    objective = CASES[case].make()
    objective.module.train()
    expected = {step: objective.loss(step).item() for step in (4, 0, 2, 1)}
    assert len(set(expected.values())) == 4
    again = CASES[case].make()
    again.module.train()
    for step in (0, 1, 2, 4):
        assert again.loss(step).item() == expected[step]


# ---------------------------------------------------------------------------------------- finished, foreign, damaged


@each_quick_case
def test_a_finished_run_returns_at_once_and_writes_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed(case, tmp_path)
    before = contents(tmp_path)
    objective = CASES[case].make()
    for name in ("loss", "validate"):
        monkeypatch.setattr(objective, name, lambda *_: pytest.fail("a finished run was trained"))
    monkeypatch.setattr(artifacts, "save", lambda *_: pytest.fail("a finished run was written"))
    work = train(objective, CASES[case].optimisation, {"lr": 0.01, "name": "x"}, tmp_path)
    assert collected(work) == [Resumed(11, 11)]
    assert contents(tmp_path) == before


@given(
    before=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)),
    after=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)),
    n_events=st.integers(1, 14),
)
def test_a_folder_of_another_configuration_is_refused_naming_the_first_difference(
    before: dict[str, int], after: dict[str, int], n_events: int
) -> None:
    case = CASES["feature-averaging"]
    differing = sorted(k for k in "abcd" if before.get(k) != after.get(k))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        stop_after(n_events, case.train(run, **before))
        kept = contents(run)
        work = case.train(run, **after)
        if not differing:
            finish(work)
            return
        with pytest.raises(ArtifactError) as error:
            finish(work)
        message = one_sentence(error.value)
        assert str(run) in message
        assert f"({differing[0]}: {before.get(differing[0])}, now {after.get(differing[0])})" in message
        assert contents(run) == kept


def test_a_configuration_may_hold_whatever_becomes_json(tmp_path: Path) -> None:
    case = CASES["feature-averaging"]
    config = {"sizes": (1, 2), "nested": {"pair": (3, (4,))}, "number": 0.1, "nothing": None}
    stop_after(5, case.train(tmp_path, **config))
    finish(case.train(tmp_path, **config))
    assert load(tmp_path / "model.safetensors", "method").about["config"]["sizes"] == [1, 2]


@each_quick_case
@pytest.mark.parametrize("n_events", [5, 14])
def test_a_state_that_is_cut_is_refused_and_left_alone(case: str, n_events: int, tmp_path: Path) -> None:
    stop_after(n_events, CASES[case].train(tmp_path))
    state = tmp_path / "state.safetensors"
    whole = state.read_bytes()
    for length in lengths_of_cut(whole):
        state.write_bytes(whole[:length])
        kept = contents(tmp_path)
        with pytest.raises(ArtifactError) as error:
            finish(CASES[case].train(tmp_path))
        assert str(state) in one_sentence(error.value)
        assert contents(tmp_path) == kept


@each_quick_case
def test_a_finished_model_that_is_cut_or_lost_is_written_again(case: str, tmp_path: Path) -> None:
    whole = completed(case, tmp_path)
    model = tmp_path / "model.safetensors"
    for length in lengths_of_cut(whole):
        model.write_bytes(whole[:length])
        assert collected(CASES[case].train(tmp_path)) == [Resumed(11, 11)]
        assert model.read_bytes() == whole
    model.unlink()
    assert collected(CASES[case].train(tmp_path)) == [Resumed(11, 11)]
    assert model.read_bytes() == whole


def lengths_of_cut(whole: bytes) -> list[int]:
    """Nothing, less than the length of the header, a part of the header and of the tensors, all but a byte."""
    return [0, 7, 8, 100, len(whole) // 2, len(whole) - 1]


def test_a_model_without_the_state_of_its_run_is_neither_replaced_nor_passed_off_as_the_result(tmp_path: Path) -> None:
    """Its configuration may be another one, and hours of training would end in the old weights."""
    completed("sib", tmp_path)
    (tmp_path / "state.safetensors").unlink()
    kept = contents(tmp_path)
    with pytest.raises(ArtifactError) as error:
        finish(CASES["sib"].train(tmp_path, lr=0.5))
    assert str(tmp_path) in one_sentence(error.value)
    assert contents(tmp_path) == kept


@pytest.mark.parametrize("kind", ["backbone", "method"])
def test_a_state_that_is_a_model_is_refused(kind: str, tmp_path: Path) -> None:
    artifacts.save(Artifact(kind, {}, {}), tmp_path / "state.safetensors")
    with pytest.raises(ArtifactError, match=kind):
        finish(CASES["sib"].train(tmp_path))


# ---------------------------------------------------------------------------------------------------------- diverged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bad_step", [0, 6, 10])
def test_a_loss_that_is_not_finite_names_step_and_learning_rate_and_keeps_the_last_good_state(
    value: float, bad_step: int, tmp_path: Path
) -> None:
    case = CASES["sib"]
    objective = case.make()
    honest = objective.loss
    objective.loss = lambda step, _: honest(step) * value if step == bad_step else honest(step)
    events: list[Event] = []
    with pytest.raises(DivergedError) as error:
        events.extend(train(objective, ADAM, {"lr": 0.01, "name": "x"}, tmp_path, SAVE_EVERY))
    message = str(error.value)
    assert f"step {bad_step + 1} " in message
    assert f"learning rate {ADAM.learning_rate_at(bad_step, 11):.3g};" in message
    assert [e.step for e in events if isinstance(e, Stepped)] == list(range(1, bad_step + 1))
    assert not (tmp_path / "model.safetensors").exists()
    saved = bad_step - bad_step % SAVE_EVERY
    if saved:
        assert next(case.train(tmp_path)) == Resumed(saved, 11)
    assert completed("sib", tmp_path) == straight("sib")[0]


def numbers_on_disk(run: Path) -> dict[str, torch.Tensor]:
    path = run / "state.safetensors"
    return load(path, "state").tensors if path.exists() else {}


class Diverging:
    """A valley to walk down; at one step comes what the learning rate is to blame for."""

    n_steps, validate_every, batch_size = 24, 4, 1

    def __init__(self, how: str, bad_step: int, start: float = 1.0) -> None:
        self.module = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.ones_(self.module.weight)
        self.how, self.bad_step, self.start = how, bad_step, start

    def loss(self, step: int, rows: slice = ALL) -> torch.Tensor:  # noqa: ARG002
        loss = self.start * self.module.weight.square().mean()
        if step != self.bad_step:
            return loss
        match self.how:
            case "NaN loss":
                return loss * math.nan
            case "exploding loss":
                return loss * 1e6
            case "infinite gradient":  # of a root at zero
                return loss + (self.module.weight - self.module.weight.detach()).square().sum().sqrt()
            case "singular system":
                return loss + torch.linalg.solve(torch.zeros(1, 1), loss.reshape(1, 1)).sum()
            case "overflowing gradient":
                return loss + (1e25 * (self.module.weight - self.module.weight.detach())).sum()
        return loss

    def validate(self) -> Estimate:
        return Estimate.from_half_width(1 - self.module.weight.abs().sum().item() / 100, 0.01)

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return Artifact("method", dict(self.module.state_dict()), about)


SENTENCES = {
    "NaN loss": "The loss became nan",
    "exploding loss": "The loss rose from",
    "infinite gradient": "The gradient became nan",
    "overflowing gradient": "The gradient became inf",
    "singular system": "A system of equations became singular",
}


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("bad_step", [1, 8, 23])
@pytest.mark.parametrize("how", SENTENCES)
def test_training_that_diverges_stops_before_the_weights_are_written_and_goes_on_at_a_smaller_rate(
    how: str, bad_step: int, optimiser: Any, tmp_path: Path
) -> None:
    objective = Diverging(how, bad_step)
    weights: list[torch.Tensor] = []
    optimisation = Optimisation(optimiser, 1e-2, schedule="constant")
    work = train(objective, optimisation, {}, tmp_path, SAVE_EVERY)
    with pytest.raises(DivergedError) as error:
        weights.extend(objective.module.weight.detach().clone() for _ in work)
    assert SENTENCES[how] in str(error.value)
    assert f"at step {bad_step + 1} with learning rate 0.01;" in str(error.value)
    assert torch.equal(objective.module.weight, weights[-1])
    saved = bad_step - bad_step % SAVE_EVERY
    assert bool(numbers_on_disk(tmp_path)) == (saved > 0)
    assert all(tensor.isfinite().all() for tensor in numbers_on_disk(tmp_path).values())
    calmer = dataclasses.replace(optimisation, learning_rate=1e-3)
    again = list(train(Diverging("", 0), calmer, {}, tmp_path, SAVE_EVERY))
    assert [e.step for e in again if isinstance(e, Resumed)] == ([saved] if saved else [])
    assert again[-1].step == 24
    assert load(tmp_path / "model.safetensors", "method").tensors["weight"].isfinite().all()


@pytest.mark.parametrize("start", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("factor", [50.0, 1e10])
def test_a_loss_has_exploded_above_a_thousand_and_a_hundred_times_its_beginning(
    start: float, factor: float, tmp_path: Path
) -> None:
    objective = Diverging("", 0, start)
    honest = objective.loss
    objective.loss = lambda step, _: honest(step) * (factor if step == 15 else 1.0)  # type: ignore[method-assign]
    calm = Optimisation("adam", 1e-5, weight_decay=0.0, schedule="constant")
    if factor == 1e10 and start * factor > 1000:
        with pytest.raises(DivergedError, match=r"rose from .* at step 16 "):
            finish(train(objective, calm, {}, tmp_path))
    else:
        finish(train(objective, calm, {}, tmp_path))


def test_a_loss_that_explodes_step_by_step_is_stopped_while_the_weights_are_finite(tmp_path: Path) -> None:
    objective = Diverging("", 0)
    too_fast = Optimisation("sgd", 50.0, weight_decay=0.0, schedule="constant")
    with pytest.raises(DivergedError, match="learning rate 50; the last saved state is intact"):
        finish(train(objective, too_fast, {}, tmp_path, 1))
    assert objective.module.weight.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in numbers_on_disk(tmp_path).values())


@pytest.mark.parametrize("stop", [True, False])
def test_weights_that_left_the_finite_numbers_never_take_the_place_of_the_state_before(
    stop: bool, tmp_path: Path
) -> None:
    objective = Diverging("", 0)
    objective.module.register_buffer("variance", torch.ones(2))  # no loss reads it
    work = train(objective, ADAM, {}, tmp_path, SAVE_EVERY)
    for _ in range(7):  # six steps, and a validation after the fourth
        event = next(work)
    assert event.step == 6
    kept = contents(tmp_path)
    objective.module.variance.fill_(math.inf)
    if stop:
        next(work)
        work.close()
    else:
        with pytest.raises(DivergedError, match="The weights left the finite numbers at step 9 with learning rate"):
            finish(work)
    assert contents(tmp_path) == kept


@pytest.mark.parametrize("clip_norm", [1e-3, 1e6, None])
def test_gradients_are_shortened_to_the_length_that_is_set_and_keep_their_direction(
    clip_norm: float | None, tmp_path: Path
) -> None:
    objective = Diverging("", 0)
    found: list[torch.Tensor] = []
    own: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Watched(Optimisation):
        def build(self, parameters: Any) -> torch.optim.Optimizer:
            made = super().build(parameters)
            made.register_step_pre_hook(lambda *_: found.append(objective.module.weight.grad.clone()))
            return made

    objective.module.weight.register_hook(lambda gradient: own.append(gradient.clone()))
    finish(train(objective, Watched("sgd", 0.01, schedule="constant", clip_norm=clip_norm), {}, tmp_path))
    assert len(found) == len(own) == 24
    for clipped, whole in zip(found, own, strict=True):
        length = min(whole.norm().item(), clip_norm or math.inf)
        torch.testing.assert_close(clipped, whole / whole.norm() * length, rtol=1e-2, atol=0)
        if clip_norm != 1e-3:
            assert torch.equal(clipped, whole)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan])
def test_an_impossible_length_of_gradients_is_refused(clip_norm: float) -> None:
    with pytest.raises(SettingsError, match=f"clip_norm of Optimisation must be a number > 0, but is {clip_norm}"):
        Optimisation(clip_norm=clip_norm)


# --------------------------------------------------------------------------------------------------- averaged weights


def run_of(average_from: float | None, run: Path) -> tuple[list[torch.Tensor], list[Event], dict[str, torch.Tensor]]:
    """The weights after each step, the events, and what is kept in the end."""
    objective, weights, events = Diverging("", -1), [], []
    objective.validate_every = 1
    optimisation = Optimisation("sgd", 0.1, schedule="constant", average_from=average_from)
    for event in train(objective, optimisation, {}, run, SAVE_EVERY):
        events.append(event)
        if isinstance(event, Stepped):
            weights.append(objective.module.weight.detach().clone())
    return weights, events, load(run / "model.safetensors", "method").tensors


@pytest.mark.parametrize(("average_from", "first"), [(0.0, 0), (0.5, 12), (0.99, 23)])
def test_what_is_validated_and_kept_is_the_mean_of_the_weights_of_all_steps_since(
    average_from: float, first: int, tmp_path: Path
) -> None:
    weights, events, kept = run_of(average_from, tmp_path / "averaged")
    plain, plain_events, _ = run_of(None, tmp_path / "plain")
    assert all(torch.equal(a, b) for a, b in zip(weights, plain, strict=True))  # the steps are what they were
    told = [e.accuracy.value for e in events if isinstance(e, Validated)]
    plainly = [e.accuracy.value for e in plain_events if isinstance(e, Validated)]
    means = [torch.stack(weights[min(i, first) : i + 1]).mean(0) if i >= first else weights[i] for i in range(24)]
    assert told == pytest.approx([1 - mean.abs().sum().item() / 100 for mean in means])
    assert told[: first + 1] == plainly[: first + 1]
    assert first == 23 or told[first + 1] != plainly[first + 1]
    torch.testing.assert_close(kept["weight"], means[max(range(24), key=told.__getitem__)])


def test_the_mean_over_one_step_is_its_weights_statistics_and_counts(tmp_path: Path) -> None:
    states = []
    for average_from in (None, 0.99):
        optimisation = dataclasses.replace(SGD, average_from=average_from)
        finish(train(pretraining(), optimisation, {}, tmp_path / str(average_from)))
        states.append((tmp_path / str(average_from) / "model.safetensors").read_bytes())
    assert states[0] == states[1]


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_an_impossible_beginning_of_the_average_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match=f"average_from of Optimisation must be .*, but is {share}"):
        Optimisation(average_from=share)


# ---------------------------------------------------------------------------------------------------- random numbers


class Sampling(Diverging):
    """Its loss draws from the global generator, as that of a method with latent codes does."""

    def __init__(self) -> None:
        super().__init__("", 0)
        self.drawn: dict[int, float] = {}

    def loss(self, step: int, rows: slice = ALL) -> torch.Tensor:  # noqa: ARG002
        noise = torch.randn(1, 4)
        self.drawn[step] = noise[0, 0].item()
        return (self.module.weight - noise).square().mean()


@given(stops=st.lists(st.integers(1, 30), max_size=3), disturbance=st.integers(0, 3))
def test_a_loss_that_draws_random_numbers_draws_the_same_however_often_the_run_was_stopped(
    stops: list[int], disturbance: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        straight_run, stopped = Path(folder) / "straight", Path(folder) / "stopped"
        expected = Sampling()
        finish(train(expected, ADAM, {"a": 1}, straight_run, SAVE_EVERY))
        drawn: dict[int, float] = {}
        for n in [*stops, 1000]:
            torch.rand(disturbance)
            objective = Sampling()
            stop_after(n, train(objective, ADAM, {"a": 1}, stopped, SAVE_EVERY))
            drawn |= objective.drawn
        assert drawn == expected.drawn
        assert len(set(drawn.values())) == 24
        assert contents(stopped) == contents(straight_run)


def test_random_numbers_follow_from_the_configuration_and_leave_the_generator_where_it_was(tmp_path: Path) -> None:
    runs = [Sampling() for _ in range(3)]
    before = torch.get_rng_state()
    for i, (objective, seed) in enumerate(zip(runs, (0, 0, 1), strict=True)):
        finish(train(objective, ADAM, {"seed": seed}, tmp_path / str(i)))
    assert torch.equal(torch.get_rng_state(), before)
    assert runs[0].drawn == runs[1].drawn
    assert not set(runs[0].drawn.values()) & set(runs[2].drawn.values())


def test_the_generator_is_given_back_also_by_a_loss_that_fails(tmp_path: Path) -> None:
    objective = Sampling()
    objective.loss = lambda *_: 1 / 0 + torch.rand(1)  # type: ignore[method-assign]
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        finish(train(objective, ADAM, {}, tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------------------------------------------- best checkpoint


class Scripted:
    """The weight tells the number of steps taken; the accuracies are given."""

    batch_size = 1

    def __init__(self, accuracies: list[float], every: int) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.accuracies = accuracies
        self.validate_every = every
        self.n_steps = every * len(accuracies)

    def loss(self, step: int, rows: slice = ALL) -> torch.Tensor:  # noqa: ARG002
        assert round(self.module.weight.item() * 1000) == step, "a step was left out or taken twice"
        with torch.no_grad():
            self.module.weight += 1e-3
        return 0 * self.module.weight.sum()

    def validate(self) -> Estimate:
        step = round(self.module.weight.item() * 1000)
        return Estimate.from_half_width(self.accuracies[step // self.validate_every - 1] / 100, 0.01)

    def artifact(self, about: dict[str, Any]) -> Artifact:
        return Artifact("method", dict(self.module.state_dict()), about)


@given(
    accuracies=st.lists(st.sampled_from([0.0, 20.0, 20.5, 99.0]), min_size=1, max_size=5),
    every=st.integers(1, 3),
    stop=st.integers(1, 20),
)
def test_the_model_is_the_first_of_highest_validation_accuracy_also_when_resumed(
    accuracies: list[float], every: int, stop: int
) -> None:
    plain = Optimisation("sgd", weight_decay=0.0, schedule="constant")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        first = stop_after(stop, train(Scripted(accuracies, every), plain, {}, run, 2))
        rest = list(train(Scripted(accuracies, every), plain, {}, run, 2))
        tensors = load(run / "model.safetensors", "method").tensors
        best = accuracies.index(max(accuracies)) + 1
        assert round(tensors["weight"].item() * 1000) == best * every
        best_so_far = [e.accuracy.value for e in (*first, *rest) if isinstance(e, Validated) and e.best]
        assert best_so_far == sorted(set(best_so_far))


# ---------------------------------------------------------------------------------------------------- learning rates


@given(peak=st.floats(1e-5, 10), warmup=st.floats(0, 0.9), n_steps=st.integers(1, 400))
def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing(peak: float, warmup: float, n_steps: int) -> None:
    optimisation = Optimisation("sgd", peak, schedule="one-cycle", warmup=warmup)
    rates = [optimisation.learning_rate_at(step, n_steps) for step in range(n_steps)]
    warm = max(1, round(warmup * n_steps))
    assert max(rates) == pytest.approx(peak)
    assert rates[warm - 1] == pytest.approx(peak)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm - 1 :] == pytest.approx(sorted(rates[warm - 1 :], reverse=True))
    falling = n_steps - warm
    if falling > 1:
        assert rates[-1] <= peak * (math.pi / 2 / falling) ** 2
    steps_up = {round(b - a, 9) for a, b in pairwise(rates[:warm])}
    assert len(steps_up) <= 2  # a straight line, to rounding


@given(step=st.integers(0, 1000), n_steps=st.integers(1, 1000), rate=st.floats(1e-5, 10))
def test_a_constant_schedule_is_constant(step: int, n_steps: int, rate: float) -> None:
    assert Optimisation("adam", rate, schedule="constant").learning_rate_at(step, n_steps) == rate


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_every_step_is_taken_at_the_rate_of_its_schedule(optimiser: Any, tmp_path: Path) -> None:
    rates: list[float] = []

    @dataclass(frozen=True)
    class Watched(Optimisation):
        def build(self, parameters: Any) -> torch.optim.Optimizer:
            made = super().build(parameters)
            made.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
            return made

    optimisation = Watched(optimiser, 0.01, warmup=0.3)
    objective = CASES["sib"].make()
    stop_after(5, train(objective, optimisation, {}, tmp_path))
    finish(train(CASES["sib"].make(), optimisation, {}, tmp_path))
    assert rates == [optimisation.learning_rate_at(step, 11) for step in range(11)]


@pytest.mark.parametrize("rate", [0.0, -0.1, math.nan])
def test_an_impossible_learning_rate_is_refused(rate: float) -> None:
    with pytest.raises(SettingsError, match="learning_rate of Optimisation must be a number > 0"):
        Optimisation(learning_rate=rate)


def test_configurations_are_json() -> None:
    for config in (PretrainConfig(), MetaTrainConfig()):
        plain = dataclasses.asdict(config)
        written = json.dumps(plain)
        assert json.dumps(json.loads(written)) == written
