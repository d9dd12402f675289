"""From photographs to features: 1,000 JPEGs of one megapixel through Conv-4-64 at 32 pixels, cold and kept.

    python benchmarks/photographs.py --json benchmarks/photographs.json [--images N]

Machines are noisy: the same photographs decoded one by one with plain Pillow, in turns with ours, give the ratio.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from onelook import backbones
from onelook.artifacts import save_results
from onelook.data.embed import EmbedConfig, embed_files
from onelook.data.listing import list_images
from onelook.events import finish
from onelook.labelling.networks import PHOTOGRAPH, draw_photograph
from onelook.machine import best_precision, commit, keep_freed_memory, machine

PICTURES = [draw_photograph(seed) for seed in range(20)]


def folder_of(folder: Path, n_images: int) -> Path:
    for i in range(n_images):
        path = folder / f"class{i % 10}" / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Decoding takes its time from the picture; that each file differs is enough, and drawing a thousand is slow.
        path.write_bytes(PICTURES[i % len(PICTURES)] + i.to_bytes(4, "little"))
    return folder


def record(folder: Path, rounds: int = 3) -> dict[str, Any]:
    torch.manual_seed(0)
    network = backbones.create("conv4-64").eval()
    config = EmbedConfig(precision=best_precision())
    listing = list_images(folder)
    times: dict[str, list[float]] = {"cold": [], "kept": [], "plain": []}

    def plain() -> None:
        """One by one, whole, as a script would."""
        with torch.inference_mode():
            for name in listing.names:
                image = Image.open(io.BytesIO(listing.read(name))).convert("RGB").resize((32, 32))
                network(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None])

    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name, work in (
                ("cold", lambda: finish(embed_files(listing, network, config, Path(cache)))),
                ("kept", lambda: finish(embed_files(list_images(folder), network, config, Path(cache)))),
                ("plain", plain),
            ):
                start = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - start)
    cold, kept, slow = (statistics.median(times[name]) for name in ("cold", "kept", "plain"))
    return {
        "experiment": f"features of {len(listing.names)} photographs of {PHOTOGRAPH[0]} × {PHOTOGRAPH[1]}, Conv-4-64",
        "onelook_seconds": round(cold, 2),
        "onelook_seconds_features_kept": round(kept, 3),
        "plain_seconds": round(slow, 2),
        "ratio": round(slow / cold, 2),
        "ratio_features_kept": round(cold / kept, 1),
        "command": "python benchmarks/photographs.py",
        "commit": commit(),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/photographs.json"))
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        found = record(folder_of(Path(temporary), arguments.images))
    print(found)
    save_results([found], arguments.json)


if __name__ == "__main__":
    main()
