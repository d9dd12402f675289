"""Whether the images that Onelook suggests to label are worth more than images at random.

    python benchmarks/suggest.py --json benchmarks/suggest.json [--backbone runs/cifar-fs-rotation/model.safetensors]
    python benchmarks/suggest.py --split test --sets omniglot,cifar-fs,clothing10,digits,wine --json FILE
    python benchmarks/suggest.py --split test --sets clothing10,dtd10,signs10 --backbone lite --json FILE

A user has a folder of images of K classes and one labelled example of each, labels K more, has the folder labelled
again, and so on, five times. What is counted is the accuracy on images of the same classes that could not be chosen
(the held-out ones, which are among the images to label, so that their number is the same for every rule), and that of
the whole folder, where what was labelled by hand is right. Every rule begins with the same folders and first examples,
so that differences are paired, user by user. The rule was chosen, and `after_more` is fitted, on validation
classes of the first three sets; test classes are there to report.

Sets: handwritten digits of scikit-learn (pixels), Omniglot (pixels), CIFAR-FS and the photographs of $ONELOOK_DATA
(features of the network that is given, or of the small one), the wines of scikit-learn (columns in units of their
deviation); each with classes of equal size and of unequal size. Only Omniglot and CIFAR-FS have splits.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from onelook.artifacts import SMALL, load_network, load_shipped, save_results
from onelook.backbones import Backbone
from onelook.data.datasets import data_home
from onelook.data.sources import open_data
from onelook.events import finish
from onelook.labelling.suggest import suggest
from onelook.machine import Place, commit, machine
from onelook.scoring import Estimate, harm, paired
from onelook.tasks import Tasks

PHOTOGRAPHS = ("clothing10", "dtd10", "signs10")

Rule = Callable[[Tensor, Tensor, int, Tensor, int], list[int]]
"""Features and posterior of the pool, how many, features of what is labelled, a seed: rows of the pool."""


@dataclass(frozen=True)
class Set:
    name: str
    features: Tensor
    labels: Tensor
    n_way: int
    pool: int
    """Images of a class that may be chosen, in the mean."""
    held_out: int


@dataclass(frozen=True)
class User:
    pool: Tensor
    """Rows of the set; the first K are labelled, one of each class."""
    pool_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


def sets(names: list[str], network: Backbone, split: str) -> Iterator[Set]:
    if "digits" in names:
        digits = load_digits()
        yield Set("digits", torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target), 10, 40, 25)
    if "omniglot" in names:
        images = finish(open_data("omniglot").images(split))
        yield Set("omniglot", images.pixels[0].flatten(1) / 255, images.labels, 10, 12, 8)
    if "cifar-fs" in names:
        yield Set("cifar-fs", *_embedded("cifar-fs", split, network), 5, 60, 40)
    for name in (one for one in PHOTOGRAPHS if one in names):
        yield Set(name, *_embedded(str(data_home() / f"{name}.zip"), "all", network), 10, 30, 20)
    if "wine" in names:
        wine = load_wine()
        columns = StandardScaler().fit_transform(wine.data)
        yield Set("wine", torch.tensor(columns, dtype=torch.float32), torch.tensor(wine.target), 3, 30, 18)


def _embedded(data: str, split: str, network: Backbone) -> tuple[Tensor, Tensor]:
    embedded = finish(open_data(data).embed(split, network, Place(precision="float32")))
    return embedded.features, embedded.labels


def draw(data: Set, unequal: bool, seed: int) -> User:
    """A user's folder: classes of equal size, or of sizes in proportions of a Dirichlet distribution (2, …, 2)."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randperm(int(data.labels.max()) + 1, generator=generator)[: data.n_way]
    each = data.pool + data.held_out
    counts = torch.full((data.n_way,), each)
    if unequal:
        total = int(0.6 * each * data.n_way)  # so that the largest class still has enough images
        share = torch._sample_dirichlet(torch.full((data.n_way,), 2.0), generator)
        counts = (share * total).long().clamp(6, each)
        while (missing := total - int(counts.sum())) != 0:
            k, step = int(torch.randint(data.n_way, (1,), generator=generator)), 1 if missing > 0 else -1
            counts[k] = (counts[k] + step).clamp(6, each)
    rows, labels = [], []
    for k, c in enumerate(classes):
        own = (data.labels == c).nonzero()[:, 0]
        rows.append(own[torch.randperm(len(own), generator=generator)][: counts[k]])
        labels.append(torch.full((len(rows[-1]),), k))
    rest, rest_labels = torch.cat([r[1:] for r in rows]), torch.cat([y[1:] for y in labels])
    order = torch.randperm(len(rest), generator=generator)
    rest, rest_labels = rest[order], rest_labels[order]
    cut = len(rest) * data.pool // each
    first = torch.stack([r[0] for r in rows])
    return User(
        torch.cat([first, rest[:cut]]),
        torch.cat([torch.arange(data.n_way), rest_labels[:cut]]),
        rest[cut:],
        rest_labels[cut:],
    )


