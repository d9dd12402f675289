"""The standard few-shot benchmarks: their splits as facts, and opening them by name.

A benchmark lies in the data folder as `<name>.zip` or as the folder `<name>/`, both laid out as
`{train,val,test}/<class>/<image>`. The facts are in `splits/<name>.json`: for every split the classes, the number of
images, and two checksums.

* `checksum` is the SHA-256 of the sorted class names, joined by newlines.
* `content`, where the images may be downloaded by everybody, is the SHA-256 of the sorted digests of all images; the
  digest of an image is the SHA-256 of its class name (UTF-8) and its 8-bit pixels in row order at native size. So PNG,
  lossless WebP and the official binary all pass alike, and file names do not matter.

Where the splits come from: CIFAR-FS from Bertinetto et al., FC100 from Oreshkin et al., Omniglot from Vinyals et al. as
used by Snell et al., mini-ImageNet from Ravi and Larochelle, tieredImageNet from Ren et al., CUB from Chen et al.
"""

import functools
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs
import torch

from onelook.data.images import ImageSet
from onelook.data.listing import SPLITS, Listing, list_images
from onelook.errors import DataError, unknown_name

FACTS = Path(__file__).parent / "splits"


@dataclass(frozen=True)
class Split:
    """Facts of one split."""

    classes: tuple[str, ...]
    images: int
    checksum: str
    """Checksum of the class names; see the head of this file."""
    content: str | None = None
    """Checksum of the images; None where they may not be passed on, so that there is nothing to compare with."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Superclass -> classes, where the split was drawn by superclasses."""
    selected: dict[str, str] = field(default_factory=dict)
    """Class -> bitmap of its images in the benchmark (`rebuild.selected_indices`); empty: all of them."""
    files: str | None = None
    """SHA-256 of the sorted file names of the published list, joined by newlines, where images are selected."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by its published protocol."""

    name: str
    title: str
    image_size: int
    """Height and width in pixels at which methods are compared."""
    channels: int
    images_per_class: int | None
    """None: it differs from class to class."""
    licence: str
    citation: str
    rotations: int = 1
    """4: each class is made into four by quarter turns after loading (`rotate_classes`)."""
    stored_in: str = ""
    """Another benchmark whose archive holds the images; its splits are pooled and divided anew."""
    characters: bool = False
    """Whether a mirrored image may be of another class."""
    made_from: str = ""
    """Example of the folder that a user needs to rebuild it; empty where it can be downloaded."""

    @property
    def splits(self) -> dict[str, Split]:
        return _read_facts(FACTS / f"{self.name}.json")


BENCHMARKS: dict[str, Benchmark] = {
    name: Benchmark(name, **facts)
    for name, facts in json.loads(Path(__file__).with_name("benchmarks.json").read_text(encoding="utf-8")).items()
}


@dataclass(frozen=True)
class Status:
    """A line of `onelook data list`."""

    benchmark: Benchmark
    classes: dict[str, int]
    """Split -> classes by the facts, as tasks see them: after `rotate_classes`."""
    images: int
    """Images by the facts, before `rotate_classes`."""
    path: Path | None
    """Place on the disk; None: it is not there."""


