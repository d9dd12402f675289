"""Does a training that is killed again and again end as one that was left alone?

A pipeline of three commands on a folder of made-up images: `onelook pretrain`, `onelook train`, `onelook benchmark`.
First each command runs undisturbed. Then each is started again in a fresh place and killed (SIGKILL) at random
moments spread over its whole duration, start-up and last write included; after every kill the same command is
given once more. What comes out is compared byte by byte.

    python benchmarks/interrupt.py --json benchmarks/interrupt.json
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onelook.artifacts import load, load_results, read_kind, save_results
from onelook.machine import commit, machine

ONELOOK = (sys.executable, "-c", "from onelook.cli import main; main()")
TIMED = {"seconds", "memory_mb", "commit", "machine"}
"""What differs between two records of the same comparison."""


@dataclass
class Killed:
    """What was done to a command."""

    moments: list[float] = field(default_factory=list)
    """Seconds after the start, of each kill."""
    models: list[bytes] = field(default_factory=list)
    """What `model.safetensors` was, each time the command came to its end."""


def start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ONELOOK, *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ONELOOK_CACHE": str(folder / "cache")},
    )


def undisturbed(arguments: Sequence[str], folder: Path) -> float:
    """Run a command to its end; the seconds it took."""
    seconds = killed_after(None, arguments, folder)
    assert seconds is not None
    return seconds


def killed_after(moment: float | None, arguments: Sequence[str], folder: Path) -> float | None:
    """Start a command and kill it after so many seconds; if it came to its end before, the seconds it took."""
    started = time.perf_counter()
    with start(arguments, folder) as process:
        try:
            _, said = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
    if process.returncode:
        raise RuntimeError(f"onelook {' '.join(arguments)} ended with exit code {process.returncode}: {said}")
    return time.perf_counter() - started


def kill_again_and_again(
    arguments: Sequence[str], folder: Path, out: Path, n_kills: int, duration: float, seed: int
) -> Killed:
    """Kill a command `n_kills` times while it makes `out`, a file or folder; then let it come to its end.

    Where it ends between two kills, because it had little left to do, it begins anew: `out` is removed, and what it
    has computed for its cache too. The moments are one from each n-th of `duration`, in random order.
    """
    rng = random.Random(seed)
    shares = [(k + rng.random()) / n_kills for k in range(n_kills)]
    rng.shuffle(shares)
    done = Killed()
    for share in shares:
        anew = False
        while (seconds := killed_after(share * duration, arguments, folder)) is not None:
            done.models.append(model_in(out))
            duration = seconds if anew else duration  # the machine has become faster
            for path in (folder / "cache", out):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            anew = True
        done.moments.append(round(share * duration, 3))
    undisturbed(arguments, folder)
    done.models.append(model_in(out))
    return done


def model_in(out: Path) -> bytes:
    """The bytes of the model; none where the command makes no model."""
    path = out / "model.safetensors"
    return path.read_bytes() if path.exists() else b""


def history(model: Path) -> Any:
    return load(model, read_kind(model)).about["history"]


def results(file: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in TIMED} for record in load_results(file)]


def write_images(folder: Path, classes: dict[str, int], images_per_class: int, size: int) -> None:
    """PNG files as split/class/number, noise on the pattern of the class."""
    rng = np.random.default_rng(0)
    for split, n_classes in classes.items():
        for k in range(n_classes):
            place = folder / split / f"{k:03d}"
            place.mkdir(parents=True)
            pattern = rng.integers(0, 256, (size, size, 3))
            for i in range(images_per_class):
                noise = rng.integers(-160, 161, pattern.shape)
                Image.fromarray((pattern + noise).clip(0, 255).astype(np.uint8)).save(place / f"{i:03d}.png")


@dataclass(frozen=True)
class Step:
    """A command of the pipeline, what it makes, and its share of the kills."""

    arguments: tuple[str, ...]
    out: str
    kills: int


def pipeline(images: Path) -> tuple[Step, ...]:
    data = ("--data", str(images))
    backbone = ("--backbone", "backbone/model.safetensors")
    return (
        Step(
            (
                "pretrain",
                *data,
                "--image-size",
                "16",
                "--batch-size",
                "16",
                "--epochs",
                "12",
                "--learning-rate",
                "0.05",
                "--out",
                "backbone",
            ),
            "backbone",
            9,
        ),
        Step(("train", *data, *backbone, "--method", "sib", "--steps", "1500", "--out", "method"), "method", 8),
        Step(
            (
                "benchmark",
                *data,
                *backbone,
                "--methods",
                "feature-averaging,method/model.safetensors",
                "--shot",
                "1",
                "--tasks",
                "2000",
                "--json",
                "results.json",
            ),
            "results.json",
            3,
        ),
    )


def experiment(folder: Path, seed: int) -> dict[str, Any]:
    write_images(folder / "images", {"train": 16, "val": 6, "test": 6}, images_per_class=60, size=16)
    straight, killed = folder / "straight", folder / "killed"
    for place in (straight, killed):
        place.mkdir()
    started = time.perf_counter()
    done = []
    for i, step in enumerate(pipeline(folder / "images")):
        duration = undisturbed(step.arguments, straight)
        done.append(kill_again_and_again(step.arguments, killed, killed / step.out, step.kills, duration, seed + i))
    steps = pipeline(folder / "images")
    models = [f"{step.out}/model.safetensors" for step in steps[:2]]
    same = [all(m == model_in(straight / step.out) for m in k.models) for step, k in zip(steps, done, strict=True)]
    return {
        "experiment": "pretrain, train and benchmark, killed by SIGKILL at random moments and given again",
        "kills": sum(len(k.moments) for k in done),
        "moments": {step.arguments[0]: k.moments for step, k in zip(steps, done, strict=True)},
        "completions": {step.arguments[0]: len(k.models) for step, k in zip(steps, done, strict=True)},
        "identical_weights": all(same),
        "identical_history": all(history(straight / m) == history(killed / m) for m in models),
        "identical_results": results(straight / "results.json") == results(killed / "results.json"),
        "seconds": round(time.perf_counter() - started, 1),
        "machine": machine(),
        "commit": commit(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the record to")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = experiment(Path(folder), options.seed)
    if options.json:
        save_results([record], options.json)
    print(json.dumps(record, indent=2))
    if not (record["identical_weights"] and record["identical_history"] and record["identical_results"]):
        sys.exit("a killed run ended otherwise than one that was left alone")


if __name__ == "__main__":
    main()