def at_random(x: Tensor, _p: Tensor, n: int, _known: Tensor, seed: int) -> list[int]:
    return torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n].tolist()


def by_margin(_x: Tensor, p: Tensor, n: int, _known: Tensor, _seed: int) -> list[int]:
    """The smallest differences between the two largest probabilities, which most systems offer."""
    top = p.topk(2, -1).values
    return (top[:, 0] - top[:, 1]).topk(n, largest=False).indices.tolist()


def by_onelook(x: Tensor, p: Tensor, n: int, known: Tensor, seed: int) -> list[int]:
    return [one.index for one in suggest(x, p, n, known, seed=seed)]


RULES: dict[str, Rule] = {"random": at_random, "margin": by_margin, "onelook": by_onelook}


def classifiers() -> dict[str, Callable[[Tasks], Tensor]]:
    glance = load_shipped("glance")
    return {"glance": lambda tasks: glance.answer(tasks)[0], "labelled examples alone": glance.inductive}


@dataclass(frozen=True)
class Course:
    """Fractions for each user (rows) after each round (columns)."""

    held_out: Tensor
    folder: Tensor
    open_accuracy: Tensor
    """Accuracy on the images of the folder that have no label yet."""
    confidence: Tensor
    """Mean largest probability of the same."""


def course(
    data: Set, users: list[User], rule: Rule, classify: Callable[[Tasks], Tensor], n_rounds: int, seed: int
) -> Course:
    columns: list[list[Tensor]] = [[], [], [], []]
    labelled = [list(range(data.n_way)) for _ in users]
    for r in range(n_rounds + 1):
        open_rows = [_others(len(user.pool), rows) for user, rows in zip(users, labelled, strict=True)]
        posterior = _posterior(data, users, labelled, open_rows, classify)
        found = []
        for j, (user, rows, others) in enumerate(zip(users, labelled, open_rows, strict=True)):
            answers, n_open = posterior[j].argmax(1), len(others)
            right = (answers[:n_open] == user.pool_labels[others]).float()
            found.append(
                torch.stack(
                    [
                        (answers[n_open:] == user.held_out_labels).float().mean(),
                        (right.sum() + len(rows)) / len(user.pool),
                        right.mean(),
                        posterior[j, :n_open].amax(1).mean(),
                    ]
                )
            )
            if r < n_rounds:
                pool, known = data.features[user.pool[others]], data.features[user.pool[rows]]
                chosen = rule(pool, posterior[j, :n_open], data.n_way, known, seed + 1000 * r + j)
                rows += others[chosen].tolist()
        for column, values in zip(columns, torch.stack(found).T, strict=True):
            column.append(values)
    return Course(*(torch.stack(column, 1) for column in columns))


def _others(n: int, rows: list[int]) -> Tensor:
    is_open = torch.ones(n, dtype=torch.bool)
    is_open[rows] = False
    return is_open.nonzero()[:, 0]


def _posterior(
    data: Set,
    users: list[User],
    labelled: list[list[int]],
    open_rows: list[Tensor],
    classify: Callable[[Tasks], Tensor],
) -> Tensor:
    """Posteriors of the unlabelled and then the held-out images, for all users: each has as many of both."""
    x, parts = data.features, []
    for i in range(0, len(users), 10):
        some = list(zip(users[i : i + 10], labelled[i : i + 10], open_rows[i : i + 10], strict=True))
        tasks = Tasks(
            torch.stack([x[user.pool[rows]] for user, rows, _ in some]),
            torch.stack([user.pool_labels[rows] for user, rows, _ in some]),
            torch.stack([x[torch.cat([user.pool[others], user.held_out])] for user, _, others in some]),
            data.n_way,
        )
        with torch.inference_mode():
            parts.append(classify(tasks).softmax(-1))
    return torch.cat(parts)


