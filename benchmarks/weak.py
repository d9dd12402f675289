"""Glance beside classifiers of the labelled examples alone, on weak features of photographs.

    python benchmarks/weak.py --json benchmarks/weak.json

These are nearest class means, and logistic and ridge regression with penalties chosen by the examples, each left out.
The features are those of networks with noise in all directions or in few, and some without a network: histograms of
colours and gradients, and the pixels of small copies. Nothing was chosen by these figures. Cells that are done are not
made again.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from school import add_noise, add_nuisance, count_colours, count_gradients, resize

from onelook.artifacts import load_network, save_results
from onelook.benchmark.sources import open_features
from onelook.data.sources import open_data
from onelook.data.vectors import save_features
from onelook.events import finish
from onelook.experiments.transductive import INDUCTIVE, ProtocolsConfig, protocols
from onelook.machine import Place
from onelook.tasks import Embeddings

SETS = ("clothing10", "dtd10", "signs10")
METHODS = ("glance", INDUCTIVE, "logistic-regression:tune=true", "ridge")
PROTOCOLS = ("balanced", "dirichlet:2")
N_TASKS = 200


def weaken(file: Path) -> Iterator[tuple[str, Embeddings]]:
    """Each kind of features of a zip of class folders, by its name."""
    data, place = open_data(str(file)), Place(precision="float32")
    of_network = {
        name: finish(data.embed("all", finish(load_network(name))[0], place)).views[0].numpy()
        for name in ("lite", "small")
    }
    images = finish(data.images("all", 32, 3))
    pixels = images.views[0].permute(0, 2, 3, 1).numpy()
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "lite-noisy": lambda: add_noise(of_network["lite"], 1),
        "lite-nuisance": lambda: add_nuisance(of_network["lite"], 1),
        "small-noisy": lambda: add_noise(of_network["small"], 1),
        "histograms": lambda: np.hstack([count_colours(pixels), count_gradients(pixels)]),
        "pixels": lambda: resize(pixels, 16).reshape(len(pixels), -1) / 255 - 0.5,
    }
    for kind, make in kinds.items():
        rows = torch.from_numpy(np.ascontiguousarray(make(), dtype=np.float32))[None]
        yield kind, Embeddings(rows, images.labels, images.class_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("ONELOOK_DATA", ".")), help="folder of the zips"
    )
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--tasks", type=int, default=N_TASKS)
    parser.add_argument("--out", type=Path, default=Path("runs/weak"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = ProtocolsConfig(
        METHODS, protocols=PROTOCOLS, ways=(10,), shots=(1, 3, 5, 16), n_query=10, n_tasks=options.tasks
    )
    options.out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for name in options.sets.split(","):
        for kind, features in weaken(options.data / f"{name}.zip"):
            file = options.out / f"{name}-{kind}.npz"
            save_features(features, file)
            records += finish(protocols(config, open_features(file, None, 10), options.out, Place()))
            print(f"{name}, {kind} done", flush=True)
    if options.json:
        save_results(records, options.json)


if __name__ == "__main__":
    main()
