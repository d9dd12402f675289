"""Small embeddings, images and disks that are made up."""

import contextlib
import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onelook.data.images import ImageSet
from onelook.tasks import Embeddings


def random_embeddings(
    n_classes: int = 5,
    images_per_class: int = 6,
    feature_size: int = 6,
    n_views: int = 2,
    seed: int = 0,
    noise: float = 0.7,
) -> Embeddings:
    """Features around class centres of length near 1, every view with noise of its own."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_classes).repeat_interleave(images_per_class)
    centres = torch.randn(n_classes, feature_size, generator=draw) / feature_size**0.5
    spread = noise * torch.randn(n_views, len(labels), feature_size, generator=draw) / feature_size**0.5
    names = tuple(f"class {k}" for k in range(n_classes))
    return Embeddings(centres[labels] + spread, labels, names, source=f"made up, seed {seed}")


def random_pixels(n_classes: int, images_per_class: int, size: int, channels: int, seed: int) -> np.ndarray:
    """uint8 (N, C, H, W), class after class: noise on the pattern of the class."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (n_classes, 1, channels, size, size))
    noise = rng.integers(-60, 61, (n_classes, images_per_class, channels, size, size))
    return (patterns + noise).clip(0, 255).astype(np.uint8).reshape(-1, channels, size, size)


def random_images(
    n_classes: int = 3, images_per_class: int = 4, size: int = 16, channels: int = 3, n_views: int = 1, seed: int = 0
) -> ImageSet:
    views = [random_pixels(n_classes, images_per_class, size, channels, seed + 1000 * v) for v in range(n_views)]
    pixels = torch.from_numpy(np.stack(views))
    labels = torch.arange(n_classes).repeat_interleave(images_per_class)
    names = tuple(f"{k}/{i}.png" for i, k in enumerate(labels.tolist()))
    classes = tuple(str(k) for k in range(n_classes))
    return ImageSet(pixels, labels, classes, names, digests_of(pixels), f"made up, seed {seed}")


def digests_of(pixels: torch.Tensor) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(pixels[:, i].numpy().tobytes()).digest() for i in range(pixels.shape[1]))


def write_image_folder(folder: Path, splits: dict[str, tuple[int, int]], size: int = 16) -> Path:
    """PNG files as split/class/number; splits: name -> (classes, images a class)."""
    for seed, (split, (n_classes, images_per_class)) in enumerate(splits.items()):
        for i, pixels in enumerate(random_pixels(n_classes, images_per_class, size, 3, seed)):
            path = folder / split / f"class-{i // images_per_class:03d}" / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return folder


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int = 256) -> Iterator[Path]:
    """`folder` as a disk of that size; skips the test where mounting is not permitted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Use up the space that is left on the disk of `folder`."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        for size in (4096, 512, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones too, and its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_sentence(error: BaseException) -> str:
    """The message, which must be a line for people: no line break, no bare name of a type, an end."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert text[-1] in ".?"
    assert not text.startswith(("KeyError", "'"))
    return text
