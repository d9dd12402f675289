"""The commands of docs/service.md, run as they stand there."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from helpers.images import class_image
from helpers.server import running
from onelook.machine import Place
from onelook.server.service import Service, create_app
from onelook.server.settings import ServeConfig

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    examples = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for name, label in {"heron": 0, "egret": 1, "stork": 2, "new-1": 0, "new-2": 1}.items():
        (tmp_path / f"{name}.jpg").write_bytes(class_image(label, len(name)))
    np.savez(tmp_path / "rows.npz", features=np.array([[2.0, 7.0]]))
    service = Service(ServeConfig(tmp_path / "kept", "small"), Place(tmp_path / "cache", precision="float32"))
    with running(create_app(service)) as server:
        script = (
            "\n".join(examples)
            .replace("http://127.0.0.1:8000", server.url)
            .replace("curl ", "curl -sS --fail-with-body ")
        )
        run = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    for said in ('"label":"heron"', '"name":"stork","n_examples":1', '"why":', '"expected_accuracy":', '"label":"a"'):
        assert said in run.stdout
    assert "event: result" in run.stdout
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["birds.safetensors"]
    assert (tmp_path / "birds.safetensors").stat().st_size > 0
