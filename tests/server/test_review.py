"""The review over HTTP: what is answered is kept, what is asked is known, and nothing else is given away."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.images import class_image, write_files
from helpers.server import Running, running
from onelook.events import finish
from onelook.labelling.answer_log import read_reviewed
from onelook.labelling.answers import CLEARED, KINDS, NONE_OF_THESE
from onelook.labelling.folder import list_folder
from onelook.labelling.label import LabelConfig
from onelook.labelling.predict import PredictConfig, predict_images
from onelook.machine import Place
from onelook.server import session
from onelook.server.review import FILES, make_app
from onelook.server.session import Session
from onelook.server.summary import pack_arrays, summarise

N, N_CLASSES = 24, 3
NAMES = [f"{i:02d}.png" for i in range(N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("review") / "photographs"
    return write_files(place, {name: class_image(i % N_CLASSES, i) for i, name in enumerate(NAMES)})


@contextlib.contextmanager
def reviewing(folder: Path, out: Path, **settings: Any) -> Iterator[Running]:
    config = LabelConfig(folder, network="small", average="none", **settings)
    with running(make_app(Session(config, Place(folder.parent / "cache"), out))) as server:
        yield server


def wait_for(server: Running, revision: int = 0, n_ready: int = N) -> dict[str, Any]:
    """The state once the labels of that revision were learned, and what is next was chosen."""
    after, deadline = 0, time.monotonic() + 60
    while time.monotonic() < deadline:
        state = server.ask("GET", f"/api/state?after={after}").json
        after = state["version"]
        if state["n_ready"] == n_ready and state["chosen"] >= max(revision, 2) and not state["progress"]:
            return dict(state)
    raise AssertionError(state)


def label(server: Running, row: int, name: str) -> int:
    answer = server.ask("POST", "/api/answer", {"rows": [row], "new_class": name})
    assert answer.status == 200, answer.json
    return int(answer.json["revision"])


def read_arrays(server: Running) -> dict[str, np.ndarray]:
    return unpack(server.ask("GET", "/api/arrays").content)


def unpack(content: bytes) -> dict[str, np.ndarray]:
    arrays, start = {}, 0
    kinds = {"labels": "<i2", "predicted": "<i2", "runner": "<i2", "p": "<u2", "q": "<u2", "kinds": "u1"}
    for name, kind in kinds.items():
        arrays[name] = np.frombuffer(content, kind, N, start)
        start += arrays[name].nbytes
    assert start == len(content)
    return arrays


def test_without_any_label_typical_images_come_first_and_two_classes_suffice_for_answers(
    folder: Path, tmp_path: Path
) -> None:
    with reviewing(folder, tmp_path) as server:
        state = wait_for(server)
        first = [one["row"] for one in state["upcoming"]][:N_CLASSES]
        assert {row % N_CLASSES for row in first} == set(range(N_CLASSES)), "one of each kind is proposed first"
        revision = label(server, first[0], f"kind {first[0] % N_CLASSES}")
        state = wait_for(server, revision)
        assert state["estimate"] is None
        assert (read_arrays(server)["predicted"] == CLEARED).all(), "one class is no question"
        for row in first[1:]:
            revision = label(server, row, f"kind {row % N_CLASSES}")
        state, arrays = wait_for(server, revision), read_arrays(server)
    names = {one["id"]: one["name"] for one in state["classes"]}
    assert [names[k] for k in arrays["predicted"]] == [f"kind {i % N_CLASSES}" for i in range(N)]
    assert 0 < state["estimate"]["low"] <= state["estimate"]["value"] <= 1
    assert state["moved"] > 0
    assert {tuple(p >= q for p, q in zip(arrays["p"], arrays["q"], strict=True))} == {(True,) * N}


def test_what_is_told_is_of_one_moment(folder: Path, tmp_path: Path) -> None:
    """Read piece by piece, one telling in six was torn where threads take turns at nearly every step."""
    under_way = Session(LabelConfig(folder, network="small", average="none"), Place(tmp_path / "cache"), tmp_path)
    is_over = threading.Event()

    def answer_and_undo() -> None:
        while not is_over.is_set():
            under_way.answer(range(N), CLEARED, "cat")
            under_way.change("undo")

    interval = sys.getswitchinterval()
    person = threading.Thread(target=answer_and_undo)
    sys.setswitchinterval(1e-6)
    try:
        person.start()
        seen = set()
        for _ in range(1_000):
            told, arrays = summarise(under_way), unpack(pack_arrays(under_way.now))
            n_labelled = sum(one["n_labelled"] for one in told["classes"])
            seen.add((n_labelled, told["kinds"]["answered"], told["can_undo"], told["can_redo"]))
            assert ((arrays["labels"] == CLEARED) == (arrays["kinds"] == KINDS.index("unlabelled"))).all()
    finally:
        is_over.set()
        person.join()
        sys.setswitchinterval(interval)
        under_way.log.close()
    answered, undone, new = (N, N, True, False), (0, 0, False, True), (0, 0, False, False)
    assert {answered, undone} <= seen <= {answered, undone, new}


def test_a_fault_in_learning_is_told_and_the_next_answer_is_learned_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, faults = session.learn, iter([RuntimeError("out of luck")])

    def learn(*arguments: Any) -> Any:
        if (arguments[1] >= 0).any() and (fault := next(faults, None)):
            raise fault
        return real(*arguments)

    monkeypatch.setattr(session, "learn", learn)
    with reviewing(folder, tmp_path) as server:
        wait_for(server)
        label(server, 0, "kind 0")
        state = server.ask("GET", "/api/state").json
        while not state["problem"]:
            state = server.ask("GET", f"/api/state?after={state['version']}").json
        assert state["problem"] == "These labels could not be learned from: out of luck."
        assert wait_for(server, label(server, 1, "kind 1"))["problem"] == ""


def test_an_answer_says_what_kind_it_is_and_is_on_the_disk_before_the_response(folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with reviewing(folder, tmp_path) as server:
        wait_for(server)
        for row in range(2):
            revision = label(server, row, f"kind {row}")
        wait_for(server, revision)
        predicted = read_arrays(server)["predicted"]
        assert predicted[3] == 1
        answers = [([3], 1), ([4], 1), ([5, 8], NONE_OF_THESE), ([1], CLEARED)]
        for rows, number in answers:
            assert server.ask("POST", "/api/answer", {"rows": rows, "label": number}).status == 200
            kept = read_reviewed(tmp_path / "review.sqlite").answers
            assert all(kept[NAMES[row]].label == number for row in rows)
        kinds = {name: one.image.kind for name, one in kept.items()}
    assert [kinds[NAMES[row]] for row in (0, 3, 4, 5, 8, 1)] == [
        "answered", "confirmed", "corrected", "rejected", "rejected", "unlabelled",
    ]  # fmt: skip
    assert len(kept[NAMES[3]].image.digest) == 64
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_two_windows_see_each_other_and_a_second_run_goes_on(folder: Path, tmp_path: Path) -> None:
    with reviewing(folder, tmp_path) as server:
        before = wait_for(server)
        label(server, 0, "cat")
        state = server.ask("GET", f"/api/state?after={before['version']}").json
        assert state["kinds"]["answered"] == 1
        assert state["arrays"] > before["arrays"], "other windows know that they must ask for the arrays again"
        assert server.ask("POST", "/api/classes", {"rename": 1, "name": "tiger"}).status == 200
        assert server.ask("POST", "/api/undo", {}).status == 200
        state = server.ask("GET", "/api/state").json
        assert ([one["name"] for one in state["classes"]], state["can_redo"]) == (["cat"], True)
    with reviewing(folder, tmp_path) as server:
        state = server.ask("GET", "/api/state").json
        assert state["kinds"]["answered"] == 1
        assert read_arrays(server)["labels"][0] == 1
        assert server.ask("POST", "/api/redo", {}).status == 200
        assert server.ask("GET", "/api/state").json["classes"][0]["name"] == "tiger"


def test_labels_of_the_folder_are_given_and_a_person_has_the_last_word(tmp_path: Path) -> None:
    files = {f"{'cat' if i % 2 else 'dog'}/{i}.png": class_image(i % 2, i) for i in range(4)}
    folder = write_files(tmp_path / "images", files | {"new.png": class_image(0, 9)})
    with reviewing(folder, tmp_path / "out") as server:
        state = wait_for(server, n_ready=5)
        assert (state["kinds"]["given"], [one["name"] for one in state["classes"]]) == (4, ["cat", "dog"])
        names = server.ask("GET", "/api/images").json["names"]
        server.ask("POST", "/api/answer", {"rows": [names.index("cat/1.png")], "label": 2})
        state = server.ask("GET", "/api/state").json
        assert [one["n_labelled"] for one in state["classes"]] == [1, 3]
        server.ask("POST", "/api/classes", {"merge": 1, "into": 2})
        assert server.ask("GET", "/api/state").json["classes"][0]["n_labelled"] == 4


def test_a_label_that_all_others_contradict_is_shown(folder: Path, tmp_path: Path) -> None:
    with reviewing(folder, tmp_path) as server:
        wait_for(server)
        for row in range(15):
            revision = label(server, row, f"kind {1 if row == 9 else row % N_CLASSES}")
        state = wait_for(server, revision)
        assert (state["contradictions"][0]["row"], state["n_contradictions"]) == (9, 1)
        others = [one["own"] for one in state["contradictions"]]
        assert (len(others), others) == (15, sorted(others)), "all labels of people, the least plausible first"
        rows = [one["row"] for one in state["contradictions"][:3]]
        labels = [int(read_arrays(server)["labels"][row]) for row in rows]
        answer = server.ask("POST", "/api/answer", {"rows": rows, "labels": [CLEARED, *labels[1:]]})
        state = wait_for(server, answer.json["revision"])
        assert state["kinds"]["checked"] == 2
        assert not {one["row"] for one in state["contradictions"]} & set(rows), "what was looked at does not come again"
        revision = server.ask("POST", "/api/undo", {}).json["revision"]
        assert wait_for(server, revision)["contradictions"][0]["row"] == 9, "all of it is undone at once"


def test_near_copies_with_different_labels_are_shown_with_each_other(tmp_path: Path) -> None:
    files = {f"{'cat' if i % 2 else 'dog'}/{i}.png": class_image(i % 2, i) for i in range(4)}
    folder = write_files(tmp_path / "images", files | {"cat/copy.png": files["dog/2.png"]})
    with reviewing(folder, tmp_path / "out") as server:
        names = server.ask("GET", "/api/images").json["names"]
        pair = {names.index("cat/copy.png"), names.index("dog/2.png")}
        found = wait_for(server, n_ready=5)["contradictions"]
        assert [{one["row"], one["other"]} for one in found if one["other"] is not None] == [pair, pair]
        server.ask("POST", "/api/answer", {"rows": [names.index("cat/copy.png")], "label": 2})
        assert wait_for(server, 3, n_ready=5)["n_contradictions"] == 0


def test_exports_are_read_by_the_programs_that_they_are_for(folder: Path, tmp_path: Path) -> None:
    with reviewing(folder, tmp_path) as server:
        wait_for(server)
        for kind in ("csv", "classifier"):
            answer = server.ask("POST", f"/api/export/{kind}", {})
            assert (answer.status, "label an image" in answer.json["error"]) == (400, True)
        for row in range(3):
            revision = label(server, row, f"kind {row}")
        wait_for(server, revision)
        for kind in ("csv", "parquet", "coco", "label-studio", "sorted", "classifier"):
            answer = server.ask("POST", f"/api/export/{kind}", {})
            assert answer.status == 200, answer.json
            assert all(Path(one).exists() for one in answer.json["written"])
    rows = (tmp_path / "review.csv").read_text().splitlines()
    assert (len(rows), sum(row.endswith('"yes"') for row in rows)) == (N + 1, 3)
    assert len(json.loads((tmp_path / "review.coco.json").read_bytes())["annotations"]) == N
    assert len(list((tmp_path / "onelook-sorted").rglob("*.png"))) == N
    for table in ("review.csv", "review.sqlite"):
        found = list_folder(folder, tmp_path / table).listing
        assert {NAMES[i]: found.class_names[k] for i, k in enumerate(found.labels) if k >= 0} == {
            NAMES[row]: f"kind {row}" for row in range(3)
        }
    config = PredictConfig(tmp_path / "model.safetensors", (folder,))
    predicted = finish(predict_images(config, Place(folder.parent / "cache"))).predictions
    assert [one.label for one in predicted] == [f"kind {i % N_CLASSES}" for i in range(N)]


def test_only_files_of_the_page_and_pictures_of_the_rows_are_served(folder: Path, tmp_path: Path) -> None:
    with reviewing(folder, tmp_path) as server:
        stamp = server.ask("GET", "/api/images").json["stamps"][0]
        picture = server.ask("GET", f"/picture/0/small/{stamp}")
        assert (picture.status, picture.content[8:12]) == (200, b"WEBP")
        assert "immutable" in picture.headers["cache-control"]
        for path in ("/picture/0/small/x", f"/picture/1/small/{stamp}", f"/picture/{N}/small/{stamp}", "/00.png",
                     f"/picture/0/huge/{stamp}", "/static/../session.py", "/static/session.py", "/static/%2e%2e/a",
                     f"/picture/-1/small/{stamp}", "/api/export/csv"):  # fmt: skip
            assert server.ask("GET", path).status in (400, 404, 405), path
        page = server.ask("GET", "/")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert b"<script>" not in page.content
        assert b"style=" not in page.content
        assert {name: server.ask("GET", f"/static/{name}").status for name in FILES} == dict.fromkeys(FILES, 200)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/answer", {"rows": [N], "label": NONE_OF_THESE}),
        ("/api/answer", {"rows": [-1], "label": NONE_OF_THESE}),
        ("/api/answer", {"rows": [0], "label": 5}),
        ("/api/answer", {"rows": [0], "labels": [5]}),
        ("/api/answer", {"rows": [0], "labels": [CLEARED, CLEARED]}),
        ("/api/answer", {"rows": [0], "labels": [True]}),
        ("/api/answer", {"rows": [0], "label": -3}),
        ("/api/answer", {"rows": [], "label": NONE_OF_THESE}),
        ("/api/answer", {"rows": [0], "new_class": "a\u0000b"}),
        ("/api/answer", {"rows": "0", "label": NONE_OF_THESE}),
        ("/api/answer", {"rows": [True], "label": NONE_OF_THESE}),
        ("/api/classes", {"merge": 1, "into": 1}),
        ("/api/classes", {"add": 3}),
        ("/api/classes", {}),
        ("/api/answer", b"{"),
        ("/api/answer", b"[" * 10_000),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence_and_changes_nothing(
    quiet: Running, path: str, body: Any
) -> None:
    before = quiet.ask("GET", "/api/state").json["revision"]
    answer = quiet.ask("POST", path, body, {"Content-Type": "application/json"})
    assert (answer.status, answer.json["error"].endswith((".", "!"))) == (400, True)
    assert quiet.ask("POST", path, b"{}", {"Content-Type": "text/plain"}).status == 415, "what other sites can send"
    assert quiet.ask("GET", "/api/state").json["revision"] == before


@pytest.fixture(scope="module")
def quiet(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with reviewing(folder, tmp_path_factory.mktemp("quiet")) as server:
        wait_for(server)
        yield server
