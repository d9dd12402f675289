"""Feature sets that Glance is trained on: many networks, layers and qualities, good ones and hopeless ones.

    python benchmarks/school.py school
    for seed in 11 12; do
        onelook train --method start.safetensors --learning-rate 7e-4 --steps 3000 --seed $seed --variants 1 \\
            --precision float32 --out runs/tuned-$seed --sources "$(python benchmarks/school.py school --sources)"
    done
    python benchmarks/ship.py glance start.safetensors runs/tuned-11/model.safetensors runs/tuned-12/model.safetensors

`--method glance --steps 6000` without `--learning-rate` begins with new weights.

Of the training classes of CIFAR-FS and Omniglot alone, no photographs of the development sets. A method that has met
easy features only says more than is true on others; one that has met weak ones too learns when not to. The images of 32
and 28 pixels are enlarged to 224 for EfficientNet-Lite. Features of more than 384 numbers are turned into their 384
principal axes, which leaves distances nearly as they are and makes training ten times as fast.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from onelook.artifacts import SHIPPED_NETWORK, load_backbone
from onelook.backbones.efficientnet_lite import load_efficientnet_lite
from onelook.data.sources import open_data
from onelook.data.vectors import save_features
from onelook.events import finish
from onelook.tasks import Embeddings

LARGEST = 384
KEPT = {"cifar-fs": (None, 200), "omniglot": (400, 20)}
"""Classes (None: all) and images of each."""
OTHERS = ("cifar-fs@{network}", "synthetic:8", "cifar-fs@{network}", "glyphs@{network}")
"""Sources beside the files; validation is by those with a feature network."""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--sources", action="store_true", help="print the value of --sources of onelook train")


def draw_images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) of 0 to 255 of some training classes, and their labels."""
    images = finish(open_data(data).images("train", 32, 3))
    n_classes, per_class = KEPT[data]
    rows = defaultdict(list)
    for i, label in enumerate(images.labels.tolist()):
        rows[label].append(i)
    kept = sorted(random.Random(0).sample(sorted(rows), n_classes or len(rows)))
    chosen = np.concatenate([rows[label][:per_class] for label in kept])
    labels = np.repeat(np.arange(len(kept)), [len(rows[label][:per_class]) for label in kept])
    return images.views[0, chosen].permute(0, 2, 3, 1).numpy(), labels


def resize(images: np.ndarray, side: int, how: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), how)) for image in images])


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """Pixels of smaller copies, about 0."""
    return resize(images, side).reshape(len(images), -1) / 255 - 0.5


