"""A classifier that leaves Onelook says what it said inside."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.features import one_sentence
from helpers.images import class_image, classes, encoded, picture, write_files
from helpers.terminal import done, refused
from onelook import backbones
from onelook.artifacts import BUILT_IN, backbone_artifact, save
from onelook.backbones.framing import Framing
from onelook.data.images import decode
from onelook.errors import UserError
from onelook.estimators.calibration import AccuracyEstimate
from onelook.estimators.classifier import FewShotClassifier
from onelook.estimators.head import ProbabilityHead
from onelook.estimators.image_features import ImageFeatures
from onelook.events import finish
from onelook.labelling import onnx_export
from onelook.labelling.model_card import ModelCard
from onelook.labelling.onnx_export import ExportConfig, export_classifier
from onelook.labelling.predict import PredictConfig, predict_images
from onelook.machine import Place
from onelook.scoring import Estimate

DOCS = Path(__file__).parents[2] / "docs"
LABELS = ["a | b", "<b>ü</b>", "c"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELOOK_CACHE", str(tmp_path / "cache"))


def fitted(network: str, average: str = "none", labels: list[Any] = LABELS, **settings: Any) -> Path:
    """A file of a classifier of six images of three classes, with two more to label."""
    old = write_files(Path("old"), classes(3, 2) | {"x.png": class_image(0, 50), "y.png": class_image(1, 50)})
    paths = sorted(old.glob("*/*.png"))
    features = ImageFeatures(network, average, precision="float32")
    rows, pool = features.fit_transform(paths), features.transform([old / "x.png", old / "y.png"])
    classifier = FewShotClassifier(**({"features": "network"} | settings))
    classifier.fit(rows, [labels[i // 2] for i in range(6)], unlabeled=pool)
    classifier.save("model.safetensors", network=features.network_)
    return Path("model.safetensors")


def new_images() -> list[Path]:
    shapes = {"wide.png": (90, 33, "RGB"), "tall.png": (41, 333, "RGB"), "grey.png": (300, 290, "L")}
    files = {name: encoded(picture(i, *shape)) for i, (name, shape) in enumerate(shapes.items())}
    folder = write_files(Path("new"), files | {f"{k}.png": class_image(k, 90) for k in range(3)})
    return sorted(folder.iterdir())


def run_card(page: str, paths: list[Path]) -> Any:
    """What the code of a card gives, as somebody runs it who copied it: probabilities of each image."""
    code = re.search(r"```python\n(.*)```", page, re.DOTALL)
    assert code
    found: list[np.ndarray] = []
    text = (
        code[1]
        .replace('paths = ["photograph.jpg"]', "")
        .replace("    print(", "    found.append(probabilities[0])\n    (")
    )
    names = {"paths": paths, "found": found}
    exec(compile(text, "model card", "exec"), names)
    assert names["classes"] == list(json.loads(names["session"].get_modelmeta().custom_metadata_map["classes"]))  # type: ignore[attr-defined]
    return np.stack(found)


def assert_equal_to_predict(file: Path, network: str | None = None) -> None:
    pytest.importorskip("onnxscript")
    exported = finish(export_classifier(ExportConfig(file, network), Path("out/model.onnx")))
    assert Path("out/model.onnx").read_bytes() == exported.model
    page = Path("out/model.md").read_text().replace('"model.onnx"', '"out/model.onnx"')
    paths = new_images()
    config = PredictConfig(file, tuple(paths), network=network)
    expected = finish(predict_images(config, Place(Path("cache"), None, "float32")))
    found = run_card(page, paths)
    assert np.abs(found.max(1) - [one.probability for one in expected.predictions]).max() < 1e-4
    best = [exported.card.classes[i] for i in found.argmax(1)]
    assert [str(one) for one in best] == [one.label for one in expected.predictions]
    assert exported.card.difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("network", BUILT_IN)
def test_a_file_of_every_network_that_comes_along_predicts_as_the_classifier_does(network: str) -> None:
    assert_equal_to_predict(fitted(network))


@pytest.mark.slow
def test_so_does_one_of_a_network_of_ones_own_with_grey_mirrored_images_and_numbers_as_labels() -> None:
    torch.manual_seed(0)
    network = backbones.create("resnet12", channels=1, image_size=24).eval()
    save(backbone_artifact(network, "resnet12", {}), Path("own.safetensors"))
    file = fitted("own.safetensors", "mirror", [3, 7, 11], class_priors=[0.5, 0.3, 0.2])
    assert_equal_to_predict(file, "own.safetensors")


@pytest.mark.slow
def test_the_command_writes_what_the_documentation_runs() -> None:
    pytest.importorskip("onnxscript")
    write_files(Path(), {"new.png": class_image(1, 77, side=40)})
    told = json.loads(done("export", str(fitted("small")), "--out", "birds.onnx", "--json"))
    assert told["written"] == ["birds.onnx", "birds.md"]
    code = next(one for one in (DOCS / "labelling.md").read_text().split("```") if "onnxruntime.Inf" in one)
    names: dict[str, Any] = {}
    exec(compile(code.removeprefix("python"), "labelling.md", "exec"), names)
    assert names["answer"] == LABELS[1]
    assert names["session"].get_inputs()[0].shape == ["N", 3, 32, 32]
    for key in ("classes", "expected_accuracy", "licence", "network", "preprocessing", "limits"):
        assert names["about"][key] == told[key]
    done("export", "model.safetensors", "--out", "birds.onnx")  # replaces its own
    Path("birds.md").write_text("mine")
    assert "birds.md, which Onelook did not write" in refused("export", "model.safetensors", "--out", "birds.onnx")


@pytest.mark.parametrize("features", ["network", "table"])
@pytest.mark.parametrize("n_classes", [2, 7])
def test_the_head_gives_the_probabilities_of_the_classifier(features: str, n_classes: int) -> None:
    draw = np.random.default_rng(n_classes)
    centres, y = draw.normal(size=(n_classes, 40)), np.arange(60) % n_classes
    x = centres[y] + draw.normal(size=(60, 40))
    classifier = FewShotClassifier(features=features).fit(x[:20], y[:20], unlabeled=x[20:50])
    found = ProbabilityHead(classifier)(torch.from_numpy(x[50:]).float()).numpy()
    assert np.abs(found - classifier.predict_proba(x[50:])).max() < 1e-5
    assert np.ptp(found) > 0.5


FRAMINGS = [None, Framing(24), Framing(30), Framing(24, stretch=True), Framing(32, stretch=True, resample="bilinear")]


def card(framing: Framing | None, channels: int, classes: tuple[str, ...] = ("a", "b")) -> ModelCard:
    accuracy = AccuracyEstimate(Estimate(0.8, 0.5, 0.9), 0.7, dict.fromkeys(classes, 0.8), np.eye(2, dtype=int))
    shots = (1,) * len(classes)
    return ModelCard(classes, shots, accuracy, "", "small", "", "none", "", channels, 24, framing, 0.0)


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_code_of_a_card_frames_images_as_we_do(framing: Framing | None, channels: int) -> None:
    page = card(framing, channels).markdown("model.onnx")
    assert str(framing.resize if framing else 24) in page.split("```")[0]
    names: dict[str, Any] = {}
    exec(page.split("```python")[1].split("paths = ")[0], names)
    for i, (width, height, mode) in enumerate([(50, 31, "RGB"), (27, 99, "RGBA"), (24, 24, "L"), (7, 9, "LA")]):
        image = picture(i, width, height).convert(mode)
        if "A" in mode:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        write_files(Path(), {"image.png": encoded(image)})
        expected = decode(Path("image.png").read_bytes(), 24, channels, framing)
        np.testing.assert_array_equal(names["frame"]("image.png"), expected)


def test_no_label_breaks_the_page_and_no_name_its_code() -> None:
    page = card(None, 3, ("a|b\n\n# c", "<script>`x`")).markdown('a"b\n\udc80.onnx')
    assert "| a\\|b # c | 1 | 80 % |\n| &lt;script>\\`x\\` | 1 | 80 % |" in page
    line = next(one for one in page.splitlines() if "InferenceSession(" in one)
    assert eval(line.split("InferenceSession")[1]) == 'a"b\n\udc80.onnx'
    page.encode(errors="backslashreplace")


def test_what_cannot_be_exported_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    classifier = FewShotClassifier().fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])
    for network, average, given, words in (
        ("small", "crops:2", None, "averages over crops"),
        ("own.onnx", "none", "own.onnx", "is an ONNX file"),
        ("own.safetensors", "none", None, "does not come with Onelook"),
    ):
        classifier.save("model.safetensors", {"name": network, "digest": "", "average": average})
        config = ExportConfig(Path("model.safetensors"), given)
        with pytest.raises(UserError, match=words) as caught:
            finish(export_classifier(config, Path("out/model.onnx")))
        one_sentence(caught.value)
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install \"onelook\[onnx\]\""):
        finish(export_classifier(config, Path("out/model.onnx")))
    assert not Path("out").exists()
