"""A real Label Studio with Onelook as its backend: import, predictions, annotations, learning, better predictions.

    python -m venv ls && ls/bin/pip install label-studio
    python benchmarks/label_studio.py --label-studio ls/bin/label-studio [--data clothing10.zip] [--json FILE]

Label Studio runs offline, with SQLite in a temporary folder, and `onelook serve` beside it, with a token. A simulated
user labels one image of each class; predictions come by the button of the data manager ("Retrieve predictions"), and
are counted on the images that nobody labels in the whole run. Then the user labels those that Onelook is least sure of,
asks again, and is counted again. Labels are changed and deleted too, to see that the backend takes note. Without
--data, and where there is no clothing10.zip in the data folder, pictures are drawn.
"""

import argparse
import contextlib
import io
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from onelook.artifacts import PHOTOGRAPHS
from onelook.data.datasets import data_home
from onelook.machine import commit, machine

HELD_OUT = 3
"""Images of each class that are never labelled."""


@dataclass
class Studio:
    """Label Studio's API, as its users call it."""

    url: str
    token: str
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self.session.request(
            method, f"{self.url}/api/{path}", headers={"Authorization": f"Token {self.token}"}, timeout=300, **more
        )
        if not answer.ok:
            raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text[:2000]}")
        return answer.json() if answer.content else None


