"""Laws of the Label Studio backend, with a Label Studio that is simulated by what it sends and serves."""

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from helpers.images import class_image
from helpers.server import Running, running
from onelook.errors import DataError, SettingsError
from onelook.estimators.classifier import FewShotClassifier
from onelook.machine import Place
from onelook.server.label_studio import Backend
from onelook.server.label_studio_config import parse_interface
from onelook.server.label_studio_host import Host
from onelook.server.service import Service, create_app
from onelook.server.settings import LabelStudioConfig, ServeConfig

INTERFACE = """<View><Image name="picture" value="$image"/>
<Choices name="kind" toName="picture"><Choice value="ant"/><Choice value="bee"/></Choices></View>"""
KINDS = ("ant", "bee")
TASKS = {10 * k + i: KINDS[k] for k in range(2) for i in range(1, 5)}
"""Classes of the tasks by their numbers."""
ACCESS = "Bearer access"


class Studio(BaseHTTPRequestHandler):
    """Images at /data/K-I.png for whoever has the access token, and redirects to nowhere good."""

    asked: list[str] = []  # noqa: RUF012 - of all requests

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.headers.get("Authorization") != ACCESS:
            self._answer(401, b"")
        elif self.path.startswith("/data/"):
            k, i = self.path.removeprefix("/data/").removesuffix(".png").split("-")
            self._answer(200, class_image(int(k), int(i)))
        elif self.path.startswith("/api/projects/7/export"):
            self._answer(200, json.dumps([make_task(task, [note(task)]) for task in (1, 11)]).encode())
        elif self.path == "/redirect.png":
            self._answer(302, b"", {"Location": f"http://127.0.0.1:{self.server.server_address[1]}/data/0-1.png"})
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_right = self.path == "/api/token/refresh" and asked == {"refresh": "personal.access.token"}
        self._answer(200 if is_right else 401, b'{"access": "access"}')

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def note(task: int, label: str | None = None, number: int | None = None) -> dict[str, Any]:
    """Annotation of a task, by its own class where no label is given."""
    value = {"choices": [label or TASKS[task]]}
    result = [{"from_name": "kind", "to_name": "picture", "type": "choices", "value": value}]
    return {"id": number or 100 + task, "result": result, "was_cancelled": False, "task": task}


def make_task(task: int, annotations: list[dict[str, Any]] | None = None, image: str | None = None) -> dict[str, Any]:
    image = image or f"/data/{task // 10}-{task % 10}.png"
    return {"id": task, "data": {"image": image}, "annotations": annotations or [], "predictions": [], "project": 7}


def event(action: str, project: int = 7, **more: Any) -> dict[str, Any]:
    return {"action": action, "project": {"id": project, "label_config": INTERFACE, "title": "x"}, **more}


def ask_predictions(server: Running, tasks: list[dict[str, Any]], project: str = "7.1700000000") -> Any:
    body = {"tasks": tasks, "project": project, "label_config": INTERFACE, "params": {"context": None}}
    answer = server.ask("POST", "/predict", body)
    assert answer.status == 200, answer.content
    return answer.json["results"]


@pytest.fixture(scope="module")
def studio() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Studio)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def config(studio: str) -> LabelStudioConfig:
    return LabelStudioConfig(studio, "personal.access.token")


@pytest.fixture
def backend(config: LabelStudioConfig, tmp_path: Path) -> Iterator[Running]:
    service = Service(ServeConfig(tmp_path / "kept", "small"), Place(tmp_path / "cache", precision="float32"))
    with running(create_app(service, Backend(service, config).routes())) as server:
        yield server


