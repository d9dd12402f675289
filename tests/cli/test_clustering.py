"""`onelook label --ray` and `embed --ray`, as far as they come without Ray."""

import sys
from pathlib import Path

import pytest

from helpers.images import class_image, classes, write_files
from onelook.cli import app
from onelook.errors import SettingsError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sort", "copy"], "--sort is for a folder on this machine, not for shards; drop it, or --ray."),
        (["--watch"], "--watch is for a folder on this machine"),
        (["--memory", "1GiB"], "--memory is for a folder on this machine"),
        (["--cache", "cache"], "--cache is for a folder on this machine"),
        ([], "--ray needs the packages ray and pyarrow; pip install"),
    ],
)
def test_what_cannot_be_done_in_shards_is_refused_before_the_work(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    folder = write_files(tmp_path / "images", classes(2, 1) | {"new.png": class_image(0, 9)})
    command = ["label", str(folder), "--ray", "local", "--network", "small", "--out", str(tmp_path / "out"), *words]
    with pytest.raises(SettingsError, match=told):
        app(command, result_action="return_value")
    assert not (tmp_path / "out").exists()


def test_embed_says_where_its_results_go_and_what_it_cannot_do() -> None:
    ray = "--ray", "local", "--shards", "shards"
    for words, told in (
        ([], "with --out"),
        (ray[:2], "with --shards"),
        ((*ray, "--out", "a.npz"), "--out is for a folder"),
        ((*ray, "--split", "train"), "--split is for a folder"),
        (ray[2:], "--shards is for Ray"),
        (("--workers", "2"), "--workers is for Ray"),
        (("--shard-size", "9"), "--shard-size is for Ray"),
    ):
        with pytest.raises(SettingsError, match=told):
            app(["embed", "--backbone", "small", *words], result_action="return_value")
