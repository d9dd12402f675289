"""Labels by Ray: those of one process, whatever is killed meanwhile, in folders and in an object store."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import busy_moto
from helpers.images import class_image, classes, write_files
from helpers.processes import free_port
from helpers.stores import store_at
from onelook.cluster.embedding import write_embeddings
from onelook.cluster.labelling import Summary, label_shards
from onelook.cluster.session import Cluster, RayShards, connect
from onelook.data.addresses import Store
from onelook.data.tables import read_rows
from onelook.errors import DataError
from onelook.estimators import asking, pool
from onelook.events import Progress, finish
from onelook.labelling.label import LabelConfig, label_folder
from onelook.machine import Place

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
CLUSTER = Cluster("local", workers=2, shard_size=20)


@pytest.fixture
def processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray on this machine, whose processes have the environment of the test that starts them."""
    if "bucket" in request.fixturenames:
        request.getfixturevalue("bucket")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    with connect(CLUSTER):
        yield


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of more than 50 images is large, and 40 of them are anchors."""
    monkeypatch.setattr(pool, "LARGEST_WHOLE", 50)
    monkeypatch.setattr(asking, "ANCHORS", 40)


def make_folder(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    new = {f"new/{i:03d}.png": class_image(int(rng.integers(3)), 100 + i) for i in range(130)}
    write_files(folder, classes(3, 2) | new | {"new/damaged.png": b"no image"})
    return folder


def kill(kind: str) -> None:
    """Kill the processes of Ray that compute, as a machine that fails would."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_wanted = file.read_bytes().startswith(b"ray::" + kind.encode())
        except OSError:
            continue
        if is_wanted and (pid := int(file.parent.name)) in own_processes():
            os.kill(pid, signal.SIGKILL)


def own_processes() -> set[int]:
    """Processes that this one started, or those of these."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(file.parent.name)] = int(file.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return own


def label_alone(folder: Path, cache: Path, **settings: Any) -> dict[str, tuple[str, float]]:
    done = finish(label_folder(LabelConfig(folder, network="small", **settings), Place(cache, device="cpu")))
    return {one.path: (one.label, one.probability) for one in done.predictions}


def label(folder: Path | str, out: str, watch: Callable[[Any], None] = lambda _: None, **settings: Any) -> Summary:
    config = LabelConfig(Path(folder), network="small", **settings)
    return finish(label_shards(config, Place(device="cpu"), CLUSTER, Store(out)), watch)


def copy(place: str, to: str) -> None:
    """Copy all files of a folder, here or at an address, to another."""
    for name in Store(place).list():
        Store(to).write(name, Store(place).read(name))


def require_alike(out: Path, expected: dict[str, tuple[str, float]]) -> None:
    """The labels are as expected, each image has one, and no shard is left over."""
    rows = [row for file in (out / "labels").glob("*.parquet") for _, row in read_rows(file).rows]
    assert Counter(row["path"] for row in rows) == Counter(list(expected))
    for row in rows:
        name, p = expected[row["path"]]
        assert row["label"] == name
        assert row["probability"] == pytest.approx(p, abs=1e-3)
    features = [row["path"] for file in (out / "features").glob("*.parquet") for _, row in read_rows(file).rows]
    assert len(features) == len(set(features)) == len(expected) + 7  # two examples of each class and the damaged one


@pytest.mark.usefixtures("large", "processes")
def test_labels_are_those_of_one_process_and_nothing_is_lost_with_processes_that_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "images")
    expected = label_alone(folder, tmp_path / "cache")
    killed = list[str]()
    ask = RayShards.ask

    def lose_one(self: RayShards, what: Callable[..., Any], *told: Any, **words: Any) -> list[Any]:
        if what.__name__ == "_vote" and told[0] == 2 and "Holder" not in killed:
            killed.append("Holder")
            kill("Holder")
        return ask(self, what, *told, **words)

    def watch(event: Any) -> None:
        if isinstance(event, Progress) and event.stage == "computing features" and event.done and not killed:
            killed.append("MapWorker")
            kill("MapWorker")

    monkeypatch.setattr(RayShards, "ask", lose_one)
    out = tmp_path / "out"
    summary = label(folder, str(out), watch)
    assert killed == ["MapWorker", "Holder"]
    require_alike(out, expected)
    assert (summary.n_images, summary.n_labelled_examples, summary.n_unreadable) == (130, 6, 1)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert label(folder, str(out)) == summary
    (out / "labels" / summary.shards[0]).unlink()
    assert label(folder, str(out)) == summary
    again = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert [path for path in times if times[path] != again[path]] == [out / "labels" / summary.shards[0]]
    require_alike(out, expected)


@pytest.mark.usefixtures("large", "processes")
def test_a_table_is_labelled_as_its_folder_with_class_priors_and_unknown_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "images")
    settings = {"class_priors": "0.5/0.3/0.2", "unknown_rate": 0.2, "min_confidence": 0.6}
    expected = label_alone(folder, tmp_path / "cache", **settings)
    table = folder / "images.csv"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    labels = [name.split("/")[0] if name.startswith("class") else "" for name in names]
    table.write_text("\n".join(["path,label", *map(",".join, zip(names, labels, strict=True))]))
    monkeypatch.chdir(folder)  # where the processes of Ray are not
    summary = label("images.csv", "../out", **settings)
    require_alike(tmp_path / "out", expected)
    assert {"unknown", "undecided"} <= set(summary.counts)
    table.write_text(table.read_text().replace("new/000.png,", "new/000.png,class 00"))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()}
    again = label("images.csv", "../out", **settings)
    assert (again.n_images, again.n_labelled_examples) == (129, 7)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()}
    rows = [row for file in (tmp_path / "out" / "labels").glob("*.parquet") for _, row in read_rows(file).rows]
    assert {row["path"] for row in rows} == expected.keys() - {"new/000.png"}  # old labels are gone
    assert len(rows) == 129
    with pytest.raises(DataError, match="holds labels of the images of"):
        label(make_folder(tmp_path / "others"), "../out")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an empty bucket in an object store that this machine serves; the file `busy` makes it refuse all."""
    program = shutil.which("moto_server") or os.environ.get("ONELOOK_MOTO_SERVER")
    if program is None:
        pytest.skip("moto_server is not there: pip install 'moto[server]' into an environment of its own")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    words = [Path(program).with_name("python"), busy_moto.__file__, str(port), tmp_path / "busy"]
    with (tmp_path / "moto.log").open("wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT"), timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        with store_at(endpoint, monkeypatch):
            yield "s3://bucket"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.usefixtures("processes")
