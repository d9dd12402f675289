"""Commands that are killed at random moments, and given again, end as if they had been left alone.

What comes between two events of the loop is in test_loop; here it is the whole command, start-up and all.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from helpers.features import contents, write_image_folder
from onelook.artifacts import load

pytestmark = pytest.mark.slow

N_KILLS = 20


@cache
def interrupt() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "interrupt.py"
    spec = importlib.util.spec_from_file_location("interrupt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["interrupt"] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a feature network that was left alone."""
    folder = tmp_path_factory.mktemp("kill")
    write_image_folder(folder / "images", {"train": (6, 50), "val": (5, 16)})
    for place in ("straight", "killed"):
        (folder / place).mkdir()
    return folder


def pretrain(folder: Path) -> list[str]:
    data = str(folder / "images")
    return [
        "pretrain",
        "--data",
        data,
        "--image-size",
        "16",
        "--batch-size",
        "2",
        "--epochs",
        "5",
        "--learning-rate",
        "0.05",
        "--out",
        "backbone",
    ]


@pytest.fixture(scope="module")
def backbone(folder: Path) -> tuple[Path, float]:
    """The model, and the seconds it took."""
    seconds = interrupt().undisturbed(pretrain(folder), folder / "straight")
    return folder / "straight" / "backbone" / "model.safetensors", seconds


def train(folder: Path, backbone: Path) -> list[str]:
    return [
        "train",
        "--data",
        str(folder / "images"),
        "--backbone",
        str(backbone),
        "--method",
        "sib",
        "--steps",
        "800",
        "--out",
        "method",
    ]


@pytest.fixture(scope="module")
def method(folder: Path, backbone: tuple[Path, float]) -> tuple[Path, float]:
    seconds = interrupt().undisturbed(train(folder, backbone[0]), folder / "straight")
    return folder / "straight" / "method" / "model.safetensors", seconds


def killed(arguments: list[str], folder: Path, out: str, seconds: float) -> set[bytes]:
    """The models that it ended with."""
    place = folder / "killed"
    done = interrupt().kill_again_and_again(arguments, place, place / out, N_KILLS, seconds, seed=1)
    assert len(done.moments) == N_KILLS
    return set(done.models)


def test_a_feature_network_of_a_pretraining_killed_20_times_is_the_same_to_the_byte(
    folder: Path, backbone: tuple[Path, float]
) -> None:
    model, seconds = backbone
    assert killed(pretrain(folder), folder, "backbone", seconds) == {model.read_bytes()}


def test_a_method_of_a_training_killed_20_times_is_the_same_to_the_byte(
    folder: Path, backbone: tuple[Path, float], method: tuple[Path, float]
) -> None:
    """Its features too are computed and kept on the way."""
    model, seconds = method
    assert killed(train(folder, backbone[0]), folder, "method", seconds) == {model.read_bytes()}


def test_a_method_of_images_killed_20_times_in_its_training_is_the_same_to_the_byte(
    folder: Path, backbone: tuple[Path, float]
) -> None:
    arguments = [
        "train",
        "--data",
        str(folder / "images"),
        "--backbone",
        str(backbone[0]),
        "--method",
        "maml:order=1",
        "--query",
        "5",
        "--steps",
        "160",
        "--tasks-per-step",
        "1",
        "--out",
        "images",
    ]
    seconds = interrupt().undisturbed(arguments, folder / "straight")
    model = folder / "straight" / "images" / "model.safetensors"
    assert killed(arguments, folder, "images", seconds) == {model.read_bytes()}


def test_a_training_interrupted_by_the_person_says_where_it_stopped_and_goes_on_from_there(
    folder: Path, backbone: tuple[Path, float], method: tuple[Path, float], tmp_path: Path
) -> None:
    arguments = train(folder, backbone[0])
    state = tmp_path / "method" / "state.safetensors"
    with interrupt().start(arguments, tmp_path) as process:
        while not state.exists():  # saved at step 500 first
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    step = load(state, "state").about["progress"]["step"]
    assert 500 <= step < 800
    assert f"Stopped at step {step:,} of 800; the same command goes on from here." in said
    assert "Traceback" not in said
    assert [name for name in contents(tmp_path) if name.endswith(".part")] == []
    interrupt().undisturbed(arguments, tmp_path)
    assert (tmp_path / "method" / "model.safetensors").read_bytes() == method[0].read_bytes()


def test_the_subprocesses_are_those_of_this_checkout() -> None:
    code = "import onelook, sys; sys.stdout.write(onelook.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert Path(found) == Path(__file__).parents[2] / "src" / "onelook" / "__init__.py"