@dataclass
class Project:
    """A project with a backend, and a user who knows the class of each task."""

    studio: Studio
    id: int
    truth: dict[int, str]
    annotations: dict[int, int] = field(default_factory=dict)

    def label(self, task: int, name: str | None = None) -> None:
        result = [
            {
                "from_name": "kind",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [name or self.truth[task]]},
            }
        ]
        if task in self.annotations:
            self.studio.ask("PATCH", f"annotations/{self.annotations[task]}/", json={"result": result})
        else:
            made = self.studio.ask("POST", f"tasks/{task}/annotations/", json={"result": result})
            self.annotations[task] = made["id"]

    def unlabel(self, task: int) -> None:
        self.studio.ask("DELETE", f"annotations/{self.annotations.pop(task)}/")

    def predict(self) -> dict[int, dict[str, Any]]:
        """The newest prediction of each task, after asking for predictions in the data manager."""
        action = {"selectedItems": {"all": True, "excluded": []}}
        self.studio.ask("POST", f"dm/actions?id=retrieve_tasks_predictions&project={self.id}", json=action)
        found: dict[int, dict[str, Any]] = {}
        for task in self.truth:
            predictions = self.studio.ask("GET", f"predictions?task={task}")
            for one in sorted(predictions, key=lambda one: one["id"]):
                if one["result"]:
                    found[task] = {
                        "label": one["result"][0]["value"]["choices"][0],
                        "score": one["score"],
                        "version": one["model_version"],
                    }
        return found

    def count(self, found: dict[int, dict[str, Any]], tasks: list[int]) -> float:
        return sum(task in found and found[task]["label"] == self.truth[task] for task in tasks) / len(tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--label-studio", type=Path, required=True, help="The program label-studio.")
    parser.add_argument("--data", type=Path, default=data_home() / "clothing10.zip", help="A zip of class folders.")
    parser.add_argument("--per-class", type=int, default=6, help="Images of each class.")
    parser.add_argument("--network", default=PHOTOGRAPHS, help="Feature network of Onelook.")
    parser.add_argument("--json", type=Path, help="File to write the record to.")
    options = parser.parse_args()
    images = read_images(options.data, options.per_class)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        studio, version = start_studio(stack, options.label_studio.resolve(), folder)
        onelook, token = start_onelook(stack, studio, folder, options.network)
        record = run(set_up(studio, onelook, token, images))
        record["saved"] = sorted(path.name for path in (folder / "classifiers").glob("*.safetensors"))
    record = {
        "experiment": f"Label Studio {version} with Onelook as its backend",
        "data": options.data.name if options.data.exists() else "drawn",
        "n_images": len(images),
        "network": options.network,
        **record,
        "command": "python benchmarks/label_studio.py",
        "commit": commit(),
        "machine": machine(),
    }
    print(json.dumps(record, indent=2))
    if options.json:
        options.json.write_text(json.dumps([record], indent=1) + "\n")


def read_images(source: Path, per_class: int) -> list[tuple[str, str, bytes]]:
    """Name, class and content of the images, in a random order."""
    draw, files = random.Random(0), defaultdict[str, list[tuple[str, bytes]]](list)
    if source.exists():
        with zipfile.ZipFile(source) as archive:
            for name in sorted(archive.namelist()):
                parts = name.split("/")
                if len(parts) >= 2 and name.lower().endswith((".jpg", ".jpeg", ".png")):
                    files[parts[-2]].append((name, b""))
            chosen = {kind: draw.sample(found, per_class) for kind, found in files.items()}
            rows = [
                (f"{kind}-{i}{Path(name).suffix}", kind, archive.read(name))
                for kind, found in chosen.items()
                for i, (name, _) in enumerate(found)
            ]
    else:
        rows = [(f"{k}-{i}.png", f"kind {k}", drawing(k, i)) for k in range(10) for i in range(per_class)]
    draw.shuffle(rows)
    return rows


def drawing(kind: int, number: int) -> bytes:
    """Picture with the colour of its kind, stripes and noise."""
    look, draw = np.random.default_rng(kind), np.random.default_rng([kind, number])
    stripes = np.sin(np.arange(64) * look.uniform(0.1, 1.0))[None, :, None]
    pixels = look.uniform(40, 215, 3) + 35 * stripes + draw.normal(0, 40, (64, 64, 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def start_studio(stack: contextlib.ExitStack, program: Path, folder: Path) -> tuple[Studio, str]:
    token, port = secrets.token_hex(20), free_port()
    # It refuses backends and webhooks on this machine unless it is told otherwise.
    words = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false", "COLLECT_ANALYTICS": "false"}
    words |= {"LATEST_VERSION_CHECK": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "HOME": str(folder)}
    account = ["--username", "user@example.com", "--password", secrets.token_hex(8), "--user-token", token]
    command = [program, "start", "-b", "-p", str(port), "--data-dir", folder / "studio", "--enable-legacy-api-token"]
    process = launch(stack, [*command, *account], folder / "studio.log", words)
    studio = Studio(f"http://127.0.0.1:{port}", token)
    wait_for(f"{studio.url}/health", folder / "studio.log", process)
    return studio, studio.ask("GET", "version")["release"]


def start_onelook(stack: contextlib.ExitStack, studio: Studio, folder: Path, network: str) -> tuple[str, str]:
    token, port = secrets.token_hex(20), free_port()
    personal = studio.ask("POST", "token/")["token"]  # the kind that Label Studio gives by default now
    words = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": personal, "ONELOOK_TOKEN": token}
    command = [
        sys.executable,
        "-c",
        "from onelook.cli import main; main()",
        "serve",
        "--out",
        folder / "classifiers",
        "--port",
        str(port),
    ]
    process = launch(stack, [*command, "--network", network], folder / "onelook.log", words)
    wait_for(f"http://127.0.0.1:{port}/health", folder / "onelook.log", process)
    return f"http://127.0.0.1:{port}", token


def launch(
    stack: contextlib.ExitStack, command: list[Any], log: Path, words: dict[str, str]
) -> "subprocess.Popen[bytes]":
    file = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        env=os.environ | words,
        cwd=log.parent,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(url: str, log: Path, process: "subprocess.Popen[bytes]", seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=5).ok:
                return
        time.sleep(0.5)
    raise SystemExit(f"{url} does not answer:\n{log.read_text()[-3000:]}")


def set_up(studio: Studio, onelook: str, token: str, images: list[tuple[str, str, bytes]]) -> Project:
    """Make a project, import the images, and connect the backend, as docs/service.md says."""
    choices = "".join(f'<Choice value="{kind}"/>' for kind in sorted({kind for _, kind, _ in images}))
    label_config = f"""<View><Image name="image" value="$image"/>
        <Choices name="kind" toName="image">{choices}</Choices></View>"""
    project = studio.ask("POST", "projects", json={"title": "onelook", "label_config": label_config})["id"]
    for start in range(0, len(images), 20):
        files = [(name, (name, content)) for name, _, content in images[start : start + 20]]
        studio.ask("POST", f"projects/{project}/import", files=files)
    kinds = {name: kind for name, kind, _ in images}
    tasks = studio.ask("GET", f"tasks?project={project}&fields=all&page_size=1000")["tasks"]
    truth = {task["id"]: kinds[task["data"]["image"].split("/")[-1].split("-", 1)[1]] for task in tasks}
    backend = {"project": project, "url": onelook, "title": "Onelook", "auth_method": "BASIC_AUTH"}
    studio.ask("POST", "ml", json={**backend, "basic_auth_user": "onelook", "basic_auth_pass": token})
    for one in studio.ask("GET", f"webhooks/?project={project}"):
        studio.ask("PATCH", f"webhooks/{one['id']}/", json={"headers": {"Authorization": f"Bearer {token}"}})
    return Project(studio, project, truth)


def run(project: Project) -> dict[str, Any]:
    by_kind = defaultdict[str, list[int]](list)
    for task, kind in sorted(project.truth.items()):
        by_kind[kind].append(task)
    held_out = [task for tasks in by_kind.values() for task in tasks[:HELD_OUT]]
    assert project.predict() == {}, "nothing can be predicted without annotations"
    for tasks in by_kind.values():
        project.label(tasks[-1])
    started = time.monotonic()
    first = project.predict()
    seconds = time.monotonic() - started
    open_tasks = [task for task in first if task not in held_out and task not in project.annotations]
    doubtful = sorted(open_tasks, key=lambda task: first[task]["score"])[: len(by_kind)]
    for task in doubtful:
        project.label(task)
    second = project.predict()
    return {
        "n_classes": len(by_kind),
        "n_held_out": len(held_out),
        "labels_at_first": len(by_kind),
        "accuracy_at_first": round(project.count(first, held_out), 3),
        "labels_then": len(by_kind) + len(doubtful),
        "accuracy_then": round(project.count(second, held_out), 3),
        "tasks_with_predictions": min(len(first), len(second)),
        "seconds_to_first_predictions": round(seconds, 1),
        "new_version_after": check_changes(project, doubtful[0]),
        "state_in_label_studio": read_backend(project)["readable_state"],
    }


def check_changes(project: Project, task: int) -> str:
    """Whatever gives the backend a new version: a label that is changed, and deleted, and given again."""
    other = next(kind for kind in project.truth.values() if kind != project.truth[task])
    steps = {
        "a changed label": lambda: project.label(task, other),
        "a deleted label": lambda: project.unlabel(task),
        "a new label": lambda: project.label(task),
        "training again": lambda: project.studio.ask("POST", f"ml/{read_backend(project)['id']}/train", json={}),
    }
    found, version = [], read_backend(project)["model_version"]
    for name, step in steps.items():
        step()
        project.predict()
        now = read_backend(project)["model_version"]
        found += [name] if now != version else []
        version = now
    return ", ".join(found)


def read_backend(project: Project) -> dict[str, Any]:
    (backend,) = project.studio.ask("GET", f"ml?project={project.id}")
    return dict(backend)


if __name__ == "__main__":
    main()
