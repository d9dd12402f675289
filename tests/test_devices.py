"""Everything that computes does so where it is told, and gives there what the CPU gives.

The second device of these tests is that of `helpers.elsewhere`, or CUDA where there is one.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.elsewhere import ELSEWHERE, place_elsewhere, second_device
from helpers.features import random_embeddings, random_images
from helpers.images import class_image, classes, divided, write_files, write_zip
from helpers.methods import CASES, method_for, random_tasks, suited
from helpers.trainings import shorten_trainings
from onelook import backbones
from onelook.artifacts import BUILT_IN, load, load_network, read_kind
from onelook.benchmark.compare import make_entry
from onelook.benchmark.measure import measure
from onelook.benchmark.sources import open_features
from onelook.data.embed import EmbedConfig, embed
from onelook.data.sampler import TaskSpec
from onelook.data.vectors import save_features
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import finish
from onelook.labelling.label import LabelConfig, label_folder
from onelook.machine import Place
from onelook.methods import Method
from onelook.train import jobs
from onelook.train.pretraining import PretrainConfig
from onelook.train.recipes import parse_request

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
JOINED = "small+lite0"
QUICK = ("glance", "maml", "sib", "tim", "conv4-64", JOINED)
"""Methods and networks that stand for the others in the quick tests."""
IDS = [" ".join([name, *(f"{key}={value}" for key, value in settings.items())]) for name, settings in CASES]


@pytest.fixture
def elsewhere() -> Iterator[torch.device]:
    with second_device() as device:
        yield device


def compute(method: Method, device: torch.device | str, **random: Any) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradient of the loss, of the same tasks on any device."""
    tasks = random["tasks"].to(device)
    own = copy.deepcopy(method).to(device)
    parameters = [one for one in own.parameters() if one.requires_grad]
    logits = own(tasks)
    assert logits.device.type == torch.device(device).type == own.device.type
    if parameters:
        torch.manual_seed(0)
        own.loss(tasks).backward()
    return logits.detach().cpu(), [one.grad.cpu() for one in parameters if one.grad is not None]


def made(name: str, settings: dict[str, Any]) -> tuple[Method, Any]:
    tasks = suited(name, random_tasks(2, (2, 2, 2), 6, balanced=True))
    return method_for(tasks, name, **settings), tasks


def sparing(names: list[str]) -> list[Any]:
    """Marks of cases, of which most are slow together."""
    return [() if name in QUICK and name not in names[:i] else pytest.mark.slow for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(*case, marks=marks, id=name)
        for case, marks, name in zip(CASES, sparing([name for name, _ in CASES]), IDS, strict=True)
    ],
)
def test_every_method_answers_and_learns_on_another_device_as_on_the_cpu(name: str, settings: dict[str, Any]) -> None:
    method, tasks = made(name, settings)
    logits, gradients = compute(method, "cpu", tasks=tasks)
    with second_device() as device:
        there, found = compute(method, device, tasks=tasks)
    torch.testing.assert_close(there, logits)
    torch.testing.assert_close(found, gradients)


@pytest.mark.slow
@cuda
@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_every_method_answers_on_cuda_as_on_the_cpu(name: str, settings: dict[str, Any]) -> None:
    method, tasks = made(name, settings)
    torch.testing.assert_close(
        compute(method, "cuda", tasks=tasks)[0], compute(method, "cpu", tasks=tasks)[0], rtol=1e-5, atol=1e-5
    )


