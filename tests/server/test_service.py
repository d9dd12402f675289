"""Laws of the service: what goes in and comes out over HTTP is what the library computes, and is on the disk."""

import io
import json
import shutil
import signal
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.images import class_image
from helpers.server import Answer, Running, running
from helpers.terminal import start
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.image_features import ImageFeatures
from onelook.events import finish
from onelook.files import write_atomically
from onelook.labelling.predict import PredictConfig, predict_images
from onelook.labelling.suggest import suggest
from onelook.machine import Place
from onelook.server import schemas
from onelook.server.classifiers import Classifiers
from onelook.server.service import Service, create_app
from onelook.server.settings import ServeConfig
from onelook.server.uploads import Sizes

X = np.random.default_rng(0).normal(size=(6, 40)) + np.repeat(np.eye(3, 40) * 6, 2, axis=0)
POOL = np.random.default_rng(1).normal(size=(30, 40)) + np.repeat(np.eye(3, 40) * 6, 10, axis=0)
LABELS = ["ant", "ant", "bee", "bee", "fly", "fly"]
EXAMPLES = {"features": X.tolist(), "labels": LABELS, "unlabelled": POOL.tolist()}
V1 = "/v1/classifiers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classifiers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"), precision="float32")


@pytest.fixture(scope="module")
def service(folder: Path, place: Place) -> Iterator[Running]:
    with running(create_app(Service(ServeConfig(folder, "small"), place, Sizes(array_bytes=2**20)))) as server:
        assert server.ask("POST", f"{V1}/insects", EXAMPLES).status == 201
        yield server


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def form(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form: name, file name or None, and content of each part."""
    lines = []
    for name, file, content in parts:
        file_name = "" if file is None else f'; filename="{file}"'
        lines += [f'--b\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n\r\n'.encode(), content, b"\r\n"]
    return b"".join([*lines, b"--b--\r\n"]), {"Content-Type": "multipart/form-data; boundary=b"}


def as_npz(server: Running, method: str, path: str, **arrays: Any) -> Answer:
    return server.ask(method, path, npz(**arrays), {"Content-Type": "application/x-npz"})


def test_a_classifier_over_http_is_the_one_of_the_library(service: Running, folder: Path) -> None:
    own = FewShotClassifier().fit(X, LABELS, unlabeled=POOL)
    answer = service.ask("PUT", f"{V1}/insects", EXAMPLES)
    assert answer.status == 201
    schemas.Fitted.model_validate(answer.json)
    assert [one["label"] for one in answer.json["unlabelled"]] == own.transduction_.tolist()
    assert answer.json["classes"] == [{"name": name, "n_examples": 2} for name in ("ant", "bee", "fly")]
    found = service.ask("POST", f"{V1}/insects/predict?probabilities=1", {"features": POOL.tolist()}).json
    schemas.Predictions.model_validate(found)
    rows = [[one["probabilities"][name] for name in own.classes_] for one in found["predictions"]]
    np.testing.assert_allclose(rows, own.predict_proba(POOL), atol=1e-6)
    kept = FewShotClassifier.load(folder / "insects.safetensors")
    np.testing.assert_array_equal(kept.predict_proba(POOL), own.predict_proba(POOL))
    as_file = service.ask("GET", f"{V1}/insects/file")
    assert as_file.content == (folder / "insects.safetensors").read_bytes()


def test_json_and_npz_say_the_same(service: Running) -> None:
    one = service.ask("PUT", f"{V1}/as-json", EXAMPLES)
    other = as_npz(service, "PUT", f"{V1}/as-npz", features=X, labels=np.array(LABELS), unlabelled=POOL)
    assert one.status == other.status == 201
    assert one.json["unlabelled"] == other.json["unlabelled"]
    rows = service.ask("POST", f"{V1}/as-json/predict", {"features": X.tolist()}).json
    assert as_npz(service, "POST", f"{V1}/as-npz/predict", features=X).json == rows


def test_accuracy_and_suggestions_are_those_of_the_library(service: Running) -> None:
    own = FewShotClassifier().fit(X, LABELS, unlabeled=POOL)
    accuracy = service.ask("GET", f"{V1}/insects/accuracy").json
    schemas.Accuracy.model_validate(accuracy)
    estimate = own.estimate_accuracy().accuracy
    assert accuracy["expected_accuracy"] == {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    found = service.ask("POST", f"{V1}/insects/suggest?number=3").json
    schemas.Suggestions.model_validate(found)
    pool, labelled = (torch.from_numpy(own.scale_rows(some)) for some in (POOL, X))
    expected = suggest(pool, torch.from_numpy(own.transduction_proba_).float(), 3, labelled, own.classes_.tolist())
    assert [(one["index"], one["why"]) for one in found["suggestions"]] == [(one.index, one.why) for one in expected]
    asked = service.ask("POST", f"{V1}/insects/suggest?number=3", {"features": POOL.tolist()}).json
    assert {one["index"] for one in asked["suggestions"]} <= set(range(30))


def test_examples_and_classes_are_added_one_change_after_the_other(service: Running) -> None:
    service.ask("PUT", f"{V1}/growing", EXAMPLES)
    new = np.random.default_rng(2).normal(size=(6, 40))
    assert service.ask("POST", f"{V1}/growing/examples", {"features": X[:1].tolist(), "labels": ["wasp"]}).status == 200

    def add(row: np.ndarray) -> int:
        return service.ask("POST", f"{V1}/growing/examples", {"features": [row.tolist()], "labels": ["wasp"]}).status

    with ThreadPoolExecutor(6) as clients:
        assert set(clients.map(add, new)) == {200}
    about = service.ask("GET", f"{V1}/growing").json
    schemas.Description.model_validate(about)
    assert about["classes"][-1] == {"name": "wasp", "n_examples": 7}
    assert about["n_unlabelled"] == len(POOL)


def test_images_are_seen_as_the_command_line_sees_them(
    service: Running, folder: Path, place: Place, tmp_path: Path
) -> None:
    files = {f"{k}-{i}.png": class_image(k, i) for k in range(2) for i in range(3)}
    parts = []
    for name, content in files.items():
        kind = "image" if name[2] in "01" else "unlabelled"
        parts += [(kind, name, content)] + ([("label", None, f"class {name[0]}".encode())] if kind == "image" else [])
    answer = service.ask("POST", f"{V1}/pictures", *form(*parts))
    assert answer.status == 201, answer.json
    assert [(one["name"], one["label"]) for one in answer.json["unlabelled"]] == [
        ("0-2.png", "class 0"),
        ("1-2.png", "class 1"),
    ]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in files]
    expected = ImageFeatures("small", cache=place.cache, precision="float32").transform(paths)
    rows = FewShotClassifier.load(folder / "pictures.safetensors")._examples.rows
    np.testing.assert_allclose(rows, expected[[0, 1, 3, 4]], atol=1e-6)
    found = service.ask(
        "POST", f"{V1}/pictures/predict", *form(*[("image", p.name, p.read_bytes()) for p in paths])
    ).json
    by_command = finish(predict_images(PredictConfig(folder / "pictures.safetensors", tuple(paths)), place))
    assert [one["label"] for one in found["predictions"]] == [one.label for one in by_command.predictions]
    np.testing.assert_allclose(
        [one["probability"] for one in found["predictions"]],
        [one.probability for one in by_command.predictions],
        atol=1e-5,
    )


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_answered(service: Running) -> None:
    parts = [("image", "0.png", class_image(0, 0)), ("label", None, b"a"), ("image", "1.png", class_image(1, 0))]
    parts += [("label", None, b"b"), ("image", "bad<b>.png", b"no image"), ("label", None, b"b")]
    answer = service.ask("POST", f"{V1}/damaged", *form(*parts))
    assert answer.json["rejected"] == [{"name": "bad<b>.png", "reason": "it is not an image"}]
    assert answer.json["n_examples"] == 2
    refused = service.ask("POST", f"{V1}/damaged/predict", *form(("image", "x", b"no image")))
    assert (refused.status, refused.json["error"][:32]) == (400, "None of the images can be read; ")


def test_a_file_that_was_put_into_the_folder_is_served_and_one_that_changed_is_read_again(
    service: Running, folder: Path
) -> None:
    shutil.copy(folder / "insects.safetensors", folder / "copied.safetensors")
    assert service.ask("GET", f"{V1}/copied").json["n_examples"] == 6
    FewShotClassifier().fit(X[:4], LABELS[:4]).save(folder / "copied.safetensors")
    assert service.ask("GET", f"{V1}/copied").json["n_examples"] == 4
    names = [one["name"] for one in service.ask("GET", V1).json["classifiers"]]
    assert "copied" in names
    assert names == sorted(names)
    assert service.ask("DELETE", f"{V1}/copied").status == 204
    assert service.ask("GET", f"{V1}/copied").status == 404
    assert not (folder / "copied.safetensors").exists()


def test_a_classifier_that_is_deleted_or_replaced_while_it_is_read_is_gone_or_the_new_one(
    service: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, load = folder / "fleeting.safetensors", FewShotClassifier.load
    FewShotClassifier().fit(X, LABELS).save(path)
    reading, content = Classifiers(folder).open_file("fleeting"), path.read_bytes()
    happens: list[Callable[[], object]] = [
        lambda: write_atomically(path, b"no classifier"),
        lambda: FewShotClassifier().fit(X[:4], LABELS[:4]).save(path),
        path.unlink,
    ]

    def load_late(file: Path) -> FewShotClassifier:
        happens.pop(0)()
        return load(file)

    monkeypatch.setattr(FewShotClassifier, "load", load_late)
    assert service.ask("GET", f"{V1}/fleeting").json["n_examples"] == 4
    path.touch()
    assert service.ask("GET", f"{V1}/fleeting").status == 404
    with reading:
        assert reading.read() == content


def test_links_are_not_followed_and_damaged_files_are_told_of(service: Running, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret")
    (folder / "broken.safetensors").write_text("broken")
    try:
        assert service.ask("GET", f"{V1}/link/file").status == 404
        assert service.ask("PUT", f"{V1}/link", EXAMPLES).status == 409
        answer = service.ask("GET", f"{V1}/broken")
        assert answer.status == 400
        assert str(folder) not in answer.json["error"]
    finally:
        (folder / "link.safetensors").unlink()
        (folder / "broken.safetensors").unlink()
    assert (tmp_path / "secret").read_text() == "secret"


def test_progress_comes_as_events_and_the_last_is_the_result(service: Running) -> None:
    stream = {"Accept": "text/event-stream", "Content-Type": "application/json"}
    answer = service.ask("PUT", f"{V1}/streamed", json.dumps(EXAMPLES).encode(), stream)
    events = [one.split("\n") for one in answer.content.decode().strip().split("\n\n")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [one[0] for one in events] == ["event: progress", "event: result"]
    schemas.Fitted.model_validate_json(events[-1][1].removeprefix("data: "))
    answer = service.ask("POST", f"{V1}/streamed", json.dumps(EXAMPLES).encode(), stream)
    assert answer.content.decode().startswith('event: error\ndata: {"status": 409, "error": "There is a classifier')


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", f"{V1}/nobody", None, 404, "There is no classifier nobody."),
        ("GET", "/v2", None, 404, "Not Found"),
        ("PATCH", f"{V1}/insects", None, 405, "Method Not Allowed"),
        ("POST", f"{V1}/insects", EXAMPLES, 409, "There is a classifier insects already"),
        ("POST", f"{V1}/insects/predict", b"{", 415, "Send features as application/json"),
        ("POST", f"{V1}/insects/predict", {}, 422, "features: Field required."),
        ("POST", f"{V1}/insects/predict", {"features": [[1]], "x": 1}, 422, "x: Extra inputs are not permitted."),
        (
            "POST",
            f"{V1}/insects/predict",
            {"features": [[1, "a"]]},
            422,
            "features.0.1: Input should be a valid number",
        ),
        (
            "POST",
            f"{V1}/insects/predict",
            {"features": [[float("nan")]]},
            422,
            "features.0.0: Input should be a finite",
        ),
        ("POST", f"{V1}/insects/predict", {"features": [[1, 2]]}, 400, "The rows of insects have 40 features"),
        ("POST", f"{V1}/insects/predict", {"features": [[1, 2], [3]]}, 400, "features must be rows of numbers"),
        ("POST", f"{V1}/insects/predict", {"features": []}, 400, "features must be rows of numbers"),
        (
            "POST",
            f"{V1}/insects/predict?unknown_rate=2",
            {"features": [[1]]},
            422,
            "query.unknown_rate: Input should be",
        ),
        ("POST", f"{V1}/new", {"features": [[1, 2]], "labels": []}, 400, "There are 1 rows or images, but 0 labels"),
        ("POST", f"{V1}/new", {"features": [[1, 2]], "labels": ["a\u0000"]}, 400, "A label must have 1 to 200"),
        ("POST", f"{V1}/new", {"features": [[1], [2]], "labels": ["a", 1]}, 400, "Labels must be words, or whole"),
        ("POST", f"{V1}/new", {"features": [[1], [2]], "labels": ["a", "a"]}, 400, ""),
        ("POST", f"{V1}/new?network=hf:x/y", None, 400, "This server knows the networks"),
        ("POST", f"{V1}/.hidden", EXAMPLES, 404, "A classifier is named by"),
        ("POST", f"{V1}/a%2Fb", EXAMPLES, 404, ""),
        ("POST", f"{V1}/{'x' * 65}", EXAMPLES, 404, "A classifier is named by"),
        ("POST", f"{V1}/insects/examples", EXAMPLES, 400, "Examples that are added have labels"),
        ("POST", f"{V1}/insects/examples", {"features": X[:1].tolist(), "labels": [7]}, 400, "The labels so far"),
    ],
)
def test_what_cannot_be_served_gets_its_status_and_a_sentence(
    service: Running, folder: Path, method: str, path: str, body: Any, status: int, words: str
) -> None:
    before = sorted(folder.iterdir())
    if "network=" in path:
        body, headers = form(("image", "a", class_image(0, 0)), ("label", None, b"a"))
        answer = service.ask(method, path, body, headers)
    else:
        answer = service.ask(method, path, body)
    assert answer.status == status, answer.content
    assert list(answer.json) == ["error"]
    assert answer.json["error"].startswith(words)
    assert "Traceback" not in answer.json["error"]
    assert sorted(folder.iterdir()) == before


def test_an_npz_file_is_refused_where_it_is_no_plain_arrays(service: Running) -> None:
    bomb = npz(features=np.zeros((1, 2**18)))
    honest, lying = io.BytesIO(), io.BytesIO()
    np.save(honest, X)
    with zipfile.ZipFile(lying, "w") as archive:
        archive.writestr("features.npy", honest.getvalue().replace(b"(6, 40)", b"(9, 99)"))
    bodies = {
        "pickled": npz(features=np.array([[{}]], dtype=object)),
        "too many": npz(**{f"x{i}": X for i in range(20)}),
        "other names": npz(rows=X),
        "damaged": npz(features=X)[:-30],
        "lying": lying.getvalue(),
        "words": npz(features=np.array([["a"]])),
        "infinite": npz(features=np.array([[np.inf]])),
    }
    for name, body in bodies.items():
        answer = service.ask("POST", f"{V1}/insects/predict", body, {"Content-Type": "application/x-npz"})
        assert answer.status == 400, (name, answer.content)
    answer = service.ask("POST", f"{V1}/insects/predict", bomb, {"Content-Type": "application/x-npz"})
    assert answer.status == 413


def test_the_page_of_addresses_names_all_of_them_and_holds_no_script(service: Running) -> None:
    page, api = service.ask("GET", "/docs").content.decode(), service.ask("GET", "/openapi.json").json
    assert "<script" not in page
    assert "http" not in page.replace("over HTTP", "")
    assert "style=" not in page
    for path, methods in api["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b> {path}</h2>" in page
    assert service.ask("GET", "/docs.css").headers["content-type"].startswith("text/css")
    assert service.ask("GET", "/").headers["location"] == "/docs"


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    program, kept = "from onelook.cli import main; main()", tmp_path / "kept"
    command = [sys.executable, "-c", program, "serve", "--out", kept, "--port", "0"]
    rows = {"features": X.tolist(), "labels": LABELS}
    with start(*command) as process, ThreadPoolExecutor(4) as clients:
        assert process.stderr is not None
        url = process.stderr.readline().split()[1]
        futures = [clients.submit(_post, f"{url}{V1}/c{i}", rows) for i in range(300)]
        deadline = time.monotonic() + 60
        while sum(future.done() for future in futures) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    acknowledged = [i for i, future in enumerate(futures) if future.exception() is None]
    assert 10 <= len(acknowledged) < 300
    for i in acknowledged:
        FewShotClassifier.load(kept / f"c{i}.safetensors")


def _post(url: str, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        answer.read()
