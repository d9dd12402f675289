"""Shards of results: their names, what is in them, and where they lie."""

from pathlib import Path

import numpy as np
import pytest

from helpers.images import class_image, classes, write_files
from onelook.cluster.session import Cluster
from onelook.cluster.shards import divide, find_finished, read_features, write_features
from onelook.cluster.source import open_images, open_labelled
from onelook.data.addresses import Store
from onelook.errors import DataError, SettingsError
from onelook.events import finish
from onelook.labelling.label import LabelConfig

pytest.importorskip("pyarrow")
NAMES = [f"{i}.png" for i in range(7)]


def files(stamps: list[str], **key: str) -> list[str]:
    return [part.file for part in divide(NAMES, stamps, key, 3)]


def test_the_name_of_a_shard_changes_with_all_that_it_depends_on_and_with_nothing_else() -> None:
    stamps = ["1"] * 7
    plain = files(stamps, network="a")
    assert len(set(plain)) == 3
    assert files(stamps, network="a") == plain
    assert not set(files(stamps, network="b")) & set(plain)
    changed = files(["1"] * 4 + ["2"] + ["1"] * 2, network="a")
    assert [one == other for one, other in zip(plain, changed, strict=True)] == [True, False, True]


def test_a_shard_holds_a_row_for_each_image_and_strange_ones_are_refused(tmp_path: Path) -> None:
    store, names = Store(str(tmp_path)), ["=a.png", "b.png", "sel\udcfftsam.png"]
    parts = divide(names, [""] * 3, {}, 3)
    vectors = {name: np.full(4, i, dtype=np.float32) for i, name in enumerate(names) if name != "b.png"}
    write_features(store, parts[0], vectors, {"b.png": "it is not an image"})
    found, errors = read_features(store, parts[0])
    assert list(found) == list(vectors)
    assert errors == {"b.png": "it is not an image"}
    np.testing.assert_array_equal(np.stack([*found.values()]), np.stack([*vectors.values()]))
    assert find_finished(store, parts) == {parts[0].file}
    with pytest.raises(DataError, match="of other images or other settings"):
        find_finished(store, divide(names, ["2"] * 3, {}, 3))


def test_folders_tables_and_addresses_hold_the_same_images(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "images", classes(2, 2) | {"new/1.png": class_image(0, 9), "new/.hidden.png": b""})
    address = f"memory://{tmp_path.name}"
    for path in folder.rglob("*.png"):
        Store(address).write(path.relative_to(folder).as_posix(), path.read_bytes())
    table = folder / "table.csv"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*.png"))
    rows = [f"{name},{'' if name.startswith('new') else name.split('/')[0]}" for name in names]
    table.write_text("\n".join(["path,label", *rows]))
    places = [Path(address), table]
    expected = finish(open_labelled(LabelConfig(folder))).listing
    for place in places:
        listing = finish(open_labelled(LabelConfig(place))).listing
        assert (listing.names, listing.labels, listing.class_names) == (
            expected.names,
            expected.labels,
            expected.class_names,
        )
        assert [listing.read(name) for name in names] == [expected.read(name) for name in names]
        assert open_images(str(place)).images.names == expected.names
    with pytest.raises(DataError, match="holds no image"):
        open_images("memory://nothing/here")


@pytest.mark.parametrize(
    "words", [{"ray": "next door"}, {"ray": "ray://head:10001"}, {"workers": 2}, {"ray": "local", "workers": 0}]
)
def test_a_cluster_that_cannot_be_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Cluster(**words)  # type: ignore[arg-type]