def features(network: backbones.Backbone, device: torch.device | str, precision: str = "float32") -> Tensor:
    images = random_images(2, 3, size=network.image_size, channels=network.channels)
    return finish(embed(images, copy.deepcopy(network).to(device), EmbedConfig(precision=precision))).features


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(one, marks=() if one in QUICK else pytest.mark.slow)
        for one in (*backbones.BACKBONES, "small+lite0")
    ],
)
def test_every_network_computes_on_another_device_what_it_does_on_the_cpu(name: str) -> None:
    network = (
        backbones.create(name, image_size=16).eval() if name in backbones.BACKBONES else finish(load_network(name))[0]
    )
    expected = features(network, "cpu")
    with second_device() as device:
        assert network.to(device).digest() == network.to("cpu").digest()
        torch.testing.assert_close(features(network, device), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@cuda
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_networks_that_come_along_compute_on_cuda_what_they_do_on_the_cpu(name: str) -> None:
    network = finish(load_network(name))[0]
    torch.testing.assert_close(features(network, "cuda"), features(network, "cpu"), rtol=0.02, atol=0.02)


def label(folder: Path, place: Place) -> FewShotClassifier:
    return finish(label_folder(LabelConfig(folder, network="small"), place)).classifier


def assert_labels_alike(tmp_path: Path, place: Place, tolerance: float) -> None:
    files = classes(2, 3) | {f"{k}-{i}.png": class_image(k, 40 + i) for k in range(2) for i in range(4)}
    folder = write_files(tmp_path / "images", files)
    here = label(folder, Place(tmp_path / "here", None, "float32", "cpu"))
    there = label(folder, replace_cache(place, tmp_path / "there"))
    np.testing.assert_allclose(there.transduction_proba_, here.transduction_proba_, atol=tolerance)
    assert there.verdict_ is not None
    assert there.verdict_.trust.device.type == "cpu"
    there.save(tmp_path / "saved.safetensors")
    assert FewShotClassifier.load(tmp_path / "saved.safetensors").get_params()["device"] == "cpu"


def replace_cache(place: Place, cache: Path) -> Place:
    object.__setattr__(place, "cache", cache)
    return place


@pytest.mark.slow
def test_a_folder_is_labelled_on_another_device_as_on_the_cpu(
    tmp_path: Path, elsewhere: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onelook.estimators.classifier.find_device", str)
    used: list[str] = []
    monkeypatch.setattr(nn.Module, "to", _noting(nn.Module.to, used))
    assert_labels_alike(tmp_path, place_elsewhere(), 1e-6)
    assert used.count(elsewhere.type) >= 2  # the network, and Glance


def _noting(to: Any, used: list[str]) -> Any:
    def move(module: nn.Module, *where: Any, **more: Any) -> nn.Module:
        used.extend(map(str, where))
        return to(module, *where, **more)  # type: ignore[no-any-return]

    return move


@pytest.mark.slow
@cuda
def test_a_folder_is_labelled_on_cuda_as_on_the_cpu(tmp_path: Path) -> None:
    assert_labels_alike(tmp_path, Place(tmp_path / "cache", None, "float32", "cuda"), 0.02)


def train_all(folder: Path, place: Place) -> dict[str, Tensor]:
    """Weights after pretraining, after meta-training on features and after training end to end."""
    data = str(write_zip(folder / "sets.zip", divided(6, 20)))
    config = PretrainConfig(
        epochs=1, batch_size=32, precision=place.precision, rotation_weight=1.0, mixup=2.0, n_validation_tasks=2
    )
    network = finish(jobs.pretrain(data, "conv4-64", config, folder / "network", place, 16))
    spec = TaskSpec(n_way=2, n_query=2)
    taught = finish(jobs.pretrain(data, "conv4-64", config, folder / "pupil", place, 16, network))
    method = finish(jobs.meta_train(data, network, parse_request("sib"), spec, folder / "method", place, 2))
    episodes = jobs.end_to_end(spec, 2, 1)
    whole = finish(jobs.meta_train_images(data, network, parse_request("sib"), episodes, folder / "whole", place))
    found = {}
    for path in (network, taught, method, whole):
        found |= {f"{path.parent.name} {key}": x for key, x in load(path, read_kind(path)).tensors.items()}
    return found


@pytest.mark.slow
def test_training_on_another_device_gives_the_weights_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_trainings(monkeypatch)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    expected = train_all(tmp_path / "here", Place(tmp_path / "here", None, "float32", "cpu"))
    with second_device():
        found = train_all(tmp_path / "there", place_elsewhere(tmp_path / "there"))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)


def test_methods_are_compared_on_another_device(tmp_path: Path) -> None:
    save_features(random_embeddings(8, 12, 16, n_views=1), tmp_path / "x.npz")
    source, spec = open_features(tmp_path / "x.npz", None, 3), TaskSpec(n_way=3, n_query=3)
    found = []
    for place in (Place(tmp_path, None, "float32", "cpu"), place_elsewhere(tmp_path)):
        with second_device():
            entry = finish(make_entry(parse_request("tim"), spec, source, place))
            assert entry.method.device.type == place.device
            found.append(finish(measure(entry, source.test, spec, 4)).accuracies)
    assert torch.equal(*found)


def test_the_second_device_refuses_what_an_accelerator_refuses(elsewhere: torch.device) -> None:
    x = torch.ones(3, requires_grad=True).to(elsewhere)
    assert (x + 1).device == ELSEWHERE
    for wrong in (
        lambda: x + torch.ones(3),
        lambda: torch.cat([x, torch.zeros(1)]),
        lambda: torch.where(torch.ones(3) > 0, x, x),
        lambda: x.new_zeros(3) @ torch.arange(3.0),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        x.detach().numpy()
