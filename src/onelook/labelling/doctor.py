"""Checks of a folder of images before anything is learned from it: each image is read once, the worst is named first.

Copies of a picture are found by the SHA-256 of the file, near copies by a difference hash (the signs of the differences
between neighbours in a 9 × 8 and an 8 × 9 thumbnail; N. Krawetz, "Kind of Like That", 2013) and, because pictures of
few lines share their hash by chance, by the colours of a thumbnail as well.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

from onelook.data.formats import PassedOver
from onelook.data.images import Reading, Rejected, decode, each_image
from onelook.data.listing import Listing
from onelook.data.opening import open_image
from onelook.errors import quote_name
from onelook.labelling.folder import UNLABELLED, name_kinds
from onelook.labelling.labels import is_unlabelled

BITS = 128
NEAR_BITS = 16
"""Largest number of bits in which the hashes of near copies differ; scaling and compressing change few."""
FLAT = 2
"""Grey levels that neighbours may differ by and count as equal: the noise of a plain background is no difference."""
NEAR_COLOUR = 9.0
"""Largest mean absolute difference (of 255) between the thumbnails of near copies.

Both limits were chosen on 8,000 images of CIFAR-FS (train): 7 pairs, all copies to the eye, and 298 of 300 images found
again after JPEG of quality 60. With 20 bits a white plate is found beside one with a blue rim."""
THUMBNAIL = 16
TINY_SIDE = 8
"""Pixels of the shorter side below which nobody could say what a picture shows."""
PLAIN = 4
"""Grey levels within which all of a thumbnail is one colour."""
SMALL_SIDE = 32
"""Pixels of the shorter side below which a picture is reported as small."""
WIDE = 3.0
"""Ratio of the sides above which the middle square that a network sees misses most of the picture."""
UNEQUAL = 10.0
"""Ratio of the largest class to the smallest from which it is reported."""
BLOCK = 512


@dataclass(frozen=True)
class Copies:
    """Images that show the same picture."""

    names: tuple[str, ...]
    labels: tuple[str | None, ...]
    """The class of each; None where it is to be labelled."""
    exact: bool
    """Whether the files are the same byte by byte."""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label for label in self.labels if label is not None))

    @property
    def conflicting(self) -> bool:
        return len(self.classes) > 1

    @property
    def answered(self) -> bool:
        """Whether images to label are copies of a labelled example."""
        return None in self.labels and bool(self.classes)


@dataclass(frozen=True)
class Diagnosis:
    """Findings of all checks; each is empty where nothing is wrong."""

    source: str
    n_images: int
    class_sizes: dict[str, int]
    """Labelled examples that can be read, of each class."""
    conflicts: tuple[Copies, ...] = ()
    """Pictures in two classes, equal byte by byte or nearly."""
    unreadable: tuple[Rejected, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    """Files that are of no kind that is read."""
    suspicious_classes: tuple[str, ...] = ()
    """Classes named like folders of images to label."""
    same_but_for_case: tuple[tuple[str, ...], ...] = ()
    """Names of classes, or of files in one folder, that a Mac or Windows takes for one."""
    tiny_classes: tuple[str, ...] = ()
    """Classes with fewer than two labelled examples."""
    duplicates: tuple[Copies, ...] = ()
    near_duplicates: tuple[Copies, ...] = ()
    junk: tuple[Rejected, ...] = ()
    """Images that show nothing, and why."""
    uneven_classes: tuple[str, ...] = ()
    """Classes whose folders lie deeper than those of others."""
    small: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()

    @property
    def unequal(self) -> bool:
        sizes = [size for size in self.class_sizes.values() if size]
        return len(sizes) > 1 and max(sizes) >= UNEQUAL * min(sizes)

    def messages(self) -> tuple[str, ...]:
        """A sentence for each kind of finding, the worst first; none where nothing is wrong."""
        lines = [_contradiction(c) for c in sorted(self.conflicts, key=lambda c: not c.exact)[:5]]
        lines += [f"{len(self.conflicts) - 5} more pictures are in two classes."] if len(self.conflicts) > 5 else []
        if self.unreadable:
            n, first = _count(self.unreadable, "image", "images"), self.unreadable[0]
            lines.append(f"{n} cannot be read, {quote_name(first.name)} first: {first.reason}.")
        lines += name_kinds(self.passed_over)
        return (*lines, *self._class_messages(), *self._image_messages())

    def _class_messages(self) -> Iterator[str]:
        if len(self.class_sizes) < 2:
            n = _count(tuple(self.class_sizes), "class has", "classes have")
            yield f"{n} labelled examples; at least two must."
        if self.suspicious_classes:
            yield (
                f"{_list(self.suspicious_classes)} would be a class, but is named like a place of images to label; "
                "rename it if that is what it is."
            )
        if self.uneven_classes:
            shallow = next(name for name in self.class_sizes if name not in self.uneven_classes)
            yield (
                f"{_list(self.uneven_classes)} {'is a class' if len(self.uneven_classes) == 1 else 'are classes'} of "
                f"{'its' if len(self.uneven_classes) == 1 else 'their'} own, in deeper folders than "
                f"{quote_name(shallow)}; move the images up where they belong to the class above."
            )
        for names in self.same_but_for_case[:5]:
            yield f"{_list(names)} differ only in case; give them one name."
        if self.tiny_classes:
            n = _count(self.tiny_classes, "class has", "classes have")
            yield f"{n} fewer than two labelled examples ({_list(self.tiny_classes)}); label some more."
        if self.unequal:
            sizes = Counter({name: size for name, size in self.class_sizes.items() if size}).most_common()
            (large, n_large), (small, n_small) = sizes[0], sizes[-1]
            yield (
                f"The classes are very unequal: {quote_name(large)} has {n_large} labelled examples and "
                f"{quote_name(small)} {n_small}; label more of the small ones."
            )

    def _image_messages(self) -> Iterator[str]:
        for copies, word in ((self.duplicates, "copies"), (self.near_duplicates, "near copies")):
            if copies:
                n, n_answered = _count(copies, "picture has", "pictures have"), sum(c.answered for c in copies)
                also = f", {n_answered} of them both labelled and to be labelled" if n_answered else ""
                yield f"{n} {word}, {_list(copies[0].names)} first{also}."
        if self.junk:
            n, blank = _count(self.junk, "image shows", "images show"), self.junk[0]
            yield f"{n} nothing, {quote_name(blank.name)} first: {blank.reason}."
        if self.small:
            n, first = _count(self.small, "image is", "images are"), quote_name(self.small[0])
            yield f"{n} smaller than {SMALL_SIDE} pixels, {first} first; a larger original is recognised better."
        if self.wide:
            n, first = _count(self.wide, "image is", "images are"), quote_name(self.wide[0])
            yield (
                f"{n} more than {WIDE:g} times as long as short, {first} first; only the middle square is seen, "
                "so crop them."
            )

    def to_json(self) -> str:
        about = {"unequal": self.unequal, "passed_over": {one.kind.name: one.names for one in self.passed_over}}
        return json.dumps(asdict(self) | about | {"messages": self.messages()}, indent=1)


def _contradiction(copies: Copies) -> str:
    like = "the same picture" if copies.exact else "nearly the same picture"
    first = {
        label: quote_name(name) for name, label in zip(copies.names, copies.labels, strict=True) if label is not None
    }
    places = ", ".join(f"{name} as {quote_name(label)}" for label, name in first.items())
    return f"Labels contradict each other: {like} is labelled {places}; keep one."


def _count(things: Sequence[Any], one: str, more: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else more}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(quote_name, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@dataclass(frozen=True)
class Look:
    """Properties of an image that the checks compare."""

    digest: bytes
    width: int
    height: int
    bits: np.ndarray
    """BITS of ±1 as int8."""
    thumbnail: np.ndarray
    """3 × THUMBNAIL × THUMBNAIL in uint8."""

    @property
    def junk(self) -> str:
        """Reason why the image shows nothing; empty for any other."""
        if min(self.width, self.height) < TINY_SIDE:
            return f"it has only {self.width} × {self.height} pixels"
        return "it is of one colour" if int(np.ptp(self.thumbnail, axis=(1, 2)).max()) <= PLAIN else ""


def describe_junk(content: bytes) -> str:
    """Reason why an image file shows nothing; empty for any other, and for one that cannot be read."""
    try:
        return look_at(content).junk
    except Exception:  # what Pillow raises on damaged bytes has no common base
        return ""


def examine(listing: Listing, passed: tuple[PassedOver, ...] = ()) -> Generator[Reading, None, Diagnosis]:
    """Read every image once and report what is wrong; a label is UNLABELLED where there is none.

    passed: files beside the images, as they were found.
    """
    results = yield from each_image(listing, look_at, "examining images")
    unreadable = tuple(r for r in results if isinstance(r, Rejected))
    yield from unreadable
    found = [(i, r) for i, r in enumerate(results) if not isinstance(r, Rejected)]
    looks, rows = [look for _, look in found], [i for i, _ in found]
    exact, near = _copies(listing, rows, looks)
    labels = [listing.labels[i] for i in rows]
    sizes = {name: labels.count(k) for k, name in enumerate(listing.class_names)}
    small = tuple(listing.names[i] for i, look in found if min(look.width, look.height) < SMALL_SIDE)
    wide = tuple(listing.names[i] for i, k in found if max(k.width, k.height) > WIDE * min(k.width, k.height))
    return Diagnosis(
        source=listing.source,
        n_images=len(listing.names),
        class_sizes=sizes,
        conflicts=tuple(c for c in (*exact, *near) if c.conflicting),
        unreadable=unreadable,
        passed_over=passed,
        suspicious_classes=tuple(n for n in listing.class_names if any(map(is_unlabelled, n.split("/")))),
        same_but_for_case=(*_same_but_for_case(listing.class_names), *_same_but_for_case(listing.names)),
        tiny_classes=tuple(name for name, size in sizes.items() if size < 2),
        duplicates=tuple(c for c in exact if not c.conflicting),
        near_duplicates=tuple(c for c in near if not c.conflicting),
        junk=tuple(Rejected(listing.names[i], why) for i, look in found if (why := look.junk)),
        uneven_classes=_find_uneven(listing.class_names),
        small=small,
        wide=wide,
    )


def look_at(content: bytes) -> Look:
    with open_image(content) as picture:
        width, height = picture.size
    # Decoded as everywhere, so that images of no use are reported here. The square has the middle only, so the
    # two thumbnails of the hash are of the square as well: pictures that differ beside it are the same to a network.
    square = Image.fromarray(decode(content, 4 * THUMBNAIL, 3).transpose(1, 2, 0))
    grey = ImageOps.grayscale(square)
    across, down = (np.asarray(grey.resize(s, Image.Resampling.BOX), np.int16) for s in ((9, 8), (8, 9)))
    bits = np.concatenate([(np.diff(across, axis=1) > FLAT).ravel(), (np.diff(down, axis=0) > FLAT).ravel()])
    small = square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    thumbnail = np.asarray(small).transpose(2, 0, 1).copy()
    return Look(hashlib.sha256(content).digest(), width, height, (2 * bits - 1).astype(np.int8), thumbnail)


def _copies(listing: Listing, rows: Sequence[int], looks: Sequence[Look]) -> tuple[list[Copies], list[Copies]]:
    """Groups of the same file, and groups of nearly the same picture (of which a file may have copies too)."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, look in zip(rows, looks, strict=True):
        same[look.digest].append(row)
    exact = [_group(listing, group, True) for group in same.values() if len(group) > 1]
    first = list({look.digest: look for look in looks}.values())
    if not first:
        return exact, []
    groups = near_groups(np.stack([k.bits for k in first]), np.stack([k.thumbnail for k in first]))
    rows_of = [sorted(row for k in group for row in same[first[k].digest]) for group in groups]
    return exact, [_group(listing, group, False) for group in rows_of]


