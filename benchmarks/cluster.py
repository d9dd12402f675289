"""Labels by Ray on this machine beside those of one process; writes benchmarks/cluster.json.

    python benchmarks/cluster.py [--network NETWORK] [--run RUN] ...

RUN: alone (one process, as `onelook label`), or a number of workers. Images are generated, 160 × 160 pixels, of 20
classes: many for `small`, which takes less time for them than Ray to start, and some for `lite`, which takes more.
Each run is a process of its own and begins without cached features. The seconds before features are those of listing
and of starting Ray; those of features, as far as events tell them, hold the start of the workers. `alone` comes first,
as the labels of the others are compared with its own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onelook.cluster.labelling import label_shards
from onelook.cluster.session import Cluster
from onelook.data.addresses import Store
from onelook.data.tables import read_rows
from onelook.events import Progress, finish
from onelook.files import write_atomically
from onelook.labelling.label import LabelConfig, label_folder
from onelook.machine import Place, commit, machine

OUT = Path(__file__).parent / "cluster.json"
PLACE = Path(tempfile.gettempdir()) / "onelook-cluster"
RUNS = ("alone", "1", "2", "4")
N_WAY, N_SHOT = 20, 5
N_IMAGES = {"small": 6_000, "lite": 1_200}
"""For each network."""
N_SHARDS = 24


def make_images(folder: Path, n_images: int) -> None:
    draw = np.random.default_rng(0)
    looks = draw.integers(0, 256, (N_WAY, 8, 8, 3))

    def write(path: Path, label: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (looks[label] + draw.normal(0, 90, (8, 8, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((160, 160), Image.Resampling.BICUBIC).save(path, quality=90)

    for label in range(N_WAY):
        for i in range(N_SHOT):
            write(folder / f"class {label:02d}" / f"{i}.jpg", label)
    for i in range(n_images):
        write(folder / "new" / f"{i:05d}.jpg", int(draw.integers(N_WAY)))


def run(name: str, network: str, folder: Path) -> dict[str, Any]:
    """Label all images, and return how long each stage took and the labels."""
    began, stages = time.perf_counter(), dict[str, list[float]]()

    def watch(event: Any) -> None:
        if isinstance(event, Progress):
            stages.setdefault(event.stage, []).append(time.perf_counter() - began)

    config, place = LabelConfig(folder, network=network), Place(PLACE / "cache", device="cpu", precision="float32")
    shutil.rmtree(PLACE / "cache", ignore_errors=True)
    if name == "alone":
        done = finish(label_folder(config, place), watch)
        labels = {one.path: (one.label, one.probability) for one in done.predictions}
    else:
        out = PLACE / f"out-{name}"
        shutil.rmtree(out, ignore_errors=True)
        cluster = Cluster("local", workers=int(name), shard_size=N_IMAGES[network] // N_SHARDS)
        finish(label_shards(config, place, cluster, Store(str(out))), watch)
        rows = [row for file in sorted((out / "labels").glob("*.parquet")) for _, row in read_rows(file).rows]
        labels = {row["path"]: (row["label"], row["probability"]) for row in rows}
        assert len(rows) == len(labels) == N_IMAGES[network], "an image was lost, or there is one twice"
    end = time.perf_counter() - began
    of_features = stages["computing features"]
    record = {
        "seconds": round(end, 1),
        "seconds_before_features": round(min(of_features), 1),
        "seconds_of_features": round(max(of_features) - min(of_features), 1),
        "seconds_after_features": round(end - max(of_features), 1),
    }
    return {"record": record, "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="small", choices=N_IMAGES)
    parser.add_argument("--run", action="append", default=[], choices=RUNS)
    parser.add_argument("--here", action="store_true", help="measure in this process")
    arguments = parser.parse_args()
    network: str = arguments.network
    folder = PLACE / f"images-{network}"
    if not folder.exists():
        make_images(folder, N_IMAGES[network])
    if arguments.here:
        found = run(arguments.run[0], network, folder)
        (PLACE / f"{arguments.run[0]}-{network}.json").write_text(json.dumps(found))
        return
    for name in arguments.run or RUNS:
        subprocess.run([sys.executable, __file__, "--here", "--network", network, "--run", name], check=True)
        found, alone = (json.loads((PLACE / f"{one}-{network}.json").read_text()) for one in (name, "alone"))
        pairs = [(found["labels"][path], alone["labels"][path]) for path in alone["labels"]]
        about = {
            "experiment": "cluster",
            "run": name,
            "images": N_IMAGES[network],
            "classes": N_WAY,
            "network": network,
            "cores": os.cpu_count(),
            "equal_labels": sum(one[0] == other[0] for one, other in pairs) / len(pairs),
            "largest_difference_of_probabilities": max(abs(one[1] - other[1]) for one, other in pairs),
        }
        new = about | found["record"] | {"commit": commit(), "machine": machine()}
        records = [
            one for one in (json.loads(OUT.read_text()) if OUT.exists() else []) if place_of(one) != place_of(new)
        ]
        records = sorted([*records, new], key=place_of)
        write_atomically(OUT, (json.dumps(records, indent=1) + "\n").encode())
        print(new, flush=True)


def place_of(record: dict[str, Any]) -> tuple[int, int]:
    """Place of a record in the file."""
    return list(N_IMAGES).index(record["network"]), RUNS.index(record["run"])


if __name__ == "__main__":
    main()
