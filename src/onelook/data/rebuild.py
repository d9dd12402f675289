"""Archives `<name>.zip` of benchmarks in their published form: {train,val,test}/<class>/<image>, stored.

The input is a stream of members, (name in the archive, content); `write_archive` puts them in place in one step, and
only when they are the benchmark that the facts describe. Classes that are in no split are left out.
"""

import base64
import contextlib
import io
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from onelook.data.datasets import Benchmark, Split
from onelook.data.formats import FORMATS, SUFFIXES
from onelook.data.verify import check
from onelook.errors import DataError
from onelook.events import Progress
from onelook.files import replacing

Members = Iterator[tuple[str, bytes]]


def write_archive(benchmark: Benchmark, target: Path, members: Members) -> Generator[Progress, None, Path]:
    """Write, check and only then put in place; raises StorageError, or DataError if the check finds anything wrong."""
    total = sum(facts.images for facts in benchmark.splits.values())
    with replacing(target) as part:
        with zipfile.ZipFile(part, "w") as archive:
            about = f"{benchmark.title}. {benchmark.citation}\nLicence: {benchmark.licence}.\nMade by Onelook.\n"
            archive.writestr(zipfile.ZipInfo("README.txt"), about)
            for done, (name, content) in enumerate(members, 1):
                archive.writestr(zipfile.ZipInfo(name), content)  # with a fixed date: the same images, the same file
                if done % 500 == 0 or done == total:
                    yield Progress(f"rebuilding {benchmark.name}", done, total)
        found = yield from check(benchmark, part)
        if found.problems:
            raise DataError(f"{target} was not written, as it would not be {benchmark.title}: {found.problems[0]}")
    return target


def cifar_members(benchmark: Benchmark, archive: Path) -> Members:
    """Read cifar-100-binary.tar.gz: records of 1 byte superclass, 1 byte class, 3 × 32 × 32 bytes pixels.

    The binary holds no file names, so images are named by their place in it: test_00042.png.
    """
    split_of = _splits_by_class(benchmark)
    with _reading(archive), tarfile.open(archive, "r:gz") as tar:
        names = _tar_member(tar, "fine_label_names.txt").decode().split()
        for part in ("train", "test"):
            records = np.frombuffer(_tar_member(tar, f"{part}.bin"), dtype=np.uint8).reshape(-1, 2 + 3 * 32 * 32)
            for i, record in enumerate(records):
                label = names[record[1]]
                if label in split_of:
                    pixels_HWC = record[2:].reshape(3, 32, 32).transpose(1, 2, 0)
                    yield f"{split_of[label]}/{label}/{part}_{i:05d}.png", _png(Image.fromarray(pixels_HWC))


def omniglot_members(benchmark: Benchmark, archives: list[Path]) -> Members:
    """Read the drawings of images_background.zip and images_evaluation.zip, the PNG files as they are.

    images_background/Greek/character07/0520_03.png becomes the class Greek__07.
    """
    split_of = _splits_by_class(benchmark)
    for path in archives:
        with _reading(path), zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                parts = PurePosixPath(name).parts
                if len(parts) == 4 and parts[2].startswith("character") and parts[3].endswith(".png"):
                    label = f"{parts[1]}__{parts[2].removeprefix('character')}"
                    if label in split_of:
                        yield f"{split_of[label]}/{label}/{parts[3]}", archive.read(name)


def folder_members(benchmark: Benchmark, source: Path) -> Members:
    """Read the images of class folders under `source`, scaled to `image_size` by Lanczos' filter.

    The class folders may lie in `source` or in train/, images/ or CUB_200_2011/images/ below it. All images of a class
    are read; of mini-ImageNet exactly those of Ravi and Larochelle's lists (`selected_indices`), and `source` may also
    be a copy of mini-ImageNet (`_find_copy`). Raises DataError, before anything is read, if a class has no folder.
    """
    if benchmark.splits["train"].selected and (copy := _find_copy(benchmark, source)):
        return _folder_members(benchmark, copy)
    classes = [name for facts in benchmark.splits.values() for name in facts.classes]
    places = [source / below for below in ("", "train", "images", "CUB_200_2011/images")]
    root = max(places, key=lambda place: sum((place / name).is_dir() for name in classes))
    if missing := sorted(name for name in classes if not (root / name).is_dir()):
        found = f"{len(missing)} of the {len(classes)} class folders of {benchmark.title}, {missing[0]!r} first"
        raise DataError(f"{source} lacks {found}; complete it, or give the folder that holds them.")
    chosen = {
        label: _choose(facts, label, root / label) for facts in benchmark.splits.values() for label in facts.classes
    }
    return _folder_members(benchmark, chosen)


