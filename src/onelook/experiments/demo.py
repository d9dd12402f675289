"""The whole story on the built-in glyphs: learn to see, learn to learn, and what the unlabelled images were worth."""

import shlex
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from onelook.artifacts import load_backbone, save_results
from onelook.benchmark.measure import Entry, compare, step_accuracies
from onelook.data.augment import CHARACTERS
from onelook.data.embed import EmbedConfig, embed
from onelook.data.glyphs import GlyphsConfig, load_glyphs
from onelook.data.images import ImageSet
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.experiments import demo_page
from onelook.experiments.demo_page import Curve, Report, TaskPicture
from onelook.machine import Place, commit, machine
from onelook.methods import IterativeMethod
from onelook.tasks import Embeddings
from onelook.train.jobs import new_backbone
from onelook.train.loop import train
from onelook.train.optimisation import Optimisation
from onelook.train.pretraining import PretrainConfig, Pretraining
from onelook.train.recipes import MethodRequest, ready


@dataclass(frozen=True)
class DemoConfig:
    seed: int = 0
    backbone: str = "conv4-64"
    glyphs: GlyphsConfig = field(default_factory=GlyphsConfig)
    epochs: int = 2
    """Of pretraining, through all environments."""
    meta_steps: int = 3000
    """Of meta-training, 8 tasks each."""
    n_tasks: int = 2000
    shots: tuple[int, ...] = (1, 5)
    n_pictures: int = 3


def demo(config: DemoConfig, out: Path, place: Place) -> Generator[Any, None, Report]:
    """Train and compare; writes `out`/results.json and `out`/report.html. Takes up an interrupted demo."""
    started = time.perf_counter()
    images = {}
    for split in ("train", "val", "test"):
        images[split] = yield from load_glyphs(split, config.glyphs)
    checkpoint = yield from _pretrain(config, images, out, place)
    backbone, about = load_backbone(checkpoint)
    sets: dict[str, Embeddings] = {}
    for split in images:
        sets[split] = yield from embed(images[split], backbone, EmbedConfig(precision=place.precision), place.cache)
    records, steps, curves = [], [], [_curve("Pretraining", about["history"])]
    pictures: tuple[TaskPicture, ...] = ()
    for shot in config.shots:
        spec = TaskSpec(n_shot=shot, seed=config.seed)
        entries, history = yield from _methods(config, spec, sets, out)
        source = {"dataset": "glyphs", "split": "test", "backbone": f"{config.backbone}@{backbone.digest().hex()[:12]}"}
        records += yield from compare(entries, sets["test"], spec, config.n_tasks, source)
        sib = entries[1].method
        assert isinstance(sib, IterativeMethod)
        accuracies = yield from step_accuracies(sib, sets["test"], spec, config.n_tasks)
        steps.append(
            Curve(
                f"{shot}-shot",
                "synthetic gradient steps",
                "accuracy (%)",
                tuple(range(len(accuracies))),
                tuple(100 * a.value for a in accuracies),
                tuple(100 * a.half_width for a in accuracies),
            )
        )
        curves.append(_curve(f"Meta-training, {shot}-shot", history))
        pictures = pictures or _pictures(config, sib, spec, images["test"], sets["test"])
    result = Report(
        title="What the unlabelled images were worth",
        records=records,
        paired=[
            {"n_shot": r["n_shot"], **r["versus"], "method": "SIB, K = 3", "reference": "K = 0"}
            for r in records
            if r["method"] == "sib"
        ],
        steps=tuple(steps),
        curves=tuple(curves),
        tasks=pictures,
        facts=_facts(config, out, time.perf_counter() - started),
        commands=COMMANDS,
    )
    save_results(records, out / "results.json")
    demo_page.write(result, out / "report.html")
    return result


COMMANDS = (
    (
        "Train a feature network on classes of your own",
        "onelook pretrain --data FOLDER --backbone conv4-64 --out runs/mine",
    ),
    (
        "Compare methods on classes it has not seen",
        "onelook benchmark --data FOLDER --split test --backbone runs/mine/model.safetensors "
        "--methods feature-averaging,sib,prototypical",
    ),
    ("Compare methods on features you have already", "onelook benchmark --embeddings FILE.npz --methods prototypical"),
)


def _pretrain(config: DemoConfig, images: dict[str, ImageSet], out: Path, place: Place) -> Generator[Any, None, Path]:
    backbone = new_backbone(config.backbone, images["train"], config.seed)
    settings = PretrainConfig(
        epochs=config.epochs,
        augmentation=CHARACTERS,
        precision=place.precision,
        seed=config.seed,
        optimisation=Optimisation(learning_rate=0.2),
        validate_every=300,
    )
    objective = Pretraining(config.backbone, backbone, images["train"], images["val"], settings)
    plain = {"data": images["train"].source, "config": repr(settings)}
    return (yield from train(objective, settings.optimisation, plain, out / "backbone"))


def _methods(
    config: DemoConfig, spec: TaskSpec, sets: dict[str, Embeddings], out: Path
) -> Generator[Any, None, tuple[list[Entry], list[dict[str, float]]]]:
    """K = 0, K = 3 and prototypical networks; and how the second of them was trained."""
    entries, histories = [], []
    for name in ("feature-averaging", "sib", "prototypical"):
        made = yield from ready(
            MethodRequest(name),
            spec,
            sets["train"].feature_size,
            sets["train"],
            sets["val"],
            out / "methods",
            config.meta_steps,
        )
        entries.append(Entry(name, made.method, made.about))
        histories.append(made.history)
    return entries, histories[1]


def _curve(title: str, history: list[dict[str, float]]) -> Curve:
    return Curve(
        title,
        "step",
        "validation accuracy (%)",
        tuple(h["step"] for h in history),
        tuple(h["accuracy"] for h in history),
        tuple(h["ci95"] for h in history),
    )


def _pictures(
    config: DemoConfig, sib: IterativeMethod, spec: TaskSpec, images: ImageSet, embeddings: Embeddings
) -> tuple[TaskPicture, ...]:
    """The first tasks as pictures: the same numbers draw the same rows from images and from features."""
    numbers = range(config.n_pictures)
    sampler = TaskSampler(images, spec)
    shown = sampler.sample(numbers)
    with torch.inference_mode():
        probabilities: Float[Tensor, "steps T Q K"] = sib.trajectory(
            TaskSampler(embeddings, spec).sample(numbers)
        ).softmax(-1)
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
    return {
        "command": shlex.join(["onelook", "demo", "--out", str(out), "--seed", str(config.seed)]),
        "seconds": f"{seconds:.0f}",
        "machine": machine(),
        "commit": commit(),
        "configuration": repr(config),
    }
