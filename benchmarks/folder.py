"""Time and memory of `onelook label` on a folder of 50,000 image files; writes benchmarks/folder.json.

    python benchmarks/folder.py [--images 50000] [--killed]

The folder holds 20 classes of coloured textures as JPEG files of 640 x 480 pixels: 2,000 pictures, in files that all
differ. Labelling begins without a cache, and its forecast is compared with what it took. With --killed it is killed
(SIGKILL) when 40 % of the features are saved, and begun again with the same command: each must be there once.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from onelook.files import read_tensors, write_atomically
from onelook.machine import provenance

OUT = Path(__file__).parent / "folder.json"
N_WAY, N_SHOT, N_PICTURES = 20, 3, 2_000


def make_folder(folder: Path, n_images: int) -> None:
    """Write the labelled examples and the images to label."""
    draw = np.random.default_rng(0)
    classes = draw.integers(40, 216, (N_WAY, 6, 8, 3))
    picture, n_labelled = folder / "picture.jpg", N_WAY * N_SHOT
    for i in range(n_labelled + min(n_images, N_PICTURES)):
        pixels = classes[i % N_WAY] + draw.integers(-40, 41, (6, 8, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((640, 480)).save(picture, quality=85)
        if i < n_labelled:
            own = folder / f"class {i % N_WAY}"
            own.mkdir(exist_ok=True)
            picture.rename(own / f"{i}.jpg")
            continue
        content = picture.read_bytes()
        for j in range(i - n_labelled, n_images, N_PICTURES):
            (folder / f"{j:06}.jpg").write_bytes(content + j.to_bytes(8, "big"))  # after the end of the picture
    picture.unlink()


def count_saved(cache: Path) -> int:
    return sum(len(read_tensors(file)[0]["digests"]) for file in cache.rglob("*.safetensors"))


def label(images: Path, folder: Path, kill_at: int | None = None) -> dict[str, object]:
    """Label the images; kill it when so many features are saved."""
    cache, said = folder / "cache", folder / "said.txt"
    words = ["label", str(images), "--network", "small", "--cache", str(cache), "--out", str(folder / "out")]
    start = time.perf_counter()
    with said.open("wb") as stream:
        code = "from onelook.cli import main; main()"
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=stream)
        if kill_at is not None:
            while process.poll() is None and count_saved(cache) < kill_at:
                time.sleep(0.5)
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    found = re.search(r"about (.*) on this machine", said.read_text())
    return {
        "forecast": found and found[1],
        "seconds": round(seconds, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "exit": os.waitstatus_to_exitcode(status),
        "features_saved": count_saved(cache),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--killed", action="store_true")
    parser.add_argument("--folder", type=Path, help="folder of such images, which are made where there are none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        images = arguments.folder or Path(name, "images")
        if not images.exists():
            images.mkdir()
            make_folder(images, arguments.images)
        record: dict[str, object] = {
            "experiment": "image files labelled without a cache",
            "images": arguments.images,
            "killed": arguments.killed,
            "network": "small",
        }
        if arguments.killed:
            record["before"] = label(images, Path(name), int(0.4 * arguments.images))
        record |= label(images, Path(name)) | provenance()
    print(json.dumps(record, indent=1))
    records = json.loads(OUT.read_text()) if OUT.exists() else []
    kept = [one for one in records if (one["images"], one["killed"]) != (record["images"], record["killed"])]
    write_atomically(OUT, (json.dumps([*kept, record], indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
