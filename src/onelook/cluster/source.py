"""Images of a folder, a table or an address, with the labels that they have."""

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from onelook.data.addresses import Store, find_address, settle, stamp_file
from onelook.data.confirmed import LABEL
from onelook.data.formats import has_image_suffix
from onelook.data.listing import Listing, hidden
from onelook.data.tables import PARQUET, PATH, parse_path, read_labels, read_rows
from onelook.errors import DataError, SettingsError, list_names, quote_name
from onelook.events import Notice
from onelook.labelling.folder import SORTED_FOLDER, UNLABELLED, FolderListing, find_images, list_folder
from onelook.labelling.label import LabelConfig
from onelook.labelling.labels import Sources, find_labels

TABLES = (".csv", ".tsv", *PARQUET)


@dataclass(frozen=True)
class Images:
    """Images to compute features of."""

    store: Store
    """Folder of the images."""
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    """Mark of the content of each image."""


@dataclass(frozen=True)
class Source:
    """Images, and the labels of some of them."""

    images: Images
    listing: Listing
    """Labels of the images, UNLABELLED where there is none."""


def open_labelled(config: LabelConfig) -> Generator[Notice, None, Source]:
    """The images of `onelook label`, of which some are labelled. Raises DataError, SettingsError."""
    place = config.folder
    if place.suffix.lower() in TABLES and find_address(place) is None:
        if config.labels or config.pattern is not None or config.also_classes or config.not_classes:
            raise SettingsError(
                f"{place} is a table, and labels are those of its column label; drop --labels, --pattern, --also-class "
                f"and --not-class."
            )
        source = _open_table(place)
        found = FolderListing(source.listing)
    elif find_address(place) is None:
        found = list_folder(
            place,
            config.labels,
            config.pattern,
            also_classes=config.also_classes,
            not_classes=config.not_classes,
            answers=config.answers,
        )
        source = _make_source(str(place), found.listing)
    else:
        source = _list_address(str(place))
        sources = Sources(
            config.labels, config.pattern, also_classes=config.also_classes, not_classes=config.not_classes
        )
        labels = find_labels(place, list(source.listing.names), sources)
        listing = _label(source.listing, [labels.labels.get(name, "") for name in source.listing.names])
        source, found = Source(source.images, listing), FolderListing(listing, labels.skipped, notes=labels.notes)
    if found.lacks or not source.listing.class_names:
        raise DataError(found.lacks[0] if source.listing.class_names else f"No image of {place} is labelled.")
    yield from map(Notice, found.messages())
    return source


def open_images(place: str) -> Source:
    """Images without labels. Raises DataError."""
    if find_address(place) is not None:
        return _list_address(place)
    path = Path(place)
    if path.suffix.lower() in TABLES:
        return _open_table(path)
    names = tuple(find_images(path).images)
    store = Store(place)
    return _make_source(place, Listing(names, (UNLABELLED,) * len(names), (), place, store.read))


def _open_table(table: Path) -> Source:
    """The images that a table names, by paths beside it or addresses, with its labels if it has a column for them."""
    columns, rows, _ = read_rows(table)
    if LABEL in columns:
        found = read_labels(table).rows
        names, labels = [row.name for row in found], [row.label for row in found]
    elif PATH in columns:
        names = [parse_path(str(row[PATH])) for _, row in rows]
        labels = [""] * len(names)
    else:
        raise DataError(f"{table} needs a column path (or filename), but has {list_names(columns)}; rename one.")
    if twice := next((name for name, n in Counter(names).items() if n > 1), None):
        raise DataError(f"{table} names {quote_name(twice)} twice; keep one of the rows.")
    store = Store(str(table.parent))
    return _make_source(str(table.parent), _label(Listing(tuple(names), (), (), str(table), store.read), labels))


def _make_source(place: str, listing: Listing) -> Source:
    stamps = tuple("" if find_address(name) else stamp_file(Path(place) / name) for name in listing.names)
    return Source(Images(Store(settle(place)), listing.names, stamps), listing)


def _list_address(place: str) -> Source:
    store = Store(place)
    stamps = {name: stamp for name, stamp in store.list().items() if _is_image(PurePosixPath(name))}
    if not stamps:
        raise DataError(f"{store.address} holds no image; give the address of a folder of images.")
    names = tuple(sorted(stamps, key=lambda name: PurePosixPath(name).parts))
    listing = Listing(names, (UNLABELLED,) * len(names), (), store.address or place, store.read)
    return Source(Images(store, names, tuple(stamps[name] for name in names)), listing)


def _is_image(path: PurePosixPath) -> bool:
    return has_image_suffix(path) and not hidden(path) and SORTED_FOLDER not in path.parts


def _label(listing: Listing, labels: list[str]) -> Listing:
    """A listing with labels by their names, where an empty one is none."""
    names = tuple(sorted(set(labels) - {""}))
    number = {name: k for k, name in enumerate(names)} | {"": UNLABELLED}
    own = tuple(number[label] for label in labels)
    return Listing(listing.names, own, names, listing.source, listing.read)
