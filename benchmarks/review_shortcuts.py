"""What the review page loses by answering quickly: by fewer unlabelled images at first, and by projected features.

    python benchmarks/review_shortcuts.py FOLDER_OF_CLASS_FOLDERS --json benchmarks/review-shortcuts.json

Users have all images and 3 labels of each class at random. Accuracy on all others, against the answer from all of them
with the features as the network made them, paired; in points, ± 95 %.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onelook import ImageFeatures
from onelook.artifacts import save_results
from onelook.labelling.answers import CLEARED
from onelook.machine import provenance
from onelook.server.relearning import DIMENSIONS, Pool, _project, learn

SHOTS = 3


def measure(name: str, features: np.ndarray, labels: np.ndarray, n_users: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pool = Pool.of(features, np.ones(len(features), bool))
    projected = replace(pool, features=_project(features))
    right: dict[str, list[float]] = {"all images": [], "part of the images": [], "projected": []}
    for _ in range(n_users):
        given = np.full(len(labels), CLEARED)
        for k in np.unique(labels):
            some = rng.choice(np.flatnonzero(labels == k), SHOTS, replace=False)
            given[some] = k
        others = given == CLEARED
        for what, answer in (
            ("all images", learn(pool, given, thorough=True)),
            ("part of the images", learn(pool, given)),
            ("projected", learn(projected, given, thorough=True)),
        ):
            right[what].append(100 * float((answer.predicted == labels)[others].mean()))
    exact = np.array(right.pop("all images"))
    found: dict[str, Any] = {"experiment": "Quick answers of the review page", "set": name, "images": len(labels)}
    found |= {
        "users": n_users,
        "labels_per_class": SHOTS,
        "dimensions": DIMENSIONS,
        "all images": round(float(exact.mean()), 2),
    }
    for what, values in right.items():
        difference = np.array(values) - exact
        found[what] = round(float(difference.mean()), 2)
        found[f"{what}, ci95"] = round(float(1.96 * difference.std(ddof=1) / n_users**0.5), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    records = []
    for folder in arguments.folders:
        paths = sorted(path for path in folder.glob("*/*") if path.is_file())
        names = [path.parent.name for path in paths]
        labels = np.unique(names, return_inverse=True)[1]
        features = np.asarray(ImageFeatures(network="lite").transform(paths), np.float32)
        records.append(measure(folder.name, features, labels, arguments.users) | provenance())
        print(records[-1])
    save_results(records, arguments.json)


if __name__ == "__main__":
    main()
