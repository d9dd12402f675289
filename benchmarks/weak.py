"""Glance beside classifiers of the labelled examples alone, on weak features of photographs.

    python benchmarks/weak.py --json benchmarks/weak.json

These are nearest class means, and logistic and ridge regression with penalties chosen by the examples, each left out.
The features are those of networks with noise in all directions or in few, and some without a network: histograms of
colours and gradients, and the pixels of small copies. Nothing was chosen by these figures. Cells that are done are not
made again.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from school import add_noise, add_nuisance, count_both, save, shrink

from onelook.artifacts import load_network, save_results
from onelook.benchmark.sources import open_features
from onelook.data.images import ImageSet
from onelook.data.sources import open_data
from onelook.events import finish
from onelook.experiments.transductive import INDUCTIVE, ProtocolsConfig, protocols
from onelook.machine import Place

SETS = ("clothing10", "dtd10", "signs10")
METHODS = ("glance", INDUCTIVE, "logistic-regression:tune=true", "ridge")
PROTOCOLS = ("balanced", "dirichlet:2")
N_TASKS = 200


def weaken(images: ImageSet, of_network: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weak features by the name of their kind. images: 32 × 32 pixels; of_network: their features by each network."""
    pixels = images.views[0].permute(0, 2, 3, 1).numpy()
    return {
        "lite-noisy": add_noise(of_network["lite"], 1),
        "lite-nuisance": add_nuisance(of_network["lite"], 1),
        "small-noisy": add_noise(of_network["small"], 1),
        "histograms": count_both(pixels),
        "pixels": shrink(pixels, 16),
    }


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
    networks, place = {one: finish(load_network(one))[0] for one in ("lite", "small")}, Place(precision="float32")
    records: list[dict[str, Any]] = []
    for name in options.sets.split(","):
        data = open_data(str(options.data / f"{name}.zip"))
        images = finish(data.images("all", 32, 3))
        features = {one: finish(data.embed("all", network, place)).features for one, network in networks.items()}
        for kind, x in weaken(images, {one: rows.numpy() for one, rows in features.items()}).items():
            file = options.out / f"{name}-{kind}.npz"
            save(x, images.labels, images.class_names, file)
            records += finish(protocols(config, open_features(file, None, 10), options.out, place))
            print(f"{name}, {kind} done", flush=True)
    if options.json:
        save_results(records, options.json)


if __name__ == "__main__":
    main()
