"""Models and results come back as they went, and a bad file is one sentence."""

import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers.features import contents, fill, one_sentence, small_disk
from helpers.methods import method_for, random_tasks
from onelook import artifacts, backbones, files, methods
from onelook.artifacts import (
    FORMAT,
    Artifact,
    backbone_artifact,
    load,
    load_backbone,
    load_method,
    load_results,
    method_artifact,
    read_kind,
    require_feature_size,
    save,
    save_results,
)
from onelook.backbones import Backbone
from onelook.errors import ArtifactError, SettingsError, StorageError
from onelook.methods import EndToEnd, ImageMethod, Method, find_name
from onelook.tasks import Tasks

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("feature-averaging", {}),
    ("prototypical", {"transform": "cl2n", "metric": "cosine"}),
    ("sib", {"n_steps": 2, "step_size": 2e-3}),
]


def any_backbone(channels: int = 1) -> Backbone:
    """Moved off its first weights and statistics, because ones and zeros hide errors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = backbones.create("conv4-64", channels, 16)
        with torch.no_grad():
            for value in (*backbone.parameters(), *backbone.buffers()):
                if value.is_floating_point():
                    value += 0.1 * torch.rand_like(value)
    return backbone


def any_method(name: str = "sib", **kept: Any) -> Method:
    return method_for(random_tasks(), name, **kept).float()


@cache
def good(kind: str) -> bytes:
    """The bytes of a good file."""
    made = {
        "backbone": lambda: backbone_artifact(any_backbone(), "conv4-64", {"config": {}}),
        "method": lambda: method_artifact(any_method(), {"config": {}}),
    }
    with tempfile.TemporaryDirectory() as folder:
        save(made[kind](), Path(folder) / "model")
        return (Path(folder) / "model").read_bytes()


LOADERS = {"backbone": load_backbone, "method": load_method}
each_kind = pytest.mark.parametrize("kind", LOADERS)


def same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_feature_network_comes_back_with_its_statistics_and_in_evaluation_mode(tmp_path: Path, channels: int) -> None:
    backbone = any_backbone(channels)
    about = {
        "config": {"epochs": 3, "data": "x"},
        "history": [{"step": 1.0, "loss": 0.1, "accuracy": 50.0, "ci95": 1.0}],
    }
    save(backbone_artifact(backbone, "conv4-64", about), tmp_path / "model")
    again, said = load_backbone(tmp_path / "model")
    assert same_tensors(dict(again.state_dict()), dict(backbone.state_dict()))
    assert {"pixel_mean", "pixel_std"} <= set(again.state_dict())
    assert again.digest() == backbone.digest()
    assert not again.training
    assert said | about == said
    assert said["name"] == "conv4-64"
    images = torch.randint(0, 256, (4, channels, 16, 16), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(again(images), backbone.eval()(images))


@pytest.mark.parametrize(("name", "kept"), METHODS)
def test_a_method_comes_back_with_its_settings_and_buffers(tmp_path: Path, name: str, kept: dict[str, Any]) -> None:
    method = any_method(name, **kept)
    history = [{"step": 2, "loss": 1.5, "accuracy": 50.0, "ci95": 1.0}]
    save(method_artifact(method, {"history": history}), tmp_path / "model")
    again, about = load_method(tmp_path / "model")
    assert same_tensors(dict(again.state_dict()), dict(method.state_dict()))
    assert (find_name(again), again.settings()) == (name, method.settings())
    assert about["history"] == history
    tasks = random_tasks().map_items(torch.Tensor.float)
    assert torch.equal(again(tasks), method(tasks))


def test_the_centre_of_the_training_classes_is_kept(tmp_path: Path) -> None:
    method = any_method("prototypical", transform="cl2n")
    method.prepare(torch.arange(12.0).view(2, 6), torch.arange(2))
    save(method_artifact(method, {}), tmp_path / "model")
    centre = load_method(tmp_path / "model")[0].state_dict()["centre"]
    assert torch.equal(centre, torch.arange(3.0, 9.0))


def image_method(name: str) -> ImageMethod:
    """A method that owns its feature network, nothing of it at its first value."""
    backbone = any_backbone(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if name in IMAGE_METHODS:
            made = methods.create(name, backbone=backbone, **IMAGE_METHODS[name])
        else:
            made = EndToEnd(backbone, methods.create(name, **HEADS[name]))
    assert isinstance(made, ImageMethod)
    with torch.no_grad():
        for value in made.parameters():
            value += 0.05 * torch.rand_like(value)
    return made


IMAGE_METHODS: dict[str, dict[str, Any]] = {
    "maml": {"n_way": 3, "n_steps": 2, "adapt": "head"},
    "tadam": {"n_classes": 7, "penalty": 0.5},
}
HEADS: dict[str, dict[str, Any]] = {
    "sib": {"feature_size": 64, "n_way": 3, "step_size": 0.01},
    "r2d2": {"feature_size": 64},
    "prototypical": {"feature_size": 64, "transform": "cl2n"},
}
each_image_method = pytest.mark.parametrize("name", [*IMAGE_METHODS, *HEADS])


def image_tasks() -> Tasks:
    draw = torch.Generator().manual_seed(2)
    support, query = (torch.randint(0, 256, (2, n, 3, 16, 16), generator=draw, dtype=torch.uint8) for n in (6, 4))
    labels = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    return Tasks(support, labels, query, 3)


@each_image_method
def test_a_method_of_images_comes_back_with_its_network_and_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    method = image_method(name).eval()
    save(method_artifact(method, {"config": {}}), tmp_path / "model")
    again, about = load_method(tmp_path / "model")
    assert type(again) is type(method)
    assert isinstance(again, ImageMethod)
    assert same_tensors(dict(again.state_dict()), dict(method.state_dict()))
    assert again.backbone.digest() == method.backbone.digest()
    assert not again.training
    assert about["name"] == name
    with torch.inference_mode():
        assert torch.equal(again(image_tasks()), method(image_tasks()))
    core, before = (one.head if isinstance(one, EndToEnd) else one for one in (again, method))
    assert core.settings() == before.settings()
    assert again.n_way == method.n_way


DAMAGED: dict[str, Any] = {
    "no network": None,
    "another network": {"name": "resnet12", "channels": 3, "image_size": 16},
    "an unknown network": {"name": "conv9", "channels": 3, "image_size": 16},
    "words": "conv4-64",
    "a list": [1],
    "a number": 5,
    "nothing said": {},
    "too much said": {"name": "conv4-64", "depth": 3},
    "channels in words": {"name": "conv4-64", "channels": "three", "image_size": 16},
    "no pixels": {"name": "conv4-64", "channels": 3, "image_size": 0},
    "pixels in words": {"name": "conv4-64", "channels": 3, "image_size": "16"},
    "fewer channels": {"name": "conv4-64", "channels": 1, "image_size": 16},
    "half a pixel": {"name": "conv4-64", "channels": 3, "image_size": 16.5},
    "a name that is a list": {"name": ["conv4-64"], "channels": 3, "image_size": 16},
}


@pytest.mark.parametrize("name", ["maml", "sib"])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_network_that_is_described_wrongly_is_refused(case: str, name: str, tmp_path: Path) -> None:
    made = method_artifact(image_method(name), {"config": {}})
    changed = made.about | {"backbone": DAMAGED[case]}
    save(Artifact("method", made.tensors, changed), tmp_path / "model")
    refused("method", tmp_path / "model")


@each_kind
def test_the_same_model_gives_the_same_bytes(kind: str) -> None:
    first = good(kind)
    good.cache_clear()
    assert good(kind) == first


def test_tensors_of_any_type_shape_and_layout_come_back(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "turned": torch.arange(6.0).view(2, 3).T,
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "double": torch.tensor([torch.pi], dtype=torch.float64),
        "trained": torch.ones(2, requires_grad=True),
    }
    save(Artifact("state", tensors, {"words": "é \n 字", "deep": {"list": [1, None, True, 1e-300]}}), tmp_path / "file")
    again = load(tmp_path / "file", "state")
    assert same_tensors(again.tensors, {k: v.detach() for k, v in tensors.items()})
    assert again.about == {"words": "é \n 字", "deep": {"list": [1, None, True, 1e-300]}}


@pytest.mark.parametrize("kind", ["backbone", "method", "state"])
def test_the_kind_of_a_file_is_told_without_loading_it(tmp_path: Path, kind: str) -> None:
    save(Artifact(kind, {}), tmp_path / "file")
    assert read_kind(tmp_path / "file") == kind
    (tmp_path / "file").write_bytes(b"something else")
    assert read_kind(tmp_path / "file") == "model"
    assert read_kind(tmp_path / "missing") == "model"


# ---------------------------------------------------------------------------------------------- files that are bad


def refused(kind: str, path: Path) -> str:
    with pytest.raises(ArtifactError) as error:
        LOADERS[kind](path)
    message = one_sentence(error.value)
    assert str(path) in message
    return message


@each_kind
def test_a_file_that_is_missing_is_named(kind: str, tmp_path: Path) -> None:
    refused(kind, tmp_path / "missing.safetensors")
    refused(kind, tmp_path)  # a folder


@each_kind
@given(content=st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
def test_a_file_of_something_else_is_refused(kind: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        refused(kind, path)


@each_kind
@given(data=st.data())
def test_a_file_cut_at_any_length_is_refused(kind: str, data: st.DataObject) -> None:
    whole = good(kind)
    length = data.draw(st.one_of(st.integers(0, 4000), st.integers(0, len(whole) - 1)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(whole[:length])
        assert "no file of Onelook, or damaged" in refused(kind, path)


@each_kind
@given(data=st.data())
def test_a_file_with_one_damaged_byte_in_its_header_is_refused_or_loads(kind: str, data: st.DataObject) -> None:
    whole = bytearray(good(kind))
    header = 8 + int.from_bytes(whole[:8], "little")
    whole[data.draw(st.integers(0, header - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(bytes(whole))
        with contextlib.suppress(ArtifactError):  # and no other
            LOADERS[kind](path)


NAMED = {
    "backbone": {"name": "conv4-64", "settings": {"channels": 1, "image_size": 16}},
    "method": {"name": "sib", "settings": {"feature_size": 6, "n_way": 3}},
}


@each_kind
@pytest.mark.parametrize(
    "header",
    [
        None,
        {"written_by": "someone"},
        {"kind": "{kind}"},
        {"kind": "{kind}", "format": "1"},
        {"kind": "{kind}", "format": "new", "about": "{}"},
        {"kind": "{kind}", "format": "1", "about": "no JSON"},
        {"kind": "{kind}", "format": "1", "about": "[1]"},
        {"kind": "{kind}", "format": "1", "about": "{}"},
        {"kind": "{kind}", "format": "1", "about": '{"name": 3, "settings": 4}'},
        {"kind": "{kind}", "format": "1", "about": '{"name": "of tomorrow", "settings": {}}'},
        {"kind": "{kind}", "format": "1", "about": '{"name": "conv4-64", "settings": {"depth": 4}}'},
        {"kind": "{kind}", "format": "1", "about": '{"name": "conv4-64", "settings": {"image_size": 3}}'},
        {"kind": "{kind}", "format": "1", "about": '{"name": "sib", "settings": {"depth": 4}}'},
        {"kind": "{kind}", "format": "1", "about": '{"name": "sib", "settings": {"feature_size": "many"}}'},
        {"kind": "{kind}", "format": "1", "about": '{"name": "sib", "settings": {"feature_size": 4, "n_steps": -1}}'},
    ],
    ids=str,
)
def test_a_file_with_a_foreign_header_is_refused(kind: str, header: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    filled = None if header is None else {k: v.replace("{kind}", kind) for k, v in header.items()}
    save_file({"x": torch.zeros(3)}, path, filled)
    refused(kind, path)


def test_a_file_of_another_kind_is_refused_and_both_kinds_are_named(tmp_path: Path) -> None:
    for kind, other in (("backbone", "method"), ("method", "backbone")):
        path = tmp_path / kind
        path.write_bytes(good(other))
        message = refused(kind, path)
        assert kind in message
        assert other in message


@each_kind
def test_a_file_of_a_newer_format_says_to_update(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    monkeypatch.setattr(artifacts, "FORMAT", FORMAT + 1)
    save(Artifact(kind, {}, NAMED[kind]), path)
    monkeypatch.undo()
    message = refused(kind, path)
    assert "update Onelook" in message
    assert f"format {FORMAT + 1}" in message


@each_kind
@pytest.mark.parametrize("change", ["shape", "missing", "more", "none"])
def test_weights_that_do_not_fit_are_refused(kind: str, change: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(good(kind))
    whole = load(path, kind)
    tensors = dict(whole.tensors)
    name = sorted(k for k, v in tensors.items() if v.ndim)[0]
    if change == "shape":
        tensors[name] = torch.zeros(7, 7)
    elif change == "missing":
        del tensors[name]
    elif change == "more":
        tensors["more"] = torch.zeros(1)
    else:
        tensors = {}
    save(Artifact(kind, tensors, whole.about), path)
    refused(kind, path)


# ---------------------------------------------------------------------------------------------------- full disks


def test_a_full_disk_is_one_sentence_and_leaves_the_old_model(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "model.safetensors"
        save(Artifact("method", {"x": torch.arange(10)}), path)
        before = path.read_bytes()
        with pytest.raises(StorageError, match="free some space") as error:
            save(Artifact("method", {"x": torch.zeros(1_000_000)}), path)
        assert str(path) in one_sentence(error.value)
        assert contents(disk) == {"model.safetensors": before}
        fill(disk)
        with pytest.raises(StorageError, match="free some space"):
            save_results([{"accuracy": 1.0, "text": "x" * 10_000}], disk / "results.json")
        assert sorted(contents(disk)) == ["filler", "model.safetensors"]


def test_a_write_that_raises_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save(Artifact("method", {"x": torch.arange(10)}), path)
    before = contents(tmp_path)

    def half(_: object) -> None:
        assert next(p for p in contents(tmp_path) if p != path.name).endswith(".part")
        raise MemoryError

    monkeypatch.setattr(files.os, "fsync", half)
    with pytest.raises(MemoryError):
        save(Artifact("method", {"x": torch.zeros(10)}), path)
    assert contents(tmp_path) == before


def test_what_cannot_be_said_in_json_leaves_the_old_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(Artifact("method", {}), path)
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        save(Artifact("method", {}, {"path": Path()}), path)
    with pytest.raises(TypeError):
        save_results([{"accuracy": Path()}], path)
    assert contents(tmp_path) == before


# ------------------------------------------------------------------------------------------------------ results

values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
records = st.lists(
    st.fixed_dictionaries(
        {"accuracy": st.floats(0, 100)},
        optional={"settings": st.dictionaries(st.text(max_size=5), values, max_size=3), "method": st.text(max_size=5)},
    ),
    max_size=4,
)


@given(records=records)
def test_results_come_back_one_line_each(records: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        save_results(records, path)
        assert load_results(path) == records
        assert json.loads(path.read_text()) == records
        assert len(path.read_text().split("\n")) == 3 + max(1, len(records))
        assert list(contents(Path(folder))) == ["results.json"]


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"3", b"[3]", b'[{"loss": 1}]', b'[{"accuracy": 1}, {}]', b"\xff\xfe", b"accuracy: 3"]
)
def test_a_bad_results_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        load_results(path)
    assert str(path) in one_sentence(error.value)


def test_a_results_file_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(ArtifactError) as error:
            load_results(path)
        assert str(path) in one_sentence(error.value)


def test_features_of_another_size_are_refused_with_both_sizes() -> None:
    with pytest.raises(SettingsError) as error:
        require_feature_size(any_method(), 7, "runs/sib")
    message = one_sentence(error.value)
    assert message.startswith("runs/sib takes features of size 6, but these have 7")
    require_feature_size(any_method(), 6, "runs/sib")
