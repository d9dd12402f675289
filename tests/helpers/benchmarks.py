"""Benchmarks of a few images in the published formats, with facts to match."""

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onelook.data import datasets
from onelook.data.fetch import Source

CIFAR = {"train": ["apple", "bear"], "val": ["cup"], "test": ["dolphin", "elm"]}
FC100 = {"train": ["bear", "cup"], "val": ["dolphin"], "test": ["apple", "elm"]}
OMNIGLOT = {"train": ["Greek__01", "Greek__02"], "val": ["Hebrew__01"], "test": ["ULOG__01"]}
BACKGROUND = ("Greek", "Hebrew")
PER_CLASS = 4


def use_facts(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    name: str,
    splits: dict[str, list[str]],
    pixels: dict[str, list[bytes]] | None,
    selected: dict[str, str] | None = None,
) -> None:
    """Replace the facts of a benchmark by those of `pixels` (class -> 8-bit pixels of its images) or of mere counts."""
    facts: dict[str, dict[str, object]] = {}
    for split, classes in splits.items():
        facts[split] = {"images": PER_CLASS * len(classes), "checksum": "", "classes": classes}
        if pixels is not None:
            digests = [hashlib.sha256(c.encode() + p).digest() for c in classes for p in pixels[c]]
            facts[split]["content"] = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
        if selected is not None:
            facts[split]["selected"] = {c: selected[c] for c in classes if c in selected}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(facts))
    monkeypatch.setattr(datasets, "FACTS", folder)
    monkeypatch.setitem(datasets.BENCHMARKS, name, replace(datasets.BENCHMARKS[name], images_per_class=PER_CLASS))


def publish_cifar(folder: Path) -> tuple[Source, dict[str, list[bytes]]]:
    """cifar-100-binary.tar.gz with four images a class; also the pixels (H W C) of every class."""
    generator = np.random.default_rng(0)
    names = sorted(c for classes in CIFAR.values() for c in classes)
    pixels: dict[str, list[bytes]] = {name: [] for name in names}
    parts = {"train.bin": b"", "test.bin": b""}
    for i in range(PER_CLASS):
        for k, name in enumerate(names):
            image_CHW = generator.integers(0, 256, (3, 32, 32), dtype=np.uint8)
            pixels[name].append(image_CHW.transpose(1, 2, 0).tobytes())
            parts["test.bin" if i == 0 else "train.bin"] += bytes([0, k]) + image_CHW.tobytes()
    path = folder / "cifar-100-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {**parts, "fine_label_names.txt": "\n".join(names).encode()}.items():
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return source_of(path), pixels


def publish_omniglot(folder: Path) -> tuple[tuple[Source, ...], dict[str, list[bytes]]]:
    """images_background.zip and images_evaluation.zip; also the pixels of every class."""
    generator = np.random.default_rng(1)
    pixels: dict[str, list[bytes]] = {}
    paths = [folder / "images_background.zip", folder / "images_evaluation.zip"]
    for path in paths:
        with zipfile.ZipFile(path, "w") as archive:
            for number, label in enumerate(sorted(c for classes in OMNIGLOT.values() for c in classes), 1):
                alphabet, _, character = label.partition("__")
                if (alphabet in BACKGROUND) != ("background" in path.name):
                    continue
                for drawer in range(1, PER_CLASS + 1):
                    ink = generator.random((105, 105)) < 0.9
                    pixels.setdefault(label, []).append((ink * np.uint8(255)).tobytes())
                    name = f"{path.stem}/{alphabet}/character{character}/{number:04d}_{drawer:02d}.png"
                    archive.writestr(name, png(Image.fromarray(ink)))
            archive.writestr(f"__MACOSX/{path.stem}/Greek/._character01", b"")
    return tuple(source_of(path) for path in paths), pixels


def source_of(path: Path, address: str = "http://127.0.0.1:9") -> Source:
    return Source(f"{address}/{path.name}", hashlib.md5(path.read_bytes()).hexdigest())


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
