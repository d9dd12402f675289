"""A feature network as `onelook pretrain` leaves it, and trainings of a few steps."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onelook import backbones
from onelook.artifacts import backbone_artifact, save
from onelook.train import recipes


def shorten_trainings(patch: pytest.MonkeyPatch) -> None:
    """Of all recipes, so that tasks of 15 queries a class take no time."""
    for name, recipe in recipes.RECIPES.items():
        config = replace(recipe.config, n_steps=3, tasks_per_step=2, validate_every=2, n_validation_tasks=4)
        patch.setitem(recipes.RECIPES, name, replace(recipe, config=config))
    end_to_end = replace(recipes.END_TO_END, n_steps=3, tasks_per_step=1, validate_every=2, n_validation_tasks=2)
    patch.setattr(recipes, "END_TO_END", end_to_end)


def events_and_result(work: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def network_file(path: Path, seed: int = 0) -> Path:
    """Of 16 pixels, untrained, but with statistics as if it had seen random images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = backbones.create("conv4-64", image_size=16).train()
        layers = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for layer in layers:
            layer.momentum = 1.0
        with torch.no_grad():
            backbone(torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8))
        save(backbone_artifact(backbone.eval(), "conv4-64", {"config": {"epochs": 7}}), path)
    return path
