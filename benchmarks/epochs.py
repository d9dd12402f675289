"""What an epoch of pretraining costs: images a second of whole training steps, on one thread.

    python benchmarks/epochs.py --json benchmarks/epochs.json

The time is that of the processor, the smallest of three steps. Networks and sizes of images are those of the paper;
the images are made up, since their values decide nothing about the cost.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from onelook import backbones
from onelook.artifacts import save_results
from onelook.data.datasets import BENCHMARKS
from onelook.data.images import ImageSet
from onelook.machine import keep_freed_memory, provenance
from onelook.train.pretraining import PretrainConfig, Pretraining

CASES = {
    ("conv4-64", "cifar-fs"): 128,
    ("conv4-64", "mini-imagenet"): 128,
    ("conv4-128", "mini-imagenet"): 128,
    ("resnet12", "cifar-fs"): 64,
    ("resnet12", "mini-imagenet"): 16,
    ("wrn-28-10", "cifar-fs"): 16,
    ("wrn-28-10", "mini-imagenet"): 4,
}
"""Network and data -> images in a step: fewer where a step is long."""


def seconds_of_a_step(name: str, size: int, batch_size: int, precision: str) -> float:
    pixels = torch.randint(0, 256, (1, batch_size, 3, size, size), dtype=torch.uint8)
    labels, names = torch.arange(batch_size) % 64, tuple(map(str, range(batch_size)))
    images = ImageSet(pixels, labels, names[:64], names, (), "made up")
    config = PretrainConfig(batch_size=batch_size, precision=precision)
    work = Pretraining(name, backbones.create(name, 3, size), images, images, config)
    optimiser = config.optimisation.build(work.module.parameters())
    spent = []
    for step in range(3):
        start = time.process_time()
        optimiser.zero_grad()
        work.loss(step).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        spent.append(time.process_time() - start)
    return min(spent)


def measure(name: str, data: str, batch_size: int, precision: str) -> dict[str, Any]:
    facts = BENCHMARKS[data]
    seconds = seconds_of_a_step(name, facts.image_size, batch_size, precision)
    n_images = facts.splits["train"].images
    return {
        "experiment": "an epoch of pretraining",
        "backbone": name,
        "dataset": data,
        "precision": precision,
        "images_per_second": round(batch_size / seconds, 1),
        "epoch_minutes": round(n_images * seconds / batch_size / 60, 1),
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    torch.set_num_threads(1)
    keep_freed_memory()
    asked = [(*case, size, precision) for case, size in CASES.items() for precision in ("bfloat16", "float32")]
    save_results([measure(*one) for one in asked], parser.parse_args().json)


if __name__ == "__main__":
    main()