def test_images_and_results_may_lie_in_an_object_store(bucket: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images")
    copy(str(folder), f"{bucket}/images")
    summary = label(f"{bucket}/images", f"{bucket}/out")
    copy(f"{bucket}/out", str(tmp_path / "out"))
    require_alike(tmp_path / "out", label_alone(folder, tmp_path / "cache"))
    assert label(f"{bucket}/images", f"{bucket}/out") == summary
    table = tmp_path / "images.csv"
    table.write_text(f"path\n{bucket}/images/new/001.png\nimages/new/002.png\n")
    parts, _ = finish(
        write_embeddings(
            str(table), "small", "none", Place(device="cpu"), Cluster("local", workers=1), Store(str(tmp_path / "two"))
        )
    )
    rows = read_rows(tmp_path / "two" / parts[0].file).rows
    assert [(len(row["features"]), row["error"]) for _, row in rows] == [(256, None)] * 2


@pytest.mark.usefixtures("processes")
def test_a_store_that_is_busy_meanwhile_costs_time_and_nothing_else(bucket: str, tmp_path: Path) -> None:
    folder, busy, log = make_folder(tmp_path / "images"), tmp_path / "busy", tmp_path / "moto.log"
    copy(str(folder), f"{bucket}/images")
    times = list[threading.Thread]()

    def be_busy() -> None:
        """From the next request on for longer than the client of the store asks again by itself."""
        n_before = log.read_text().count(" 503 ")
        while log.read_text().count(" 503 ") == n_before:
            time.sleep(0.1)
        time.sleep(8)
        busy.unlink()

    def begin() -> None:
        busy.touch()
        times.append(threading.Thread(target=be_busy, daemon=True))
        times[-1].start()

    def watch(event: Any) -> None:
        due = [("computing features", True), ("labelling", False), ("labelling", True)][len(times) - 1 :]
        if isinstance(event, Progress) and due and not busy.exists() and (event.stage, event.done > 0) == due[0]:
            begin()

    begin()  # the images are listed, then read, then their features, and the labels are written
    label(f"{bucket}/images", f"{bucket}/out", watch)
    assert len(times) == 4
    assert not busy.exists()
    copy(f"{bucket}/out", str(tmp_path / "out"))
    require_alike(tmp_path / "out", label_alone(folder, tmp_path / "cache"))
