"""Time and memory of FewShotClassifier by the size of the pool; writes benchmarks/scale.json.

    python benchmarks/scale.py [--cell ROWS,SIZE,WAYS] ...

Pools are mixtures of Gaussian classes, whose features lie in a file that is mapped into memory. Each cell is a process
of its own, so that its peak memory is its own; features in memory that belong to the file are counted too. A cell that
was measured is measured again only if it is named. On a machine that does other things as well, the seconds of the
processor are what to compare.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from onelook.estimators.classifier import FewShotClassifier
from onelook.files import write_atomically
from onelook.machine import commit, keep_freed_memory, machine

OUT = Path(__file__).parent / "scale.json"
N_SHOT = 5
CELLS = [(rows, size, 20) for size in (64, 768) for rows in (10_000, 30_000, 100_000, 300_000, 1_000_000)]
CELLS.append((1_000_000, 768, 1_000))


def draw(rows: int, size: int, n_way: int, file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write the pool, and return its labels and the labelled examples with theirs."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((n_way, size), dtype=np.float32)
    noise = np.float32(2 * (size / 64) ** 0.25)
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
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pool.npy"
        labels, x, y = draw(rows, size, n_way, file)
        pool, first = np.load(file, mmap_mode="r"), y < n_way - 1
        FewShotClassifier().fit(x[first], y[first], x[:50])  # what is read once
        start, worked = time.perf_counter(), time.process_time()
        classifier = FewShotClassifier().fit(x, y, unlabeled=pool)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        record = {
            "rows": rows,
            "size": size,
            "classes": n_way,
            "seconds": round(seconds, 2),
            "processor_seconds": round(worked, 2),
            "peak_gib": round(peak, 2),
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cell", action="append", default=[])
    parser.add_argument("--here", action="store_true", help="measure in this process and print")
    arguments = parser.parse_args()
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