def data_home() -> Path:
    """$ONELOOK_DATA, else `data` in the user's cache folder."""
    chosen = os.environ.get("ONELOOK_DATA")
    return Path(chosen) if chosen else platformdirs.user_cache_path("onelook") / "data"


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises SettingsError with the nearest name."""
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


def open_benchmark(name: str, split: str, home: Path | None = None) -> Listing:
    """List the images of one split. Raises SettingsError for an unknown name, DataError for missing files."""
    benchmark = find_benchmark(name)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    listing = list_split(benchmark, split, require(benchmark, home))
    expected = set(benchmark.splits[split].classes)
    if wrong := sorted(expected.symmetric_difference(listing.class_names)):
        found = f"{len(wrong)} classes are missing or not of the split, {wrong[0]!r} first"
        raise DataError(f"{listing.source} is not {benchmark.title}: {found}; see `onelook data verify {name}`.")
    return listing


def status(name: str, home: Path | None = None) -> Status:
    """Describe a benchmark and find its place; no image is read."""
    benchmark = find_benchmark(name)
    classes = {split: len(facts.classes) * benchmark.rotations for split, facts in benchmark.splits.items()}
    images = sum(facts.images for facts in benchmark.splits.values())
    return Status(benchmark, classes, images, locate(benchmark, home))


def rotate_classes(images: ImageSet) -> ImageSet:
    """Each class as four: "a" becomes "a@0", "a@90", "a@180", "a@270", turned counter-clockwise by quarters."""
    angles = (0, 90, 180, 270)
    return replace(
        images,
        pixels=torch.cat([torch.rot90(images.pixels, turn, (-2, -1)) for turn in range(4)], dim=1),
        labels=torch.cat([images.labels * 4 + turn for turn in range(4)]),
        class_names=tuple(f"{name}@{angle}" for name in images.class_names for angle in angles),
        names=tuple(f"{name}@{angle}" for angle in angles for name in images.names),
        # Without the angle in the digest the cache would give all four turns the features of the first.
        digests=tuple(hashlib.sha256(d + str(angle).encode()).digest() for angle in angles for d in images.digests),
    )


def locate(benchmark: Benchmark, home: Path | None = None) -> Path | None:
    """The zip, else the folder, that holds the images; None if there is neither."""
    stored = (home or data_home()) / (benchmark.stored_in or benchmark.name)
    archive = stored.with_name(f"{stored.name}.zip")
    return archive if archive.is_file() else stored if stored.is_dir() else None


def require(benchmark: Benchmark, home: Path | None) -> Path:
    """`locate`, or a DataError with the command that gets it."""
    if path := locate(benchmark, home):
        return path
    stored = (home or data_home()) / (benchmark.stored_in or benchmark.name)
    raise DataError(f"{benchmark.title} is not there: looked for {stored} and {stored}.zip; {how_to_get(benchmark)}.")


def how_to_get(benchmark: Benchmark) -> str:
    """The command that brings a benchmark, as the end of a sentence."""
    command = f"onelook data fetch {benchmark.name}"
    if not benchmark.made_from:
        return f"get it with `{command}`"
    return f"rebuild it from a folder of yours, as it may not be passed on: `{command} --from {benchmark.made_from}`"


@functools.cache
def _read_facts(path: Path) -> dict[str, Split]:
    facts = json.loads(path.read_text(encoding="utf-8"))
    splits = {}
    for split, record in facts.items():
        names = record.pop("classes", None) or [name for group in record["groups"].values() for name in group]
        splits[split] = Split(classes=tuple(sorted(names)), **record)
    return splits


def list_split(benchmark: Benchmark, split: str, path: Path) -> Listing:
    """List one split by the layout alone; the caller judges whether the classes are right."""
    if not benchmark.stored_in:
        return list_images(path, split)
    parts = [list_images(path, stored) for stored in SPLITS]
    class_names = benchmark.splits[split].classes
    index = {name: k for k, name in enumerate(class_names)}
    rows = [(name, p.class_names[k]) for p in parts for name, k in zip(p.names, p.labels, strict=True)]
    kept = sorted((name, index[label]) for name, label in rows if label in index)
    present = {label for _, label in rows}
    if lacking := [name for name in class_names if name not in present]:
        raise DataError(f"{path} lacks {len(lacking)} classes of {benchmark.title}, {lacking[0]!r} first.")
    # The parts read from one place by names that hold the stored split, so the first can read them all.
    names, labels = tuple(name for name, _ in kept), tuple(k for _, k in kept)
    return Listing(names, labels, class_names, f"{path}:{benchmark.name}/{split}", parts[0].read)
