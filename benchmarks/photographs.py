"""From photographs to features: 1,000 JPEGs of one megapixel as `onelook label` computes them, cold and cached.

    python benchmarks/photographs.py [--network lite] [--images 1000] [--plain 100] [--json benchmarks/photographs.json]

Beside it, what a script would do: Pillow, one by one, each network eagerly and without fused layers. Set
ONEDNN_MAX_CPU_ISA=AVX2 for the instructions that most laptops have. A row is replaced by one of the same experiment,
precision and instructions.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from onelook.artifacts import PHOTOGRAPHS, load_network, save_results
from onelook.data.embed import AVERAGE
from onelook.data.listing import Listing, list_images
from onelook.events import finish
from onelook.labelling.features import embed_listing
from onelook.labelling.networks import PHOTOGRAPH, draw_photograph
from onelook.machine import Place, best_precision, commit, keep_freed_memory, machine

MIB = 1 << 20


def write_photographs(folder: Path, n_images: int) -> Path:
    pictures = [draw_photograph(seed) for seed in range(min(20, n_images))]
    for i in range(n_images):
        path = folder / f"class{i % 10}" / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Decoding takes its time from the picture; that each file differs is enough, and drawing a thousand is slow.
        path.write_bytes(pictures[i % len(pictures)] + i.to_bytes(4, "little"))
    return folder


def measure_ours(folder: Path, name: str, precision: str) -> dict[str, float]:
    """Seconds, and the most memory that this process ever had."""
    keep_freed_memory()
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        place = Place(Path(cache), precision=precision)
        for run in ("cold", "cached"):
            start, worked = time.perf_counter(), time.process_time()
            network, _ = finish(load_network(name, offline=True))
            finish(embed_listing(list_images(folder), network, AVERAGE, place))
            seconds[run] = time.perf_counter() - start
            seconds[f"{run} on all cores"] = time.process_time() - worked
    return seconds | {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def measure_plain(listing: Listing, name: str) -> float:
    """Seconds for each image."""
    network, _ = finish(load_network(name, offline=True))

    def compute(one: str) -> None:
        image = Image.open(io.BytesIO(listing.read(one))).convert("RGB")
        shorter = min(image.size)
        left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
        image = image.crop((left, top, left + shorter, top + shorter)).resize((network.image_size,) * 2)
        with torch.no_grad():  # and not in inference mode, where our layers are fused
            network(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None])

    compute(listing.names[0])
    start = time.perf_counter()
    for one in listing.names:
        compute(one)
    return (time.perf_counter() - start) / len(listing.names)


def describe(n_images: int, name: str, precision: str) -> str:
    instructions = os.environ.get("ONEDNN_MAX_CPU_ISA") or torch.backends.cpu.get_cpu_capability()
    size = f"{PHOTOGRAPH[0]} × {PHOTOGRAPH[1]}"
    return f"features of {n_images:,} photographs of {size}, {name}, {precision}, {instructions}"


def record(folder: Path, name: str, precision: str, n_plain: int) -> dict[str, Any]:
    listing = list_images(folder)
    # A process of its own, so that its memory is that of the work.
    words = [sys.executable, __file__, "--network", name, "--precision", precision, "--folder", str(folder)]
    ours = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    some = listing.names[:n_plain]
    plain = measure_plain(replace(listing, names=some), name) * len(listing.names)
    return {
        "experiment": describe(len(listing.names), name, precision),
        "onelook_seconds": round(ours["cold"], 2),
        "onelook_seconds_of_all_cores": round(ours["cold on all cores"], 2),
        "onelook_seconds_features_cached": round(ours["cached"], 2),
        "peak_mib": round(ours["bytes"] / MIB),
        "plain_float32_seconds": round(plain, 2),
        "plain_measured_on_images": len(some),
        "ratio": round(plain / ours["cold"], 2),
        "ratio_features_cached": round(ours["cold"] / ours["cached"], 1),
        "command": "python benchmarks/photographs.py",
        "commit": commit(),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=100, help="images that the script computes")
    parser.add_argument("--network", default=PHOTOGRAPHS)
    parser.add_argument("--precision", help="default: float32, and bfloat16 where the processor has it")
    parser.add_argument("--folder", type=Path, help="measure ours only, on images that are there")
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(measure_ours(given.folder, given.network, given.precision)))
        return
    precisions = [given.precision] if given.precision else sorted({"float32", best_precision()}, reverse=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_photographs(Path(temporary), given.images)
        for precision in precisions:
            found = record(folder, given.network, precision, given.plain)
            print(json.dumps(found, indent=1, ensure_ascii=False), flush=True)
            if given.json:
                before = json.loads(given.json.read_text()) if given.json.exists() else []
                others = [one for one in before if one["experiment"] != found["experiment"]]
                save_results([*others, found], given.json)


if __name__ == "__main__":
    main()
