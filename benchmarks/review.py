"""Simulated users and latencies of `onelook review`, through its HTTP interface.

    python benchmarks/review.py users FOLDER_OF_CLASS_FOLDERS --users 20 --json benchmarks/review.json
    python benchmarks/review.py latency --images 5000,50000 --json benchmarks/review-latency.json

A user has a random part of the images and no label, and answers 30 times what is proposed first. Compared with 3 labels
of each class at random on the same images: the accuracy on the images without a label, paired.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onelook import FewShotClassifier, ImageFeatures
from onelook.files import write_atomically
from onelook.machine import provenance

ANSWERS, SHOTS, PART = 30, 3, 0.8


@contextmanager
def reviewing(folder: Path, features: Path) -> Iterator[str]:
    """The command as a process of its own; the address of its page."""
    words = ["review", folder, "--out", folder.parent / "out", "--features", features, "--no-open", "--port", "0"]
    program = "from onelook.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http\S+?(?=/$)", process.stdout.readline().strip())
        assert found, "the command has not said where its page is"
        yield found[0]
    finally:
        process.terminate()
        process.communicate()


def ask(address: str, path: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = response.read()
    return json.loads(answer) if answer[:1] in b"{[" else answer


def await_state(address: str, revision: int, which: str) -> dict[str, Any]:
    after = 0
    while True:
        state = ask(address, f"/api/state?after={after}")
        after = state["version"]
        if state[which] >= revision and state["n_ready"]:
            return dict(state)


def prepare(place: Path, vectors: np.ndarray) -> tuple[Path, Path]:
    """A folder of files that are images by their names only, and the file of their features."""
    folder = place / "images"
    folder.mkdir()
    names = [f"{i:06d}.png" for i in range(len(vectors))]
    for name in names:
        (folder / name).touch()
    np.savez(place / "features.npz", features=vectors, path=np.array(names))
    return folder, place / "features.npz"


def simulate(vectors: np.ndarray, names: np.ndarray) -> float:
    """Accuracy of the images without a label after ANSWERS answers in the proposed order."""
    with tempfile.TemporaryDirectory() as place, reviewing(*prepare(Path(place), vectors)) as address:
        revision = await_state(address, 2, "chosen")["revision"]
        for _ in range(ANSWERS):
            row = ask(address, "/api/queue?kind=next&n=1")["rows"][0]
            told = ask(address, "/api/answer", {"rows": [row], "new_class": str(names[row])})
            revision = told["revision"]
            state = await_state(address, revision, "chosen")
        content, n = ask(address, "/api/arrays"), len(names)
    labels, predicted = np.frombuffer(content, "<i2", n), np.frombuffer(content, "<i2", n, 2 * n)
    called = {one["id"]: one["name"] for one in state["classes"]}
    return float(np.mean([called.get(predicted[i]) == names[i] for i in np.flatnonzero(labels < 0)]))


def draw_at_random(vectors: np.ndarray, names: np.ndarray, rng: np.random.Generator) -> float:
    labelled = np.concatenate([rng.permutation(np.flatnonzero(names == name))[:SHOTS] for name in np.unique(names)])
    rest = np.setdiff1d(np.arange(len(names)), labelled)
    classifier = FewShotClassifier(features="network").fit(vectors[labelled], names[labelled], unlabeled=vectors[rest])
    return float((classifier.transduction_ == names[rest]).mean())


def run_users(folder: Path, n_users: int) -> dict[str, Any]:
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    features = ImageFeatures()
    vectors, names = features.fit_transform(paths), np.array([path.parent.name for path in paths])
    pairs = []
    for user in range(n_users):
        rng = np.random.default_rng([7, user])
        own = rng.permutation(len(paths))[: int(PART * len(paths))]
        pairs.append((simulate(vectors[own], names[own]), draw_at_random(vectors[own], names[own], rng)))
        print(user, pairs[-1], flush=True)
    proposed, random = np.array(pairs).T
    return {
        "experiment": "Review without any label, answers in the proposed order",
        "set": folder.name,
        "network": features.choice_.name,
        "users": n_users,
        "answers": ANSWERS,
        "random_labels_per_class": SHOTS,
        "proposed": float(proposed.mean()),
        "random": float(random.mean()),
        "difference": float((proposed - random).mean()),
        "ci95": float(1.96 * (proposed - random).std(ddof=1) / np.sqrt(n_users)) if n_users > 1 else None,
    }


def run_latency(n_images: int, n_classes: int = 20, n_answers: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    y = rng.integers(n_classes, size=n_images)
    vectors = np.abs(rng.normal(size=(n_classes, 1280))[y] + 2 * rng.normal(size=(n_images, 1280))).astype(np.float32)
    keys, answers = [], []
    with tempfile.TemporaryDirectory() as place, reviewing(*prepare(Path(place), vectors)) as address:
        await_state(address, 2, "chosen")
        rows = [int(np.flatnonzero(y == k)[0]) for k in range(n_classes)]
        for row in rows:
            told = ask(address, "/api/answer", {"rows": [row], "new_class": f"class {y[row]}"})
        await_state(address, told["revision"], "learned")
        for row in rng.permutation(np.setdiff1d(np.arange(n_images), rows))[:n_answers].tolist():
            start = time.perf_counter()
            told = ask(address, "/api/answer", {"rows": [row], "new_class": f"class {y[row]}"})
            keys.append(time.perf_counter() - start)
            await_state(address, told["revision"], "learned")
            ask(address, "/api/arrays")
            answers.append(time.perf_counter() - start)
    quantiles = {
        f"{name}_{word}": round(float(np.quantile(times, q)), 4)
        for name, times in {"key_seconds": keys, "answer_seconds": answers}.items()
        for word, q in {"median": 0.5, "90_percent": 0.9}.items()
    }
    about = {"experiment": "From a key to new answers on the review page"}
    return (
        about | {"images": n_images, "classes": n_classes, "answers": n_answers, "load": os.getloadavg()[0]} | quantiles
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("users", "latency"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--images", default="5000,50000")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    if given.what == "users":
        records = [run_users(given.folder, given.users)]
    else:
        records = [run_latency(int(n)) for n in given.images.split(",")]
    text = json.dumps([one | provenance() for one in records], indent=1)
    write_atomically(given.json, f"{text}\n".encode())
    print(text)


if __name__ == "__main__":
    main()
