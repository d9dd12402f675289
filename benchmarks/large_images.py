"""Memory and time of `onelook label` on four PNG files of 9,400 × 9,400 pixels at 16 bits, as scanners make them.

    python benchmarks/large_images.py --json benchmarks/large_images.json

The command is a process of its own, with an empty cache each time. Its peak memory is ru_maxrss, which must be at most
1.5 GiB. Two small images are the labelled examples; the four are to be labelled.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onelook.artifacts import save_results
from onelook.machine import provenance

SIDE, N_IMAGES, BAR = 9400, 4, 1.5
LABEL = "from onelook.cli import main; main()"
DRAW = "import runpy, sys; runpy.run_path(sys.argv[1])['draw'](*sys.argv[2:])"
"""Program that draws in a process of its own: peak memory is handed on to the processes that one starts."""


def draw(folder: str, side: str) -> None:
    """Smooth shapes with grain: half of what a pixel holds is noise, as of a sensor."""
    place, n = Path(folder), int(side)
    for i in range(N_IMAGES):
        rng = np.random.default_rng(i)
        rough = Image.fromarray(rng.random((30, 30), dtype=np.float32) * 60000).resize((n, n))
        grain = rng.integers(0, 256, (n, n), dtype=np.uint16)
        Image.fromarray(np.asarray(rough).clip(0, 65000).astype(np.uint16) + grain).save(
            place / f"{i}.png", compress_level=1
        )
    for k in range(2):
        (place / f"class {k}").mkdir()
        Image.fromarray(np.full((64, 64), 20000 + 30000 * k, np.uint16)).save(place / f"class {k}" / "example.png")


def label(folder: Path) -> tuple[float, float]:
    """Seconds and GiB of the command. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", LABEL, "label", str(folder), "--out", f"{place}/out"],
            env=os.environ | {"ONELOOK_CACHE": f"{place}/cache"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        n_labels = len(Path(place, "out", "labels.csv").read_text().splitlines()) - 1 if not process.returncode else 0
    if n_labels != N_IMAGES:
        raise RuntimeError(f"onelook label ended with {process.returncode} and {n_labels} labels")
    return seconds, usage.ru_maxrss / 2**20


def record(folder: Path, rounds: int, side: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        subprocess.run([sys.executable, "-c", DRAW, __file__, str(folder), str(side)], check=True)
    megabytes = sum(path.stat().st_size for path in folder.glob("*.png")) / 1e6
    seconds, peaks = zip(*(label(folder) for _ in range(rounds)), strict=True)
    return {
        "experiment": f"onelook label on {N_IMAGES} PNG files of {side} × {side} pixels at 16 bits, {megabytes:.0f} MB",
        "network": "auto, the default",
        "seconds": round(statistics.median(seconds), 1),
        "peak_GiB": round(max(peaks), 2),
        "bar_GiB": BAR,
        "rounds": rounds,
        "command": "python benchmarks/large_images.py",
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the record to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels")
    parser.add_argument("--images", type=Path, help="folder of the images, which are drawn there where it is empty")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = record(options.images or Path(place, "images"), options.rounds, options.side)
    print(found)
    if options.json:
        save_results([found], options.json)
    if found["peak_GiB"] > BAR:
        sys.exit(f"it took {found['peak_GiB']} GiB, more than {BAR}")


if __name__ == "__main__":
    main()
