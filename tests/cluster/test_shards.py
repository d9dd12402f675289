"""Shards of results: their names, what is in them, and where they lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ray
from helpers.images import class_image, classes, write_files
from onelook.cluster import embedding, source
from onelook.cluster.labelling import Held, load_rows
from onelook.cluster.session import Cluster
from onelook.cluster.shards import Found, Part, divide, find_shards, read_features, write_features, write_labels
from onelook.cluster.source import open_images, open_labelled
from onelook.data.addresses import Store
from onelook.data.formats import IMAGE, Kind
from onelook.errors import DataError, SettingsError
from onelook.estimators import asking, pool
from onelook.estimators.model import SupportModel
from onelook.estimators.sharded import LocalShards, transduce_shards
from onelook.events import finish
from onelook.labelling.export import Prediction
from onelook.labelling.folder import UNLABELLED
from onelook.labelling.label import LabelConfig
from onelook.machine import Place
from onelook.methods.priors import ClassPriors

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
    assert find_shards(store, parts) == Found(frozenset({parts[0].file}), (), {})
    assert find_shards(store, divide(names, ["2"] * 3, {}, 3)) == Found(frozenset(), (parts[0].file,), {})
    (tmp_path / "other.parquet").touch()
    with pytest.raises(DataError, match="which Onelook has not made"):
        find_shards(store, parts)


def test_images_that_could_not_be_got_are_asked_for_again_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "connect", ray.connect)
    monkeypatch.setattr(Kind, "readable", property(lambda kind: kind is IMAGE))
    monkeypatch.setattr(source, "stamp_file", lambda _: "")  # as of addresses that a table names
    names = [f"{i}.png" for i in range(6)]
    folder = write_files(tmp_path / "images", {name: class_image(0, i) for i, name in enumerate(names)})
    (folder / "1.png").write_bytes(b"no image")
    (folder / "2.png").write_bytes(b"\0\0\0\x18ftypheic")  # needs a package
    content = (folder / "4.png").read_bytes()
    table = folder / "table.csv"
    table.write_text("\n".join(["path", *names]))
    out = Store(str(tmp_path / "out"))

    def embed() -> tuple[list[set[str]], set[str]]:
        """Images without features, of each shard, and those that are to be asked for again."""
        cluster = Cluster("local", shard_size=3)
        work = embedding.write_embeddings(str(table), "small", "none", Place(device="cpu"), cluster, out)
        parts, _ = finish(work)
        refused = find_shards(out, parts).refused.values()
        return [set(read_features(out, part)[1]) for part in parts], {name for one in refused for name in one}

    (folder / "4.png").unlink()
    assert embed() == ([{"1.png", "2.png"}, {"4.png"}], {"2.png", "4.png"})
    before = read_features(out, Part(next(name for name in out.list() if name[:11] == "part-000001"), 3, ()))[0]
    (folder / "4.png").write_bytes(content)
    (folder / "0.png").unlink()  # and is not read again
    monkeypatch.undo()
    monkeypatch.setattr(embedding, "connect", ray.connect)
    monkeypatch.setattr(source, "stamp_file", lambda _: "")
    (folder / "2.png").write_bytes(content)
    assert embed() == ([{"1.png"}, set()], set())
    assert not [name for name in out.list() if name.startswith("_")]
    after = read_features(out, Part(next(name for name in out.list() if name[:11] == "part-000001"), 3, ()))[0]
    assert all((after[name] == vector).all() for name, vector in before.items())
    table.write_text("path\n1.png")
    with pytest.raises(DataError, match="2 shards of other images"):
        embed()
    out = Store(str(tmp_path / "new"))
    with pytest.raises(DataError, match=r"None of the 1 image of .* can be read: 1\.png: "):
        embed()


def test_shards_without_an_image_to_label_are_of_the_same_table_as_the_others(tmp_path: Path) -> None:
    for i, found in enumerate(([], [Prediction("=1.png", "a", 0.5)], [])):
        write_labels(Store(str(tmp_path)), f"part-{i}.parquet", found)
    (row,) = pytest.importorskip("pyarrow.parquet").read_table(tmp_path).to_pylist()
    assert row == vars(Prediction("./=1.png", "a", 0.5))


@pytest.mark.parametrize("largest_whole", [2, 100])
def test_a_process_whose_images_cannot_be_read_does_not_stop_the_others(
    largest_whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LARGEST_WHOLE", largest_whole)
    monkeypatch.setattr(asking, "ANCHORS", 2)
    store, parts = Store(str(tmp_path)), divide(NAMES, [""] * 7, {}, 5)
    rows = np.random.default_rng(0).random((5, 8), dtype=np.float32)
    write_features(store, parts[0], dict(zip(NAMES, rows, strict=False)), {})
    write_features(store, parts[1], {}, dict.fromkeys(parts[1].names, "it is not an image"))
    labels = (0, 1, UNLABELLED, UNLABELLED, UNLABELLED), (UNLABELLED,) * 2
    held = [(Held(part, part.file, own),) for part, own in zip(parts, labels, strict=True)]
    shards = LocalShards([load_rows(store, 8, one) for one in held])
    support = SupportModel.fit(rows[:2].astype(float), np.array(["a", "b"]), ClassPriors.parse("unknown"), "network")
    _, found, _ = finish(transduce_shards(support, shards))
    assert found.posterior.values.isfinite().all()
    assert len(found.posterior) == 3


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
    "words",
    [{"labels": (Path("more.csv"),)}, {"pattern": "{label}_*"}, {"also_classes": ("a",)}, {"not_classes": ("a",)}],
)
def test_other_sources_of_labels_than_its_own_column_are_refused_of_a_table(
    words: dict[str, Any], tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,label\n1.png,a\n2.png,b\n3.png,\n")
    with pytest.raises(SettingsError, match="labels are those of its column label"):
        finish(open_labelled(LabelConfig(table, **words)))


@pytest.mark.parametrize(
    "words", [{"ray": "next door"}, {"ray": "ray://head:10001"}, {"workers": 2}, {"ray": "local", "workers": 0}]
)
def test_a_cluster_that_cannot_be_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Cluster(**words)  # type: ignore[arg-type]