def test_it_predicts_what_it_has_learnt_and_learns_on(backend: Running, tmp_path: Path) -> None:
    assert backend.ask("GET", "/health").json["status"] == "UP"
    everything = [make_task(task) for task in TASKS]
    setup = {"project": "7.1700000000", "schema": INTERFACE, "hostname": "http://evil.example", "access_token": "x"}
    first = backend.ask("POST", "/setup", setup).json["model_version"]
    assert ask_predictions(backend, everything) == []
    for task in (1, 11):
        answer = backend.ask(
            "POST", "/webhook", event("ANNOTATION_CREATED", annotation=note(task), task=make_task(task))
        )
        assert answer.status == 201, answer.content
    second = backend.ask("POST", "/setup", setup).json["model_version"]
    results = ask_predictions(backend, everything)
    assert [one["result"][0]["value"]["choices"][0] for one in results] == list(TASKS.values())
    assert {(one["result"][0]["from_name"], one["result"][0]["to_name"]) for one in results} == {("kind", "picture")}
    assert all(0.5 < one["score"] <= 1 for one in results)
    assert {one["model_version"] for one in results} == {second} != {first}
    kept = FewShotClassifier.load(tmp_path / "kept" / "label-studio-7.safetensors")
    assert sorted(kept.classes_) == ["ant", "bee"]
    assert len(kept.transduction_) == 6
    assert backend.ask("GET", "/v1/classifiers/label-studio-7").json["n_examples"] == 2


def test_a_changed_label_counts_a_deleted_one_does_not_and_versions_follow_the_labels(backend: Running) -> None:
    def learn(action: str, **more: Any) -> str:
        answer = backend.ask("POST", "/webhook", event(action, **more))
        assert answer.status == 201, answer.content
        return str(answer.json["model_version"])

    start = learn("ANNOTATIONS_CREATED", annotation=[note(1), note(11)], task=[make_task(1), make_task(11)])
    more = learn("ANNOTATION_CREATED", annotation=note(2), task=make_task(2))
    changed = learn("ANNOTATION_UPDATED", annotation=note(2, "bee"), task=make_task(2))
    assert len({start, more, changed}) == 3
    assert learn("ANNOTATIONS_DELETED", annotations=[{"id": 102}]) == start
    assert learn("ANNOTATION_CREATED", annotation=note(2) | {"was_cancelled": True}, task=make_task(2)) == start
    assert learn("ANNOTATION_CREATED", annotation=note(2, "wasp"), task=make_task(2)) == start, "no such choice"
    assert learn("PROJECT_UPDATED") == start
    assert learn("TASKS_DELETED", tasks=[{"id": 1}]) != start
    assert ask_predictions(backend, [make_task(12)]) == [], "one class is left"


def test_start_training_fetches_the_annotations_from_before(backend: Running) -> None:
    assert backend.ask("POST", "/webhook", event("START_TRAINING")).status == 201
    assert len(ask_predictions(backend, [make_task(12)])) == 1


def test_annotations_that_come_with_the_tasks_count(backend: Running) -> None:
    results = ask_predictions(backend, [make_task(1, [note(1)]), make_task(11, [note(11)]), make_task(2)])
    assert [one["result"][0]["value"]["choices"][0] for one in results] == ["ant", "bee", "ant"]


def test_an_image_that_cannot_be_had_gets_no_result_and_the_others_do(backend: Running) -> None:
    data = "data:image/png;base64," + base64.b64encode(class_image(1, 9)).decode()
    tasks = [make_task(1, [note(1)]), make_task(11, [note(11)]), make_task(20, image="http://evil.example/x.png")]
    tasks += [make_task(21, image=data), make_task(22, image="/gone.png"), {"id": 23, "data": {}}]
    results = ask_predictions(backend, tasks)
    assert [bool(one["result"]) for one in results] == [True, True, False, True, False, False]
    assert results[3]["result"][0]["value"]["choices"] == ["bee"]


def test_what_was_acknowledged_is_there_after_a_restart(config: LabelStudioConfig, tmp_path: Path) -> None:
    def start() -> Any:
        service = Service(ServeConfig(tmp_path, "small"), Place(tmp_path / "cache", precision="float32"))
        return running(create_app(service, Backend(service, config).routes()))

    with start() as server:
        body = event("ANNOTATIONS_CREATED", annotation=[note(1), note(11)], task=[make_task(1), make_task(11)])
        version = server.ask("POST", "/webhook", body).json["model_version"]
        ask_predictions(server, [make_task(2)])
    Studio.asked.clear()
    with start() as server:
        (result,) = ask_predictions(server, [make_task(2)])
    assert result["model_version"] == version
    assert Studio.asked == [], "features are kept"