def make_record(about: dict[str, Any], found: Course, reference: Course) -> dict[str, Any]:
    """Accuracies in the order of the rounds, beginning with one example of each class; differences to random choice."""
    mean = paired(found.held_out[:, 1:].mean(1), reference.held_out[:, 1:].mean(1))
    worse = harm(found.held_out[:, 1:].mean(1), reference.held_out[:, 1:].mean(1))
    rounds = range(found.held_out.shape[1])
    return about | {
        "held_out": [Estimate.from_values(found.held_out[:, r]).plus_minus() for r in rounds],
        "held_out_against_random": [
            paired(found.held_out[:, r], reference.held_out[:, r]).plus_minus("+") for r in rounds
        ],
        "whole_folder_against_random": [
            paired(found.folder[:, r], reference.folder[:, r]).plus_minus("+") for r in rounds
        ],
        "mean_against_random": mean.plus_minus("+"),
        "users_worse_than_random": f"{worse.plus_minus()} %",
    }


def points(curves: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Log growth of the labels and logit(accuracy j) - logit(confidence i) for every user and pair of rounds i <= j."""
    x, y = [], []
    for curve in curves:
        accuracy, confidence = (torch.tensor(curve[k]).clamp(0.02, 0.98).logit() for k in ("accuracy", "confidence"))
        for i in range(accuracy.shape[1]):
            for j in range(i, accuracy.shape[1]):
                x.append(torch.full((len(accuracy),), math.log((j + 1) / (i + 1))))
                y.append(accuracy[:, j] - confidence[:, i])
    return torch.cat(x), torch.cat(y)


def quantile_line(x: Tensor, y: Tensor, q: float) -> Tensor:
    """Constant and slope of the q-quantile of y given x, by the least pinball loss."""
    line = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([line], lr=0.02)
    for _ in range(1500):
        error = y - line[0] - line[1] * x
        loss = torch.maximum(q * error, (q - 1) * error).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return line.detach()


def fit(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit the slopes of `after_more`, with how often their interval holds on a set that had no part in the fit."""
    wanted = [c for c in curves if c["classifier"] == "glance" and c["rule"] == "onelook"]
    names = sorted({c["set"] for c in wanted})
    records = []
    for left_out in [None, *names] if len(names) > 1 else [None]:
        x, y = points([c for c in wanted if c["set"] != left_out])
        low, middle, high = (quantile_line(x, y, q) for q in (0.025, 0.5, 0.975))
        record: dict[str, Any] = {
            "experiment": "suggest: expected_accuracy, "
            + (f"fitted without {left_out}" if left_out else "fitted to all sets")
        }
        record |= {
            name: [round(v, 2) for v in line.tolist()]
            for name, line in (("low", low), ("mean", middle), ("high", high))
        }
        if left_out:
            x, y = points([c for c in wanted if c["set"] == left_out])
            inside = (y >= low[0] + low[1] * x) & (y <= high[0] + high[1] * x)
            record[f"percent_inside_on_{left_out}"] = round(100 * inside.float().mean().item(), 1)
        records.append(record)
        print(record, flush=True)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="digits,omniglot,cifar-fs")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--backbone", default=SMALL, help="name of a network that comes along, or the file of another")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    network, named = finish(load_network(options.backbone))
    for data in sets(options.sets.split(","), network, options.split):
        for unequal in (False, True):
            users = [draw(data, unequal, 1_000_000 * options.seed + u) for u in range(options.users)]
            for name, classify in classifiers().items():
                found = {
                    rule: course(data, users, RULES[rule], classify, options.rounds, options.seed) for rule in RULES
                }
                for rule, one in found.items():
                    sizes = "unequal" if unequal else "equal"
                    about = {
                        "experiment": f"suggest: {data.name}, classes of {sizes} size, {name}, {rule}",
                        "split": options.split,
                        "backbone": named["name"],
                        "n_way": data.n_way,
                        "users": len(users),
                        "seed": options.seed,
                        "commit": commit(),
                        "machine": machine(),
                    }
                    records.append(make_record(about, one, found["random"]))
                    shown = " ".join(f"{100 * a:5.1f}" for a in one.held_out.mean(0).tolist())
                    print(f"{records[-1]['experiment']:68} {shown} | {records[-1]['mean_against_random']}", flush=True)
                    curves.append(
                        {
                            "set": data.name,
                            "unequal": unequal,
                            "classifier": name,
                            "rule": rule,
                            "n_way": data.n_way,
                            "accuracy": one.open_accuracy.tolist(),
                            "confidence": one.confidence.tolist(),
                        }
                    )
    fitted = fit(curves) if options.split == "val" else []
    if options.json:
        save_results(records + fitted, options.json)


if __name__ == "__main__":
    main()