def _group(listing: Listing, rows: Sequence[int], exact: bool) -> Copies:
    labels = tuple(None if (k := listing.labels[i]) == UNLABELLED else listing.class_names[k] for i in rows)
    return Copies(tuple(listing.names[i] for i in rows), labels, exact)


def near_groups(bits: Int[np.ndarray, "N B"], thumbnails: UInt8[np.ndarray, "N C H W"]) -> list[list[int]]:
    """Groups of two or more near copies, each around its first picture; a picture is in one group at most.

    Around a picture and not from one to the next: else the frames of a film would all be one.
    """
    signs = bits.astype(np.float32)
    free = np.ones(len(bits), bool)
    groups = []
    for start in range(0, len(bits), BLOCK):
        block = slice(start, start + BLOCK)
        # Bits that differ, by the product of the signs, which is exact in float32.
        close = (signs.shape[1] - signs[block] @ signs.T) / 2 <= NEAR_BITS
        for k, candidates in enumerate(close, start):
            if not free[k]:
                continue
            others = np.flatnonzero(candidates[k + 1 :] & free[k + 1 :]) + k + 1
            apart = np.abs(thumbnails[others].astype(np.int16) - thumbnails[k]).mean((1, 2, 3))
            others = others[apart <= NEAR_COLOUR]
            if len(others):
                free[others] = False
                groups.append([k, *others.tolist()])
    return groups


def _find_uneven(class_names: Sequence[str]) -> tuple[str, ...]:
    depths = {name: name.count("/") for name in class_names}
    return tuple(name for name, depth in depths.items() if depth > min(depths.values()))


def _same_but_for_case(names: Iterable[str]) -> list[tuple[str, ...]]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    return [tuple(group) for group in alike.values() if len(group) > 1]
