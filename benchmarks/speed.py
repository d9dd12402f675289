"""Speed, side by side in one run: Onelook against the way of the original code, written out here.

    python benchmarks/speed.py --json benchmarks/speed.json [--images FOLDER] [--only head,pipeline,images,pretraining]

Machines are noisy; each pair is measured in turns, and what counts is the ratio of the medians.
"""

import argparse
import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.nn import functional

from onelook import backbones
from onelook.artifacts import save_results
from onelook.data.embed import EmbedConfig, embed_files
from onelook.data.images import ImageSet, load
from onelook.data.listing import list_images
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.events import finish
from onelook.machine import best_precision, commit, keep_freed_memory, machine
from onelook.methods import SIB
from onelook.scoring import task_accuracies
from onelook.tasks import Embeddings, Tasks
from onelook.train.pretraining import PretrainConfig, Pretraining

N_TASKS = 2000


class OriginalHead(nn.Module):
    """SIB as the authors' code evaluates it: one task at a time, its gradient by autograd."""

    def __init__(self, feature_size: int, n_way: int = 5, n_steps: int = 3, step_size: float = 1e-3) -> None:
        super().__init__()
        self.n_way, self.n_steps, self.step_size = n_way, n_steps, step_size
        self.diagonal = nn.Parameter(torch.ones(feature_size))
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.tensor(0.0))
        hidden = 8 * n_way
        self.xi = nn.Sequential(
            nn.Linear(n_way, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, n_way),
        )

    def logits(self, query: Tensor, weights: Tensor) -> Tensor:
        query = functional.normalize(query, p=2, dim=-1, eps=1e-12)
        weights = functional.normalize(weights, p=2, dim=-1, eps=1e-12)
        return self.scale * (self.bias + torch.bmm(query, weights.transpose(1, 2)))

    def forward(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        hot = functional.one_hot(labels, self.n_way).float()
        unit = functional.normalize(support, p=2, dim=-1, eps=1e-12)
        means = torch.bmm(hot.transpose(1, 2), unit) / hot.sum(1).unsqueeze(-1)
        weights = self.diagonal * means
        for _ in range(self.n_steps):
            scores = self.logits(query, weights)
            synthetic = self.xi(scores.flatten(0, 1)).unsqueeze(0)
            gradient = torch.autograd.grad(
                [scores], [weights], grad_outputs=[synthetic], create_graph=True, retain_graph=True, only_inputs=True
            )[0]
            weights = weights - self.step_size * gradient
        return self.logits(query, weights)


def in_turns(*calls: Callable[[], Any], rounds: int = 5) -> list[float]:
    """Median seconds of each call, all called in every round, after one round that is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for round_number in range(rounds + 1):
        for call, times in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if round_number:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in seconds]


def original_evaluation(head: OriginalHead, tasks: Tasks) -> Tensor:
    accuracies = []
    for i in range(len(tasks)):
        logits = head(tasks.support[i : i + 1], tasks.support_labels[i : i + 1], tasks.query[i : i + 1])
        accuracies.append((logits[0].argmax(-1) == tasks.query_labels[i]).float().mean())
    return torch.stack(accuracies)


def our_evaluation(method: SIB, tasks: Tasks, chunk: int = 32) -> Tensor:
    with torch.inference_mode():
        answers = torch.cat([method(tasks[i : i + chunk]).argmax(-1) for i in range(0, len(tasks), chunk)])
    return (answers == tasks.query_labels).float().mean(1)


def synthetic_embeddings(feature_size: int = 640, n_classes: int = 20, n_images: int = 600) -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(n_classes, 1, feature_size, generator=generator)
    x = torch.relu(0.6 * centres + torch.randn(n_classes, n_images, feature_size, generator=generator))
    labels = torch.arange(n_classes).repeat_interleave(n_images)
    return Embeddings(x.flatten(0, 1)[None], labels, tuple(map(str, range(n_classes))))


def heads(feature_size: int) -> tuple[SIB, OriginalHead]:
    """Both with the same weights."""
    torch.manual_seed(0)
    ours, original = SIB(feature_size), OriginalHead(feature_size)
    original.xi.load_state_dict(ours.gradient_network.layers.state_dict(), strict=False)
    return ours.eval(), original.train()


def head_record() -> dict[str, Any]:
    """The head alone, on features that are in memory: 5-way 1-shot, 15 queries, 640-d, K = 3."""
    ours, original = heads(640)
    tasks = TaskSampler(synthetic_embeddings(), TaskSpec()).sample(range(500))
    assert torch.equal(our_evaluation(ours, tasks), original_evaluation(original, tasks)), "the two must agree"
    fast, slow = in_turns(lambda: our_evaluation(ours, tasks), lambda: original_evaluation(original, tasks))
    return {
        "experiment": "head alone, K = 3, 5-way 1-shot, 75 queries, 640 features",
        "onelook_tasks_per_second": round(500 / fast),
        "original_tasks_per_second": round(500 / slow),
        "ratio": round(slow / fast, 2),
    }


def pipeline_record() -> dict[str, Any]:
    """Sampling and gathering included."""
    ours, _ = heads(640)
    sampler = TaskSampler(synthetic_embeddings(), TaskSpec())
    (seconds,) = in_turns(lambda: finish(task_accuracies(ours, sampler, N_TASKS)))
    return {
        "experiment": "sampling, gathering and head, K = 3, 5-way 1-shot, 75 queries, 640 features",
        "onelook_tasks_per_second": round(N_TASKS / seconds),
    }


def images_record(folder: Path, n_original: int = 60) -> dict[str, Any]:
    """A whole evaluation of 2,000 tasks from image files; the original decodes and embeds anew for every task."""
    torch.manual_seed(0)
    backbone = backbones.create("conv4-64").eval()
    contiguous = backbones.create("conv4-64").eval()
    contiguous.load_state_dict(backbone.state_dict())
    contiguous.to(memory_format=torch.contiguous_format)
    ours, original = heads(backbone.feature_size)
    config = EmbedConfig(precision=best_precision())

    def evaluate(cache: Path | None) -> Tensor:
        listing = list_images(folder)
        embeddings = finish(embed_files(listing, backbone, config, cache))
        return finish(task_accuracies(ours, TaskSampler(embeddings, TaskSpec()), N_TASKS))

    listing = list_images(folder)
    rows_of = TaskSampler(finish(load(listing, 32, 3)), TaskSpec())

    def read(rows: np.ndarray) -> Tensor:
        images = [Image.open(io.BytesIO(listing.read(listing.names[i]))).convert("RGB") for i in rows]
        pixels = [torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 255.0).float() for image in images]
        return torch.stack(pixels)

    def evaluate_original() -> None:
        for i in range(n_original):
            rows = rows_of.rows(i)
            with torch.no_grad():
                support, query = (plain_features(contiguous, read(r)) for r in (rows.support, rows.query))
            original(support[None], torch.from_numpy(rows.support_labels)[None], query[None])

    with tempfile.TemporaryDirectory() as cache:
        evaluate(Path(cache))
        cold, warm, slow = in_turns(lambda: evaluate(None), lambda: evaluate(Path(cache)), evaluate_original, rounds=3)
    slow *= N_TASKS / n_original
    return {
        "experiment": f"evaluation of {N_TASKS} tasks from {len(listing.names)} image files, Conv-4-64, K = 3",
        "onelook_seconds": round(cold, 2),
        "onelook_seconds_features_kept": round(warm, 2),
        "original_seconds": round(slow, 1),
        "original_measured_on_tasks": n_original,
        "ratio": round(slow / cold, 1),
        "ratio_features_kept": round(slow / warm, 1),
    }


def plain_features(backbone: backbones.Backbone, pixels: Tensor) -> Tensor:
    """float32 and contiguous, as the original computes."""
    scaled = (pixels * 255 - backbone.pixel_mean) / backbone.pixel_std
    return backbone.features(scaled.contiguous())


class PlainPretraining:
    """The plain loop: float32, contiguous, images augmented one by one with Pillow."""

    def __init__(self, pixels: Tensor, labels: Tensor, n_classes: int, batch_size: int) -> None:
        self.images = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels]
        self.labels, self.batch_size = labels, batch_size
        self.backbone = backbones.create("conv4-64").to(memory_format=torch.contiguous_format)
        self.classifier = nn.Linear(self.backbone.feature_size, n_classes, bias=False)
        parameters = [*self.backbone.parameters(), *self.classifier.parameters()]
        self.optimiser = torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.rng = np.random.default_rng(0)

    def augmented(self, image: Image.Image) -> Tensor:
        padded = Image.new("RGB", (40, 40))
        padded.paste(image, (4, 4))
        left, top = self.rng.integers(0, 9, 2)
        image = padded.crop((left, top, left + 32, top + 32))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(self.rng.uniform(0.6, 1.4))
        if self.rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 255.0).float()

    def step(self) -> None:
        rows = self.rng.integers(0, len(self.images), self.batch_size)
        pixels = torch.stack([self.augmented(self.images[i]) for i in rows])
        features = functional.normalize(plain_features(self.backbone, pixels))
        scores = 10 * features @ functional.normalize(self.classifier.weight).T
        loss = functional.cross_entropy(scores, self.labels[torch.from_numpy(rows)])
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def pretraining_record(n_steps: int = 40, batch_size: int = 128) -> dict[str, Any]:
    """Images a second of pretraining Conv-4-64 at 32 pixels, and the memory of the whole process."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8192, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(8192) % 64
    plain = PlainPretraining(pixels, labels, 64, batch_size)
    objective = our_pretraining(pixels, labels, batch_size)
    optimiser = torch.optim.SGD(objective.module.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    objective.module.train()

    def ours() -> None:
        for step in range(n_steps):
            optimiser.zero_grad()
            objective.loss(step).backward()
            optimiser.step()

    def theirs() -> None:
        for _ in range(n_steps):
            plain.step()

    fast, slow = in_turns(ours, theirs)
    return {
        "experiment": f"pretraining Conv-4-64 on 32×32 images, batches of {batch_size}, {best_precision()}",
        "onelook_images_per_second": round(n_steps * batch_size / fast),
        "plain_images_per_second": round(n_steps * batch_size / slow),
        "ratio": round(slow / fast, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def our_pretraining(pixels: Tensor, labels: Tensor, batch_size: int) -> Pretraining:
    names = tuple(map(str, range(len(pixels))))
    images = ImageSet(
        pixels[None], labels, tuple(map(str, range(64))), names, tuple(n.encode() for n in names), "noise"
    )
    config = PretrainConfig(batch_size=batch_size, precision=best_precision())
    return Pretraining("conv4-64", backbones.create("conv4-64"), images, images, config)


def noise_folder(folder: Path, n_classes: int = 20, n_images: int = 600) -> Path:
    """As many and as large files as the test split of CIFAR-FS."""
    rng = np.random.default_rng(0)
    for k in range(n_classes):
        (folder / f"class{k:02d}").mkdir(parents=True)
        for i in range(n_images):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"class{k:02d}" / f"{i:03d}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/speed.json"))
    parser.add_argument("--images", type=Path, help="a folder of class folders; default: 12,000 made ones")
    parser.add_argument("--only", default="head,pipeline,images,pretraining")
    arguments = parser.parse_args()
    keep_freed_memory()
    records = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only.split(","):
            if name == "images":
                record = images_record(arguments.images or noise_folder(Path(temporary) / "images"))
            else:
                record = {"head": head_record, "pipeline": pipeline_record, "pretraining": pretraining_record}[name]()
            records.append(
                {**record, "command": "python benchmarks/speed.py", "commit": commit(), "machine": machine()}
            )
            print(records[-1], flush=True)
    save_results(records, arguments.json)


if __name__ == "__main__":
    main()
