"""What Glance costs: processor time of usual tasks, seconds and memory of large ones.

    python benchmarks/cost.py --json benchmarks/cost.json

Features are made up, 640 of them, of classes that overlap; their values decide nothing about the cost. Processor time
is that of all threads together, in batches of 50 tasks; TIM and PT-MAP meet the same batches in turns with it. Memory
is the most that a process of its own held during its first answer, less what it held before.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from onelook.artifacts import load_shipped, save_results
from onelook.data.sampler import TaskSpec
from onelook.machine import commit, keep_freed_memory, machine
from onelook.methods import Method
from onelook.tasks import Tasks
from onelook.train.recipes import build, parse_request

FEATURE_SIZE = 640
BATCH = 50
SIZES = (1_250, 2_500, 5_000, 10_000)


def made_up(n_tasks: int, n_way: int, n_query: int, seed: int = 0) -> Tasks:
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_tasks, n_way, FEATURE_SIZE, generator=draw)
    labels = torch.randint(n_way, (n_tasks, n_query), generator=draw)
    noise = [1.5 * torch.randn(n_tasks, n, FEATURE_SIZE, generator=draw) for n in (n_way, n_query)]
    query = centres.gather(1, labels.unsqueeze(-1).expand(-1, -1, FEATURE_SIZE)) + noise[1]
    return Tasks((centres + noise[0]).relu(), torch.arange(n_way).expand(n_tasks, -1), query.relu(), n_way)


def methods() -> dict[str, Method]:
    return {
        "Glance": load_shipped("glance"),
        "Glance without its guard": load_shipped("glance", guard=False),
        "TIM": build(parse_request("tim"), TaskSpec()),
        "PT-MAP": build(parse_request("pt-map"), TaskSpec()),
    }


def of_usual_tasks(rounds: int = 7) -> dict[str, Any]:
    tasks, asked = made_up(BATCH, 5, 75), methods()
    spent: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds + 1):
        for name, method in asked.items():
            start = time.process_time()
            with torch.inference_mode():
                method(tasks)
            spent[name].append(1000 * (time.process_time() - start) / BATCH)
    return {"experiment": "cost: CPU milliseconds of a 5-way 1-shot task of 75 queries, median of batches"} | {
        name: round(statistics.median(values[1:]), 2) for name, values in spent.items()
    }


def of_a_large_task(rounds: int = 5) -> dict[str, Any]:
    tasks = made_up(1, 100, 5_000)
    record: dict[str, Any] = {
        "experiment": "cost: seconds of a 100-way 1-shot task of 5,000 queries, median",
        "threads": torch.get_num_threads(),
    }
    for name in ("Glance", "Glance without its guard"):
        method, seconds = methods()[name], []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            with torch.inference_mode():
                method(tasks)
            seconds.append(time.perf_counter() - start)
        record[name] = round(statistics.median(seconds[1:]), 2)
    return record


def megabytes(n_query: int) -> int:
    """What one answer for so many queries of 20 classes takes, in this process."""
    tasks, method = made_up(1, 20, n_query), load_shipped("glance")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    before = _of_this_process("VmRSS")
    with torch.inference_mode():
        method(tasks)
    return round((_of_this_process("VmHWM") - before) / 1024)


def _of_this_process(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def of_memory() -> dict[str, Any]:
    found = {}
    for n_query in SIZES:
        command = [sys.executable, __file__, "--memory-of", str(n_query)]
        found[f"{n_query:,} queries"] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {"experiment": "cost: megabytes of an answer for a 20-way task"} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(megabytes(options.memory_of))
        return
    keep_freed_memory()  # as the command line does
    records = []
    for measure in (of_usual_tasks, of_a_large_task, of_memory):
        records.append(measure() | {"commit": commit(), "machine": machine()})
        print(records[-1], flush=True)
    if options.json:
        save_results(records, options.json)


if __name__ == "__main__":
    main()
