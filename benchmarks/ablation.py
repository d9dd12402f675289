"""What each part of Glance is worth.

    python benchmarks/ablation.py --json benchmarks/ablation.json

The first rows take something away from the weights that ship. The trained rows are short trainings on the training
classes of CIFAR-FS alone, all alike but for the tasks that they meet; they are compared with the first of them. Test
classes, paired with the first row of each kind; nothing was chosen by these figures.
"""

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onelook.artifacts import SMALL, load_method, load_network, load_shipped, save_results
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.data.sources import N_VIEWS, open_data
from onelook.events import finish
from onelook.machine import Place, commit, machine
from onelook.methods import Glance
from onelook.scoring import Estimate, fraction_right, paired
from onelook.tasks import Embeddings, Tasks
from onelook.train.loop import train
from onelook.train.mixed import MixedConfig, MixedTraining, true_priors
from onelook.train.recipes import build, parse_request, ready

PROTOCOLS = ("balanced", "dirichlet:2", "dirichlet:0.5", "present:2")
SHOTS = (1, 5)
CHUNK = 50
Answer = Callable[[Tasks], Tensor]
"""No method reads query labels (`onelook benchmark --audit`); the row that is told the true proportions has them so."""


def believing(method: Glance, logit: float) -> Glance:
    changed = copy.deepcopy(method)
    with torch.no_grad():
        changed.belief[-1].weight.zero_()
        changed.belief[-1].bias.fill_(logit)
    return changed


def taken_away(full: Glance) -> Iterator[tuple[str, Answer]]:
    """Rows of the weights that ship."""
    yield "as it ships", full
    yield "without the guard", lambda tasks: full.trajectory(tasks)[-1]
    for step in range(full.n_steps):
        yield f"{step} of {full.n_steps} steps, without the guard", lambda t, k=step: full.trajectory(t)[k]
    silent, alone = copy.deepcopy(full), copy.deepcopy(full)
    with torch.no_grad():
        silent.gradient_network.out.weight.zero_()
        silent.gradient_network.out.bias.zero_()
        alone.log_scale_of_ridge.fill_(-1e3)
    # What is left is expectation maximisation with the learned belief.
    yield "without the gradient network", silent
    yield "without ridge regression in the scores", alone
    yield "proportions are always taken for equal", believing(full, 1e3)
    yield "proportions are always estimated", believing(full, -1e3)
    yield "told the true proportions of each task, which nobody knows", lambda t: full.trajectory(t, true_priors(t))[-1]


def trained(sets: list[Embeddings], validation: Embeddings, n_steps: int, out: Path) -> Iterator[tuple[str, Answer]]:
    """Short trainings that differ in the tasks that they meet."""
    mixed = MixedConfig(n_steps=n_steps, validate_every=n_steps)
    even = dataclasses.replace(mixed, balanced=1.0, unequal_shots=0.0, unknown=0.0, given_balanced=0.0)
    configs = {
        f"trained on mixed tasks, {n_steps:,} steps": mixed,
        "trained on balanced tasks only": even,
        "trained on 5-way 1-shot tasks of 75 queries only": dataclasses.replace(
            mixed, ways=(5,), shots=(1,), totals=(75,)
        ),
    }
    for name, config in configs.items():
        method = build(parse_request("glance"), TaskSpec(seed=config.seed))
        assert isinstance(method, Glance)
        objective = MixedTraining(method, sets, [validation], config)
        path = finish(train(objective, config.optimisation, {"row": name}, out / name.replace(" ", "-")))
        yield name, load_method(path)[0]


def measured(rows: Iterator[tuple[str, Answer]], test: Embeddings, n_tasks: int, about: dict[str, Any]) -> list[Any]:
    answers = dict(rows)
    records = []
    for shot in SHOTS:
        for protocol in PROTOCOLS:
            spec = TaskSpec(n_shot=shot, protocol=protocol)
            sampler = TaskSampler(test, spec)
            found: dict[str, list[Tensor]] = {name: [] for name in answers}
            for start in range(0, n_tasks, CHUNK):
                tasks = sampler.sample(range(start, start + CHUNK))
                for name, answer in answers.items():
                    with torch.inference_mode():
                        found[name].append(fraction_right(answer(tasks).argmax(-1), tasks))
            whole = {name: torch.cat(parts) for name, parts in found.items()}
            first = next(iter(whole))
            for name, values in whole.items():
                records.append(
                    {
                        **about,
                        "method": name,
                        "n_way": 5,
                        "n_shot": shot,
                        "n_query": 15,
                        "protocol": protocol,
                        "n_tasks": n_tasks,
                        "seed": spec.seed,
                        "tasks": sampler.digest(n_tasks),
                        **Estimate.from_values(values).record("accuracy"),
                        "versus": {"method": first, **paired(values, whole[first]).record("difference")},
                        "commit": commit(),
                        "machine": machine(),
                    }
                )
            print(f"{protocol}, {shot}-shot done", flush=True)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=SMALL, help="name of a network that comes along, or the file of another")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/ablation.json"))
    options = parser.parse_args()
    network, named = finish(load_network(options.backbone))
    place = Place()
    data = open_data("cifar-fs")
    training = finish(data.embed("train", network, place, N_VIEWS, "mirror"))
    validation = finish(data.embed("val", network, place, average="mirror"))
    test = finish(data.embed("test", network, place, average="mirror"))
    about = {
        "dataset": "cifar-fs",
        "split": "test",
        "average": "mirror",
        "precision": place.precision,
        "backbone": f"{named['name']}@{network.digest().hex()[:12]}",
    }
    full = load_shipped("glance")
    assert isinstance(full, Glance)
    records = measured(taken_away(full), test, options.tasks, about)
    spec = TaskSpec(seed=0)
    sib = finish(ready(parse_request("sib"), spec, test.feature_size, training, validation, options.out)).method
    plain = iter([("as it ships", full), ("SIB: not equivariant, balanced training, 1-shot", sib)])
    records += [r for r in measured(plain, test, options.tasks, about) if r["method"] != "as it ships"]
    records += measured(trained([training], validation, options.steps, options.out), test, options.tasks, about)
    save_results(records, options.json)


if __name__ == "__main__":
    main()
