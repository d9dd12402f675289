"""Several processes take the steps that one takes, and only the first of them writes."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.features import one_sentence, random_embeddings, random_images, write_image_folder
from helpers.processes import do_together, torchrun
from helpers.trainings import network_file
from onelook import backbones, methods
from onelook.artifacts import load
from onelook.data.augment import Augmentation
from onelook.data.sampler import TaskSpec
from onelook.errors import ArtifactError, SettingsError
from onelook.events import finish
from onelook.methods import Glance
from onelook.tasks import Embeddings
from onelook.train import processes
from onelook.train.episodes import EpisodicPretraining, ImageMetaTraining, MetaTrainConfig, MetaTraining
from onelook.train.loop import Objective, train
from onelook.train.mixed import MixedConfig, MixedTraining
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import PretrainConfig, Pretraining
from onelook.train.teacher import CosineClassifier, Teacher

SGD = Optimisation("sgd", learning_rate=1e-3, schedule="constant", clip_norm=1.0)
FAST = Optimisation("sgd", learning_rate=0.1)
SPEC = TaskSpec(n_way=3, n_shot=1, n_query=3)


def features(seed: int, n_classes: int = 5, images_per_class: int = 6, noise: float = 0.7) -> Embeddings:
    made = random_embeddings(n_classes, images_per_class, n_views=1, seed=seed, noise=noise)
    return replace(made, views=made.views.float())  # float64, where `in_float64` is used


def sib(n_steps: int = 5) -> Objective:
    torch.manual_seed(0)
    method = methods.create("sib", feature_size=6, n_way=3, step_size=1e-3)
    config = MetaTrainConfig(n_steps, 5, SPEC, SGD, n_steps, 20)
    return MetaTraining(method, features(1), features(2, noise=1.5), config)


def mixed() -> Objective:
    torch.manual_seed(0)
    config = MixedConfig(5, 5, ways=(3,), shots=(1,), totals=(7,), unknown=1.0, n_validation_tasks=2)
    return MixedTraining(Glance(), [features(1)], [features(2, images_per_class=20)], config)


def network() -> backbones.Backbone:
    torch.manual_seed(0)
    return backbones.create("conv4-64", 3, 16)


def pretraining(epochs: int = 2) -> Objective:
    config = PretrainConfig(
        epochs, 9, Augmentation(crop_padding=1), FAST, "float32", 0.5, 10_000, n_validation_tasks=10, mixup=2.0
    )
    teacher = Teacher(network(), CosineClassifier(64, 5, torch.Generator().manual_seed(0)))
    return Pretraining("conv4-64", network(), random_images(5, 5), random_images(5, 16, seed=1), config, teacher)


def end_to_end() -> Objective:
    method = methods.EndToEnd(network(), methods.create("prototypical", feature_size=64))
    config = MetaTrainConfig(4, 4, SPEC, FAST, 4, 10)
    images = random_images(3, 4), random_images(5, 4, seed=1)
    return ImageMetaTraining(method, *images, config, Augmentation(crop_padding=1), "float32")


def episodes() -> Objective:
    method, config = methods.create("prototypical", feature_size=64), MetaTrainConfig(4, 4, SPEC, FAST, 4, 10)
    images = random_images(3, 4), random_images(5, 4, seed=1)
    return EpisodicPretraining("conv4-64", network(), method, *images, config, "float32")


CASES: dict[str, Callable[[], Objective]] = {
    "a method": sib,
    "tasks with queries of no class": mixed,
    "batch normalisation, mixup, rotations and a teacher": pretraining,
    "images in tasks": end_to_end,
    "episodes": episodes,
}
WITH_PARTNERS = "batch normalisation, mixup, rotations and a teacher"


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding is too small there to grow to anything in a few hundred steps."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def run(make: Callable[[], Objective], optimisation: Optimisation, folder: Path) -> None:
    objective = make()
    if torch.Tensor.float is torch.Tensor.double:
        objective.module.double()
        if (teacher := getattr(objective, "teacher", None)) is not None:
            teacher.backbone.double()
            teacher.classifier.double()
    finish(train(objective, optimisation, {}, folder))


def distance(one: Path, other: Path) -> float:
    """Largest difference of weights and statistics after the last step."""
    first, second = (load(folder / "state.safetensors", "state").tensors for folder in (one, other))
    assert first.keys() == second.keys()
    names = [name for name, x in first.items() if name.startswith("last.") and x.is_floating_point()]
    return max(float((first[name] - second[name]).abs().max()) for name in names)


def compare(make: Callable[[], Objective], optimisation: Optimisation, count: int, folder: Path) -> float:
    run(make, optimisation, folder / "alone")
    do_together(count, run, make, optimisation, folder / "together")
    return distance(folder / "alone", folder / "together")


@pytest.mark.parametrize("case", [case for case in CASES if case != WITH_PARTNERS])
def test_the_mean_over_all_parts_is_the_loss(case: str) -> None:
    objective = CASES[case]()
    objective.module.eval()
    parts = (slice(0, 2), 2), (slice(2, objective.batch_size), objective.batch_size - 2)
    mean = sum(n * objective.loss(1, rows).item() for rows, n in parts) / objective.batch_size
    assert mean == pytest.approx(objective.loss(1).item(), rel=1e-5)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    ("case", "count"),
    [(WITH_PARTNERS, 2), *(pytest.param(case, n, marks=pytest.mark.slow) for case in CASES for n in (2, 3))],
)
def test_processes_end_where_one_does(case: str, count: int, tmp_path: Path) -> None:
    assert compare(CASES[case], FAST, count, tmp_path) <= 1e-10


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
def test_a_feature_network_is_that_of_one_process_after_200_steps(tmp_path: Path) -> None:
    assert compare(lambda: pretraining(100), FAST, 2, tmp_path) <= 1e-9


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
def test_a_method_is_that_of_one_process_after_200_steps(tmp_path: Path) -> None:
    assert compare(lambda: sib(200), SGD, 2, tmp_path) <= 1e-5


def refuse(folder: Path) -> None:
    module = torch.nn.Linear(1, 1)
    processes.begin(module, 7, folder)
    with pytest.raises(ArtifactError, match="after step 0 and after step 2") as error:
        processes.begin(module, torch.distributed.get_rank(), folder)
    one_sentence(error.value)
    with pytest.raises(SettingsError) as small:
        processes.own_part(2)
    assert "batch of 2" in one_sentence(small.value)


@pytest.mark.slow
def test_what_cannot_be_done_together_is_refused_by_all(tmp_path: Path) -> None:
    do_together(3, refuse, tmp_path)


def step() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    processes.add_gradients([parameter])
    torch.optim.SGD([parameter]).step()
    importlib.import_module("torch.distributed.nn")  # as the first step of an optimiser does


def test_no_thread_of_a_group_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.distributed.nn")]:
        monkeypatch.delitem(sys.modules, name)  # as in a process that has just begun
    do_together(2, step)


def lose() -> None:
    processes.wait()
    if not processes.is_first():
        os._exit(0)
    with pytest.raises(processes.LostProcess, match="another process is lost"):
        processes.wait()


def test_a_process_notices_that_another_one_has_ended() -> None:
    do_together(2, lose)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_image_folder(folder / "images", {"train": (6, 50), "val": (5, 16)})
    network_file(folder / "network.safetensors")
    return folder


TRAIN = ["train", "--data", "images", "--backbone", "network.safetensors", "--method", "sib:recipe=published"]


def workers_of(launcher: int) -> list[int]:
    """Processes that torchrun has started, in the order of their ranks."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(int(child) for child in children)