def selected_indices(bitmap: str) -> list[int]:
    """Indices of the images of an ImageNet class in mini-ImageNet, in the order of their numbers.

    Ravi and Larochelle's lists name an image n0153282900000005.jpg: the fifth of class n01532829 when the files
    n01532829_<number>.JPEG are sorted by number. Here the list of a class is a bitmap (bit 0 of byte 0 is the first
    image, base64), a sixtieth of its size.
    """
    bits = np.unpackbits(np.frombuffer(base64.b64decode(bitmap), np.uint8), bitorder="little")
    return [int(i) for i in np.flatnonzero(bits)]


Chosen = dict[str, dict[str, Path]]
"""Class -> name in the archive -> file, for the images of a benchmark."""


def _folder_members(benchmark: Benchmark, chosen: Chosen) -> Members:
    def read(path: Path) -> tuple[str, bytes]:
        side = benchmark.image_size
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.size == (side, side) and image.mode == "RGB":
                    image.load()
                    return path.suffix.lower(), path.read_bytes()
                return ".png", _png(image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as an image ({error}); replace it by the original.") from error

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # ImageNet has damaged Exif blocks; the pixels are sound
        for split, facts in benchmark.splits.items():
            for label in facts.classes:
                images = pool.map(read, chosen[label].values())
                for stem, (suffix, content) in zip(chosen[label], images, strict=True):
                    yield f"{split}/{label}/{stem}{suffix}", content


def _find_copy(benchmark: Benchmark, source: Path) -> Chosen | None:
    """The images of a copy of mini-ImageNet, or None where `source` is none.

    The images are named as in the lists and lie anywhere in `source`, images/, or class folders there or in train/,
    val/ and test/; or each class has exactly its 600 images in such folders, named in any way.
    """
    places = [place for below in ("", "images", "train", "val", "test") if (place := source / below).is_dir()]
    loose = {path.stem: path for place in places for path in _list_images(place)}
    chosen: Chosen = {}
    for facts in benchmark.splits.values():
        for label in facts.classes:
            files = [path for place in places if (place / label).is_dir() for path in _list_images(place / label)]
            named = loose | {path.stem: path for path in files}
            listed = [f"{label}{i + 1:08d}" for i in selected_indices(facts.selected[label])]
            if all(name in named for name in listed):
                chosen[label] = {name: named[name] for name in listed}
            elif len(files) == benchmark.images_per_class:
                chosen[label] = {f"{path.parent.parent.name}_{path.stem}": path for path in files}
            else:
                return None
    return chosen


def _list_images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _choose(facts: Split, label: str, folder: Path) -> dict[str, Path]:
    """Name in the archive -> file, for the images of a class that belong to the benchmark."""
    files = _list_images(folder)
    if label not in facts.selected:
        return {path.stem: path for path in files}
    files.sort(key=lambda path: int("".join(c for c in path.stem.rpartition("_")[2] if c.isdigit()) or 0))
    indices = selected_indices(facts.selected[label])
    if indices[-1] >= len(files):
        raise DataError(
            f"{folder} holds {len(files)} images, but image {indices[-1] + 1} belongs to the benchmark; "
            "give the complete training images of ILSVRC 2012, or a copy of mini-ImageNet with all its images."
        )
    return {f"{label}{i + 1:08d}": files[i] for i in indices}


def _splits_by_class(benchmark: Benchmark) -> dict[str, str]:
    return {name: split for split, facts in benchmark.splits.items() for name in facts.classes}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _tar_member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"cifar-100-binary/{name}")
    if file is None:
        raise DataError(f"{tar.name!s} holds no file cifar-100-binary/{name}; fetch it again.")
    return file.read()


_DAMAGE = (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


@contextlib.contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Errors inside are those of an archive that is read, not of the one that is being written."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{archive} cannot be read ({error}); remove it and fetch it again.") from error
