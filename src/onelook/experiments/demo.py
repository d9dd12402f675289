"""The whole story on the built-in glyphs: learn to see, learn to learn, and what the unlabelled images were worth."""

import shlex
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onelook.artifacts import load_backbone, save_results
from onelook.benchmark.measure import Entry, compare, step_accuracies
from onelook.data.embed import EmbedConfig, embed
from onelook.data.glyphs import load_glyphs
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.experiments import demo_page
from onelook.experiments.demo_page import Curve, Report, TaskPicture
from onelook.experiments.demo_stages import DemoConfig, announce, meta_train, pretrain
from onelook.machine import Place, provenance
from onelook.methods import IterativeMethod
from onelook.scoring import Estimate
from onelook.tasks import Embeddings


def demo(config: DemoConfig, out: Path, place: Place) -> Generator[Any, None, Report]:
    """Train and compare; writes `out`/results.json and `out`/report.html. Takes up an interrupted demo."""
    started = time.perf_counter()
    if not (out / "backbone").exists():
        yield from announce(config, place)
    images = {}
    for split in ("train", "val", "test"):
        images[split] = yield from load_glyphs(split, config.glyphs)
    checkpoint = yield from pretrain(config, images["train"], images["val"], out / "backbone", place)
    backbone, about = load_backbone(checkpoint)
    backbone.to(place.device)
    sets: dict[str, Embeddings] = {}
    for split in images:
        sets[split] = yield from embed(images[split], backbone, EmbedConfig(precision=place.precision), place.cache)
    source = {"dataset": "glyphs", "split": "test", "backbone": f"{config.backbone}@{backbone.digest().hex()[:12]}"}
    records, steps, curves = [], [], [_curve("Pretraining", about["history"])]
    pictures: tuple[TaskPicture, ...] = ()
    for spec in config.specs:
        trained = yield from meta_train(config, spec, sets["train"], sets["val"], out / "methods")
        entries = [Entry(name, one.method, one.about) for name, one in trained.items()]
        records += yield from compare(entries, sets["test"], spec, config.n_tasks, source)
        sib = trained["sib"].method
        assert isinstance(sib, IterativeMethod)
        accuracies = yield from step_accuracies(sib, sets["test"], spec, config.n_tasks)
        steps.append(_curve_of_steps(f"{spec.n_shot}-shot", accuracies))
        curves.append(_curve(f"Meta-training, {spec.n_shot}-shot", trained["sib"].history))
        pictures = pictures or _pictures(config, sib, spec, images["test"], sets["test"])
    result = Report(
        title="What the unlabelled images were worth",
        records=records,
        paired=[{"n_shot": r["n_shot"]} | r["versus"] | ENDS for r in records if r["method"] == "sib"],
        steps=tuple(steps),
        curves=tuple(curves),
        tasks=pictures,
        facts=_facts(config, out, time.perf_counter() - started),
        commands=COMMANDS,
    )
    save_results(records, out / "results.json")
    demo_page.write(result, out / "report.html")
    return result


ENDS = {"method": "SIB, K = 3", "reference": "K = 0"}
TRAIN = "onelook pretrain --data FOLDER --backbone conv4-64 --out runs/mine"
COMPARE = (
    "onelook benchmark --data FOLDER --split test --backbone runs/mine/model.safetensors "
    "--methods feature-averaging,sib,prototypical"
)
COMMANDS = (
    ("Train a feature network on classes of your own", TRAIN),
    ("Compare methods on classes it has not seen", COMPARE),
    ("Compare methods on features you have already", "onelook benchmark --embeddings FILE.npz --methods prototypical"),
)


def _curve_of_steps(title: str, accuracies: list[Estimate]) -> Curve:
    values, errors = (tuple(100 * a.value for a in accuracies), tuple(100 * a.half_width for a in accuracies))
    return Curve(title, "synthetic gradient steps", "accuracy (%)", tuple(range(len(values))), values, errors)


def _curve(title: str, history: list[dict[str, float]]) -> Curve:
    steps, values, errors = (tuple(h[name] for h in history) for name in ("step", "accuracy", "ci95"))
    return Curve(title, "step", "validation accuracy (%)", steps, values, errors)


def _pictures(
    config: DemoConfig, sib: IterativeMethod, spec: TaskSpec, images: ImageSet, embeddings: Embeddings
) -> tuple[TaskPicture, ...]:
    """The first tasks as pictures: the same numbers draw the same rows from images and from features."""
    numbers = range(config.n_pictures)
    sampler = TaskSampler(images, spec)
    shown = sampler.sample(numbers)
    with torch.inference_mode():
        logits: Float[Tensor, "steps T Q K"] = sib.trajectory(TaskSampler(embeddings, spec).sample(numbers))
    probabilities = logits.softmax(-1)
    assert shown.query_labels is not None
    return tuple(
        TaskPicture(
            class_names=tuple(images.class_names[c] for c in sampler.rows(i).classes),
            support=shown.support[i],
            support_labels=shown.support_labels[i],
            query=shown.query[i],
            query_labels=shown.query_labels[i],
            before=probabilities[0, i].clone(),
            after=probabilities[-1, i].clone(),
            note=f"Test task {i}: the first {config.n_pictures} tasks are shown, whatever became of them.",
        )
        for i in numbers
    )


def _facts(config: DemoConfig, out: Path, seconds: float) -> dict[str, str]:
    command = shlex.join(["onelook", "demo", "--out", str(out), "--seed", str(config.seed)])
    return {"command": command, "seconds": f"{seconds:.0f}", **provenance(), "configuration": repr(config)}