@pytest.mark.parametrize(
    "value",
    [
        "http://evil.example/x.png",
        "//evil.example/x.png",
        "{studio}@evil.example/x.png",
        "{studio}.evil.example/x.png",
        "file:///etc/passwd",
        "/etc\\passwd",
        "/x\r\nHost: evil.example",
        "data:text/html;base64,eA==",
        "data:image/png,x",
        "data:image/png;base64,!",
        "ftp://127.0.0.1/x",
        None,
        3,
    ],
)
def test_no_other_host_is_ever_asked(studio: str, config: LabelStudioConfig, value: Any) -> None:
    Studio.asked.clear()
    with pytest.raises(DataError):
        Host(config).read_image(value.replace("{studio}", studio) if isinstance(value, str) else value)
    assert Studio.asked == []


def test_redirects_are_not_followed(studio: str, config: LabelStudioConfig) -> None:
    with pytest.raises(DataError, match="status 302"):
        Host(config).read_image(f"{studio}/redirect.png")
    assert Host(config).read_image("/data/0-1.png") == class_image(0, 1)
    with pytest.raises(DataError, match="status 401"):
        Host(LabelStudioConfig(studio, "legacy")).read_image("/data/0-1.png")
    with pytest.raises(DataError, match="start the server with --label-studio"):
        Host(LabelStudioConfig(None, None)).read_image("/data/0-1.png")


def test_a_label_studio_that_does_not_answer_is_told_of_at_once(tmp_path: Path) -> None:
    service = Service(ServeConfig(tmp_path, "small"), Place(tmp_path / "cache", precision="float32"))
    nobody = LabelStudioConfig("http://127.0.0.1:9", None)
    with running(create_app(service, Backend(service, nobody).routes())) as server:
        body = {"tasks": [make_task(1), make_task(2)], "project": "7", "label_config": INTERFACE}
        answer = server.ask("POST", "/predict", body)
    assert answer.status == 400
    assert answer.json["error"].startswith("The Label Studio at http://127.0.0.1:9 does not answer")


def test_an_address_of_label_studio_is_one() -> None:
    with pytest.raises(SettingsError, match="such as http://localhost:8080"):
        LabelStudioConfig("localhost:8080")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<View/>", "needs one Choices tag, but has 0"),
        (INTERFACE.replace("<View>", '<View><Choices name="b" toName="picture"/>'), "but has 2"),
        (INTERFACE.replace('toName="picture"', 'toName="text"'), "must be about an Image tag"),
        (INTERFACE.replace('toName="picture"', 'toName="picture" choice="multiple"'), "one choice for the whole image"),
        (INTERFACE.replace('value="ant"', 'html="x"').replace('value="bee"', 'html="y"'), "needs two choices"),
        ("<View>", "is no XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "has a document type"),
        ("x" * 1_000_001, "too large"),
    ],
)
def test_interfaces_that_it_cannot_answer_for_are_told_of(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_interface(text)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/predict", {"tasks": [], "project": "x", "label_config": INTERFACE}, 422),
        ("/predict", {"tasks": [{"data": {}}], "project": "7", "label_config": INTERFACE}, 422),
        ("/predict", {"tasks": [], "project": "7", "label_config": "<View/>"}, 400),
        ("/predict", b"{", 415),
        ("/setup", {"project": "../7", "schema": INTERFACE}, 422),
        ("/webhook", event("ANNOTATION_CREATED", annotation=[note(1)], task=[]), 422),
        ("/webhook", event("ANNOTATION_CREATED", annotation="x", task={}), 422),
        ("/webhook", {"action": "ANNOTATION_CREATED"}, 422),
    ],
)
def test_what_is_no_request_of_label_studio_is_refused(backend: Running, path: str, body: Any, status: int) -> None:
    answer = backend.ask("POST", path, body)
    assert (answer.status, list(answer.json)) == (status, ["error"])
