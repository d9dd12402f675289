"""Check a benchmark on the disk against the facts, and compute the checksums of the facts.

The checksums are defined at the head of datasets.py.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from onelook.data.datasets import Benchmark, Split, find_benchmark, list_split, require
from onelook.data.formats import FORMATS
from onelook.data.images import Rejected, image_batches
from onelook.data.listing import Listing
from onelook.errors import DataError
from onelook.events import Progress


@dataclass(frozen=True)
class Verification:
    """Contents of a benchmark on the disk, and everything that differs from the facts."""

    name: str
    path: Path
    classes: dict[str, int]
    """Split -> classes found."""
    images: dict[str, int]
    """Split -> images found."""
    problems: tuple[str, ...]
    """One sentence each; none means that it is the published benchmark."""


def verify(name: str, home: Path | None = None) -> Generator[Progress, None, Verification]:
    """Compare a benchmark on the disk with the facts: classes, images and, where there is one, the content checksum.

    Raises DataError if the benchmark is not there. mini-ImageNet, tieredImageNet and CUB are only counted.
    """
    benchmark = find_benchmark(name)
    return (yield from check(benchmark, require(benchmark, home)))


def check(benchmark: Benchmark, path: Path) -> Generator[Progress, None, Verification]:
    """`verify` for a zip or folder anywhere."""
    classes: dict[str, int] = {}
    images: dict[str, int] = {}
    problems: list[str] = []
    for split, facts in benchmark.splits.items():
        try:
            listing = list_split(benchmark, split, path)
        except DataError as error:
            classes[split] = images[split] = 0
            problems.append(f"{split}: {error}")
            continue
        classes[split], images[split] = len(listing.class_names), len(listing.names)
        wrong = _wrong_counts(benchmark, facts, listing)
        if not wrong and facts.content is not None:
            wrong = yield from _wrong_content(f"checking {benchmark.name} {split}", benchmark.channels, facts, listing)
        problems += [f"{split}: {problem}." for problem in wrong]
    return Verification(benchmark.name, path, classes, images, tuple(problems))


def _wrong_counts(benchmark: Benchmark, facts: Split, listing: Listing) -> list[str]:
    problems = []
    count = Counter(listing.class_names[k] for k in listing.labels)
    if missing := sorted(set(facts.classes) - set(count)):
        problems.append(f"{len(missing)} of {len(facts.classes)} classes are missing, {missing[0]!r} first")
    if unknown := sorted(set(count) - set(facts.classes)):
        problems.append(f"{len(unknown)} classes are not of this split, {unknown[0]!r} first")
    expected = benchmark.images_per_class
    odd = sorted(name for name, found in count.items() if expected is not None and found != expected)
    if odd:
        problems.append(f"{len(odd)} classes do not have {expected} images, {odd[0]!r} first with {count[odd[0]]}")
    if not problems and len(listing.names) != facts.images:
        problems.append(f"{len(listing.names)} images instead of {facts.images}")
    return problems


def _wrong_content(stage: str, channels: int, facts: Split, listing: Listing) -> Generator[Progress, None, list[str]]:
    def look(content: bytes) -> bytes:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.convert("RGB" if channels == 3 else "L").tobytes()

    results: list[bytes | Rejected] = []
    for batch in image_batches(listing, look):
        classes = (listing.class_names[k] for k in listing.labels[len(results) :])
        pairs = zip(batch, classes, strict=False)
        results += [
            one if isinstance(one, Rejected) else hashlib.sha256(name.encode() + one).digest() for one, name in pairs
        ]
        yield Progress(stage, len(results), len(listing.names))
    if unreadable := [one.name for one in results if isinstance(one, Rejected)]:
        return [f"{len(unreadable)} images cannot be read, {unreadable[0]} first"]
    found = hashlib.sha256(b"".join(sorted(one for one in results if isinstance(one, bytes)))).hexdigest()
    if found != facts.content:
        return [f"the pixels are not the published ones: content checksum {found}, expected {facts.content}"]
    return []