def embed_lite(images: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Mean of the head, its generalised mean (exponent 3), and the mean of the last block."""
    network, parts = load_efficientnet_lite(name), defaultdict(list)
    for start in range(0, len(images), 32):
        batch = torch.from_numpy(resize(images[start : start + 32], 224, Image.Resampling.BICUBIC)).permute(0, 3, 1, 2)
        pixels = ((batch.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            block, head = network.maps(pixels)
            parts["head"].append(head.mean((2, 3)))
            parts["gem"].append(head.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3))
            parts["block"].append(block.mean((2, 3)))
    return {layer: torch.cat(some).numpy() for layer, some in parts.items()}


def embed_small(images: np.ndarray) -> np.ndarray:
    network = load_backbone(SHIPPED_NETWORK)[0].eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return torch.cat([network(some) for some in pixels.split(200)]).numpy()


def count_colours(images: np.ndarray) -> np.ndarray:
    """Square roots of the fractions of 64 colours."""
    red, green, blue = np.moveaxis(images // 64, 3, 0).astype(int)
    codes = (16 * red + 4 * green + blue).reshape(len(images), -1)
    return np.sqrt(np.stack([np.bincount(row, minlength=64) for row in codes]) / codes.shape[1])


def count_gradients(images: np.ndarray) -> np.ndarray:
    """Square roots of the fractions of gradients in 8 directions, in each of 4 x 4 cells."""
    down, right = np.gradient(images.mean(3), axis=(1, 2))
    direction = ((np.arctan2(down, right) + np.pi) / (2 * np.pi) * 7.999).astype(int)
    strength = np.hypot(down, right)[..., None] * np.eye(8)[direction]
    cells = strength.reshape(len(images), 4, 8, 4, 8, 8).sum((2, 4)).reshape(len(images), -1)
    return np.sqrt(cells / (cells.sum(1, keepdims=True) + 1e-6))


def count_both(images: np.ndarray) -> np.ndarray:
    return np.hstack([count_colours(images), count_gradients(images)])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def add_noise(x: np.ndarray, amount: float) -> np.ndarray:
    """Gaussian noise whose length is `amount` times that of a row, on average."""
    x = unit(x)
    return x + amount / np.sqrt(x.shape[1]) * np.random.default_rng(0).standard_normal(x.shape)


def add_nuisance(x: np.ndarray, amount: float) -> np.ndarray:
    """The same in 8 directions alone, as of light or background: class means are far apart for no reason."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((x.shape[1], 8)))[0]
    return unit(x) + amount / np.sqrt(8) * rng.standard_normal((len(x), 8)) @ axes.T


def rotate(x: np.ndarray, whiten: bool = False) -> np.ndarray:
    """The largest principal axes; with `whiten` about the mean, and each by its standard deviation."""
    if x.shape[1] <= LARGEST and not whiten:
        return x
    some = np.random.default_rng(0).permutation(len(x))[:6000]
    x = x - x.mean(0) if whiten else x
    _, spread, axes = np.linalg.svd(x[some], full_matrices=False)
    x = x @ axes[: LARGEST if not whiten else 256].T
    return x / np.maximum(spread[: x.shape[1]] / np.sqrt(len(some)), 1e-4) if whiten else x


def make_sets(data: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, features and labels of each set."""
    images, labels = draw_images(data)
    lite0, lite2 = embed_lite(images, "lite0"), embed_lite(images, "lite2")
    lite = np.hstack([unit(net[layer]) for net in (lite0, lite2) for layer in ("gem", "block")])
    small = embed_small(images)
    sets: dict[str, Callable[[], np.ndarray]] = {
        "lite": lambda: lite,
        "lite0-block": lambda: lite0["block"],
        "lite2-gem": lambda: lite2["gem"],
        "small": lambda: small,
        "pixels16": lambda: shrink(images, 16),
    }
    if data == "cifar-fs":
        sets |= {
            "lite-noisy": lambda: add_noise(lite, 1),
            "lite0-head": lambda: lite0["head"],
            "lite0-head-noisy": lambda: add_noise(lite0["head"], 2),
            "lite0-head-nuisance": lambda: add_nuisance(rotate(lite0["head"]), 1),
            "lite0-head-whitened": lambda: rotate(lite0["head"], whiten=True),
            "lite0-gem": lambda: lite0["gem"],
            "lite2-block": lambda: lite2["block"],
            "lite2-gem-whitened": lambda: rotate(lite2["gem"], whiten=True),
            "small-noisy": lambda: add_noise(small, 1),
            "small-noisier": lambda: add_noise(small, 2),
            "pixels8": lambda: shrink(images, 8),
            "colours": lambda: count_colours(images),
            "gradients": lambda: count_gradients(images),
            "histograms": lambda: count_both(images),
        }
    for name, make in sets.items():
        yield f"{data}-{name}", rotate(make()), labels


def save(x: np.ndarray, labels: Tensor, names: tuple[str, ...], file: Path) -> None:
    rows = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))[None]
    save_features(Embeddings(rows, labels, names), file)


def main() -> None:
    args = parser.parse_args()
    if args.sources:
        files = sorted(map(str, args.folder.glob("*.npz")))
        print(",".join([*files, *(one.format(network=SHIPPED_NETWORK) for one in OTHERS)]))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    for data in KEPT:
        for name, x, labels in make_sets(data):
            names = tuple(map(str, range(int(labels.max()) + 1)))
            save(x, torch.from_numpy(labels), names, args.folder / f"{name}.npz")
            print(f"{name}: {x.shape[0]:,} rows of {x.shape[1]}")


if __name__ == "__main__":
    main()