def finished(words: list[str], folder: Path) -> tuple[str, str]:
    with torchrun(words, folder) as launcher:
        said, complained = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, complained
    return said, complained


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the processes in /proc")
def test_a_command_of_which_any_process_was_killed_gives_the_same_to_the_byte(folder: Path) -> None:
    words = [*TRAIN, "--steps", "1500"]
    said, complained = finished([*words, "--out", "together"], folder)
    assert said.count(": method sib,") == said.count("best on validation") == 1  # the first process alone speaks
    assert complained.count("step 1,500 of 1,500") == 1
    for victim in (0, 1):
        out = f"killed-{victim}"
        state = folder / out / "state.safetensors"
        with torchrun([*words, "--out", out], folder) as launcher:
            while not state.exists():  # saved at step 500 first
                assert launcher.poll() is None
                workers = workers_of(launcher.pid)
                time.sleep(0.01)
            os.kill(workers[victim], signal.SIGKILL)
            _, complained = launcher.communicate(timeout=60)
        assert launcher.returncode != 0
        reasons = "another process is lost (", "torchrun ends it;"  # whichever the other one notices first
        assert victim == 0 or sum(complained.count(f"Stopped at once, as {reason}") for reason in reasons) == 1
        assert load(state, "state").about["progress"]["step"] in (500, 1000)
        finished([*words, "--out", out], folder)
        models = [(folder / run / "model.safetensors").read_bytes() for run in (out, "together")]
        assert models[0] == models[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the processes in /proc")
def test_an_interrupted_command_saves_the_step_that_all_have_taken(folder: Path) -> None:
    words = [*TRAIN, "--steps", "20000", "--out", "interrupted"]
    state = folder / "interrupted" / "state.safetensors"
    with torchrun(words, folder) as launcher:
        while not state.exists():
            assert launcher.poll() is None
            time.sleep(0.01)
        for process in (*workers_of(launcher.pid), launcher.pid):  # as a terminal does
            os.kill(process, signal.SIGINT)
        _, complained = launcher.communicate(timeout=60)
    assert complained.count("Stopped at step ") == 1
    step = load(state, "state").about["progress"]["step"]
    assert f"Stopped at step {step:,} of 20,000; the same command goes on from here." in complained
