"""Time and memory of FewShotClassifier by the size of the pool; writes benchmarks/scale.json.

    python benchmarks/scale.py [--cell ROWS,SIZE,WAYS] ...
    python benchmarks/scale.py --whole [--data FOLDER]

Pools are mixtures of Gaussian classes, whose features lie in a file that is mapped into memory. Each cell is a process
of its own, so that its peak memory is its own; features in memory that belong to the file are counted too. A cell that
was measured is measured again only if it is named. On a machine that does other things as well, the seconds of the
processor are what to compare.

--whole writes benchmarks/whole.json: the accuracy of the answers to pools that are too large to be answered as a whole,
beside that of the answer as a whole, on the same pools. The harder ones are mixtures whose classes overlap, and the
features of the validation images of CIFAR-FS by the network that comes along, where --data names the folder of sets.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from onelook.artifacts import SMALL, load_network
from onelook.data import forecast
from onelook.data.sources import open_data
from onelook.estimators import pool as pools
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Forecast, finish
from onelook.files import write_atomically
from onelook.machine import Place, commit, keep_freed_memory, machine
from onelook.scoring import paired

OUT = Path(__file__).parent / "scale.json"
N_SHOT = 5
CELLS = [(rows, size, 20) for size in (64, 768) for rows in (10_000, 30_000, 100_000, 300_000, 1_000_000)]
CELLS.append((1_000_000, 768, 1_000))
WHOLE = Path(__file__).parent / "whole.json"
MIXTURES = [(3_000, 2.0), (10_000, 2.0), (10_000, 2.6), (16_000, 2.0), (16_000, 2.6), (30_000, 2.0), (30_000, 2.6)]
"""Rows, and the standard deviation of the noise where centres have one of 1 in each of 64 dimensions."""


def draw(
    rows: int, size: int, n_way: int, file: Path, seed: int = 0, noise: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write the pool, and return its labels and the labelled examples with theirs. noise: for 64 dimensions."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((n_way, size), dtype=np.float32)
    noise = np.float32(noise * (size / 64) ** 0.25)
    pool = np.lib.format.open_memmap(file, "w+", np.float32, (rows, size))
    labels = random.integers(n_way, size=rows)
    for start in range(0, rows, 10_000):
        some = labels[start : start + 10_000]
        pool[start : start + 10_000] = centres[some] + noise * random.standard_normal((len(some), size), np.float32)
    pool.flush()
    known = np.repeat(np.arange(n_way), N_SHOT)
    return labels, centres[known] + noise * random.standard_normal((len(known), size), np.float32), known


def measure_cell(rows: int, size: int, n_way: int) -> dict[str, object]:
    """Fit one pool, and add a class to it."""
    forecast.ANNOUNCED = 0  # any forecast counts here
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pool.npy"
        labels, x, y = draw(rows, size, n_way, file)
        pool, first = np.load(file, mmap_mode="r"), y < n_way - 1
        FewShotClassifier().fit(x[first], y[first], x[:50])  # what is read once
        start, worked = time.perf_counter(), time.process_time()
        said = list[object]()
        classifier = finish(FewShotClassifier().fit_with_events(x, y, unlabeled=pool), said.append)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        record: dict[str, object] = {
            "rows": rows,
            "size": size,
            "classes": n_way,
            "seconds": round(seconds, 2),
            "processor_seconds": round(worked, 2),
            "peak_gib": round(peak, 2),
        }
        for one in said:
            if isinstance(one, Forecast):
                record |= {"forecast_seconds": round(one.seconds, 1), "forecast_gib": round(one.n_bytes / 2**30, 2)}
        record |= {
            "accuracy": round(100 * float((classifier.transduction_ == labels).mean()), 2),
            "inductive": round(100 * float((classifier.inductive_ == labels).mean()), 2),
        }
        if rows == CELLS[0][0]:
            classifier.fit(x[first], y[first], unlabeled=pool)
            start, worked = time.perf_counter(), time.process_time()
            classifier.add_examples(x[~first], y[~first])
            record["seconds_to_add_a_class"] = round(time.perf_counter() - start, 2)
            record["processor_seconds_to_add_a_class"] = round(time.process_time() - worked, 2)
    return record


def compare_with_whole(draw_pool: Callable[[int], tuple[np.ndarray, ...]], n_pools: int) -> dict[str, object]:
    """Answers to each pool as it is, and as a whole."""
    right, differ = [], []
    for seed in range(n_pools):
        x, y, pool, labels = draw_pool(seed)
        sampled = FewShotClassifier().fit(x, y, unlabeled=pool).transduction_
        limits = pools.LARGEST_WHOLE, pools.BLOCK
        pools.LARGEST_WHOLE = pools.BLOCK = len(pool)
        whole = FewShotClassifier().fit(x, y, unlabeled=pool).transduction_
        pools.LARGEST_WHOLE, pools.BLOCK = limits
        right.append([(sampled == labels).mean(), (whole == labels).mean()])
        differ.append((sampled != whole).mean())
    here, whole = torch.tensor(right).T
    apart = paired(here, whole)
    return {
        "rows": len(pool),
        "size": pool.shape[1],
        "classes": len(set(y)),
        "n_pools": n_pools,
        "accuracy": round(100 * here.mean().item(), 2),
        "accuracy_whole": round(100 * whole.mean().item(), 2),
        "difference": round(100 * apart.value, 3),
        "ci95": round(100 * apart.half_width, 3),
        "answers_that_differ": round(100 * float(np.mean(differ)), 2),
    }


def draw_mixture(rows: int, noise: float, seed: int) -> tuple[np.ndarray, ...]:
    with tempfile.TemporaryDirectory() as folder:
        labels, x, y = draw(rows, 64, 20, Path(folder) / "pool.npy", seed, noise)
        return x, y, np.load(Path(folder) / "pool.npy"), labels


def read_features(home: Path) -> tuple[np.ndarray, np.ndarray]:
    place = Place(home=home, device="cpu")
    network, _ = finish(load_network(SMALL))
    data = finish(open_data("cifar-fs", home).embed("val", network, place))
    return data.views[0].numpy(), data.labels.numpy()


def draw_features(rows: np.ndarray, labels: np.ndarray, n_shot: int, seed: int) -> tuple[np.ndarray, ...]:
    """Some labelled rows of each class, and all others as the pool."""
    order = np.random.default_rng(seed).permutation(len(rows))
    known = np.concatenate([order[labels[order] == k][:n_shot] for k in np.unique(labels)])
    rest = np.setdiff1d(order, known)
    return rows[known], labels[known], rows[rest], labels[rest]


def measure_whole(home: Path | None, only: int | None) -> None:
    """Compare all pools, or those of so many rows."""
    cases = [
        ({"pool": f"mixture, noise {noise:g}"}, partial(draw_mixture, rows, noise), 6 if rows <= 10_000 else 4)
        for rows, noise in MIXTURES
        if only in (None, rows)
    ]
    if home is not None:
        features = read_features(home)
        for n_shot in (1, 5):
            cases.append(({"pool": f"CIFAR-FS, {n_shot}-shot"}, partial(draw_features, *features, n_shot), 6))
    records = json.loads(WHOLE.read_text()) if WHOLE.exists() else []
    for about, draw_pool, n_pools in cases:
        found = about | compare_with_whole(draw_pool, n_pools)
        print(found, flush=True)
        records = [one for one in records if (one["pool"], one["rows"]) != (found["pool"], found["rows"])]
        records.append({"experiment": "whole"} | found | {"commit": commit(), "machine": machine()})
        records.sort(key=lambda one: (one["pool"], one["rows"]))
        write_atomically(WHOLE, (json.dumps(records, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cell", action="append", default=[])
    parser.add_argument("--here", action="store_true", help="measure in this process and print")
    parser.add_argument("--whole", action="store_true", help="compare answers with those as a whole")
    parser.add_argument("--rows", type=int, help="with --whole: mixtures of so many rows alone")
    parser.add_argument("--data", type=Path, help="with --whole: folder of the standard data sets")
    arguments = parser.parse_args()
    if arguments.whole:
        keep_freed_memory()
        measure_whole(arguments.data, arguments.rows)
        return
    named = [tuple(map(int, one.split(","))) for one in arguments.cell]
    if arguments.here:
        keep_freed_memory()  # as the command line does
        print(json.dumps(measure_cell(*named[0])))
        return
    records = json.loads(OUT.read_text()) if OUT.exists() else []
    done = {(one["rows"], one["size"], one["classes"]) for one in records}
    for cell in named or [cell for cell in CELLS if cell not in done]:
        command = [sys.executable, __file__, "--here", "--cell", ",".join(map(str, cell))]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        about = {"n_shot": N_SHOT, "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
        records = [one for one in records if (one["rows"], one["size"], one["classes"]) != cell]
        records.append({"experiment": "scale"} | found | about | {"commit": commit(), "machine": machine()})
        records.sort(key=lambda one: (one["classes"], one["size"], one["rows"]))
        write_atomically(OUT, (json.dumps(records, indent=1) + "\n").encode())
        print(found, flush=True)


if __name__ == "__main__":
    main()
