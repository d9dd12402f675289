"""What raises the features: training and averaging, one option at a time.

    python benchmarks/features.py --networks runs/features --json benchmarks/features.json

The networks are those that the commands in benchmarks/README.md make, all in 20 epochs. Validation classes of CIFAR-FS,
since the recipe is chosen by them, queries in Dirichlet(2) proportions. All rows meet the same tasks; in brackets the
paired difference to the first row.
"""

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from onelook.artifacts import load_backbone, load_shipped, save_results
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import open_data
from onelook.events import finish
from onelook.machine import Place, commit, machine
from onelook.methods import Method
from onelook.scoring import Estimate, paired, task_accuracies
from onelook.train.recipes import build, parse_request

ROWS = (
    ("plain", "none"),
    ("plain", "mirror"),
    ("plain", "crops:4"),
    ("plain", "mirror+crops:4"),
    ("rotation", "none"),
    ("rotation", "mirror"),
    ("mixup", "none"),
    ("distilled", "none"),
    ("averaged", "none"),
)
PROTOCOL = "dirichlet:2"
PLACE = Place()


def methods() -> dict[str, Method]:
    nearest = build(parse_request("prototypical:transform=l2n"), TaskSpec())
    return {"nearest class mean": nearest, "Glance": load_shipped("glance")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    first: dict[tuple[str, int], Tensor] = {}
    records: list[dict[str, Any]] = []
    for name, average in ROWS:
        network, _ = load_backbone(options.networks / name / "model.safetensors")
        data = finish(open_data("cifar-fs").embed("val", network, PLACE, average=average))
        record: dict[str, Any] = {"experiment": f"features: {name}, averaged: {average}"}
        for label, method in methods().items():
            for shot in (1, 5):
                sampler = TaskSampler(data, TaskSpec(n_shot=shot, protocol=PROTOCOL))
                found = finish(task_accuracies(method, sampler, options.tasks))
                to = paired(found, first.setdefault((label, shot), found))
                record[f"{label}, {shot}-shot"] = f"{Estimate.from_values(found).plus_minus()} ({to.plus_minus('+')})"
        records.append(
            record
            | {
                "split": "val",
                "protocol": PROTOCOL,
                "n_tasks": options.tasks,
                "seed": 0,
                "commit": commit(),
                "machine": machine(),
            }
        )
        print(record, flush=True)
    if options.json:
        save_results(records, options.json)


if __name__ == "__main__":
    main()
