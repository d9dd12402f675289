"""One loop for all training: it yields events, survives a kill at any moment, and keeps the best.

What is trained is an `Objective`: a module and a loss that is a pure function of its weights and the number of the
step. So a run that goes on from its last saved state takes the same steps as one that was never interrupted. A loss
may draw random numbers from torch's global generator: it is seeded for each step from the configuration of the run
and the number of the step, and given back as it was.

Training that diverges stops before the optimiser has written what is not finite into the weights: at a loss or a
gradient that is not finite, and at a loss that exploded. The state on disk holds finite numbers only.
"""

import json
import math
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from onelook import artifacts
from onelook.artifacts import Artifact
from onelook.errors import ArtifactError, DivergedError, SettingsError
from onelook.files import digest
from onelook.scoring import Estimate


@runtime_checkable
class Objective(Protocol):
    """What the loop trains."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def n_steps(self) -> int: ...

    @property
    def validate_every(self) -> int: ...

    def loss(self, step: int) -> Tensor:
        """The loss of step 0 … n_steps - 1, with its graph. It may draw from torch's global generator."""

    def validate(self) -> Estimate:
        """Accuracy in percent on the validation tasks, the same tasks every time."""

    def artifact(self, about: dict[str, Any]) -> Artifact:
        """What is worth keeping of the module."""


@dataclass(frozen=True)
class Optimisation:
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Optimiser; SGD has Nesterov momentum 0.9."""
    learning_rate: float = 0.1
    """Highest learning rate."""
    weight_decay: float = 5e-4
    """Weight decay."""
    schedule: Literal["constant", "one-cycle"] = "one-cycle"
    """One-cycle: linear warm-up over the first `warmup` of the steps, then half a cosine down to 0."""
    warmup: float = 0.15
    """Fraction of the steps in which the learning rate rises."""
    clip_norm: float | None = None
    """Length that gradients are clipped to. Default: not clipped."""
    average_from: float | None = None
    """Fraction of the steps after which the weights are averaged. Default: never. From then on the mean over all steps
    since, and not the last weights, is validated and saved (Polyak & Juditsky, SIAM J. Control Optim. 1992)."""

    def __post_init__(self) -> None:
        if self.optimiser not in ("sgd", "adam") or self.schedule not in ("constant", "one-cycle"):
            raise SettingsError(
                f"Optimisers are sgd and adam, schedules constant and one-cycle, but got "
                f"{self.optimiser} and {self.schedule}."
            )
        if not self.learning_rate > 0:
            raise SettingsError(f"The learning rate must be positive, but is {self.learning_rate}.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise SettingsError(f"Gradients are clipped to a positive length, but got {self.clip_norm}.")
        if self.average_from is not None and not 0 <= self.average_from < 1:
            raise SettingsError(
                f"Weights are averaged from a share of the steps of at least 0 and below 1, but got "
                f"{self.average_from}."
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if self.optimiser == "adam":
            return torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, self.learning_rate, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
        )

    def n_averaged(self, steps_done: int, n_steps: int) -> int:
        """Over how many of the steps done the weights are averaged."""
        if self.average_from is None:
            return 0
        return max(0, steps_done - min(n_steps - 1, round(self.average_from * n_steps)))

    def learning_rate_at(self, step: int, n_steps: int) -> float:
        if self.schedule == "constant":
            return self.learning_rate
        warm = max(1, round(self.warmup * n_steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))


@dataclass(frozen=True)
class Resumed:
    step: int
    n_steps: int


@dataclass(frozen=True)
class Stepped:
    step: int
    """Steps done."""
    n_steps: int
    loss: float


@dataclass(frozen=True)
class Validated:
    step: int
    n_steps: int
    loss: float
    """Mean since the last validation."""
    accuracy: Estimate
    best: bool


Event = Resumed | Stepped | Validated


def train(
    objective: Objective, optimisation: Optimisation, config: dict[str, Any], run: Path, save_every: int = 500
) -> Generator[Event, None, Path]:
    """Train, and return the path of the best model, `run`/model.safetensors.

    run: the folder of this run. One that holds an unfinished run of the same configuration is taken up where it
        was saved last; one that holds a finished run returns at once.
    config: all that determines the result, as JSON; it goes into the artifact.
    save_every: steps between saved states; it does not influence the result.
    Raises DivergedError, ArtifactError (the folder holds another run), StorageError.
    """
    model, state = run / "model.safetensors", run / "state.safetensors"
    config = json.loads(json.dumps(config))  # as it will come back from the file: tuples as lists
    optimiser = optimisation.build(objective.module.parameters())
    progress = _Progress()
    seed = digest(json.dumps(config, sort_keys=True).encode())
    if state.exists():
        progress = _resume(state, objective, optimiser, config)
        yield Resumed(progress.step, objective.n_steps)
    elif model.exists():
        raise ArtifactError(
            f"{run} holds a model, but not the state of the run that made it; choose another folder, "
            f"or remove {model.name} from this one."
        )
    try:
        while progress.step < objective.n_steps:
            # Nothing is yielded before the step is whole, validation included: whoever stops the loop at an event
            # leaves a state from which a straight run would have gone on.
            events: list[Event] = [_take_step(objective, optimiser, optimisation, progress, seed)]
            _average(objective, optimisation, progress)
            last = progress.step == objective.n_steps
            if last or progress.step % objective.validate_every == 0:
                events.append(_validate(objective, progress))
            if last or progress.step % save_every == 0:
                artifacts.save(_finite(_state(objective, optimiser, progress, config), optimiser), state)
            yield from events
    except GeneratorExit:
        with suppress(DivergedError):  # whoever stops a run that diverged keeps the state before it
            artifacts.save(_finite(_state(objective, optimiser, progress, config), optimiser), state)
        raise
    if not _is_whole(model):
        # At the end the best weights take the place of the last, and what remains is a model and its history.
        objective.module.load_state_dict(progress.best_weights)
        artifacts.save(objective.artifact({"config": config, "history": progress.history}), model)
    return model


def seconds_of_a_step(objective: Objective) -> float:
    """What a step takes on this machine, by the second of two that leave no trace."""
    with torch.random.fork_rng(devices=[]):
        objective.module.train()
        for _ in range(2):
            started = time.perf_counter()
            objective.loss(0).backward()  # type: ignore[no-untyped-call]
            objective.module.zero_grad()
    return time.perf_counter() - started


def _is_whole(model: Path) -> bool:
    try:
        artifacts.load(model, artifacts.kind_of(model))
    except ArtifactError:
        return False
    return True


@dataclass
class _Progress:
    """Everything of a run that changes, but for the module and the optimiser."""

    step: int = 0
    loss_sum: float = 0.0
    n_summed: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    averaged: dict[str, Tensor] = field(default_factory=dict)
    """Weights and statistics; empty before there is an average."""
    history: list[dict[str, float]] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)
    """Of the first N_FIRST steps, or of those after a state that was saved without them."""


N_FIRST = 10
EXPLODED, TIMES_FIRST = 1000.0, 100.0
"""A loss above both this and so many times the mean of the first ones has exploded. The second alone would stop a run
whose loss began near zero, the first alone one whose loss is large by nature."""


@contextmanager
def _random_numbers_of(step: int, seed: bytes) -> Iterator[None]:
    """What is drawn inside from torch's global generator depends on `step` and `seed` alone, and does not move it."""
    # Not torch.manual_seed, which seeds the generators of all accelerators too and would not give those back.
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(int.from_bytes(digest(seed, step.to_bytes(8, "little"))[:8], "little"))
    try:
        yield
    finally:
        generator.set_state(before)


def _diverged(what: str, step: int, rate: float) -> DivergedError:
    return DivergedError(
        f"{what} at step {step} with learning rate {rate:.3g}; the last saved state is intact. "
        f"Choose a smaller learning rate."
    )


def _take_step(
    objective: Objective, optimiser: torch.optim.Optimizer, optimisation: Optimisation, progress: _Progress, seed: bytes
) -> Stepped:
    rate = optimisation.learning_rate_at(progress.step, objective.n_steps)
    for group in optimiser.param_groups:
        group["lr"] = rate
    objective.module.train()
    optimiser.zero_grad()
    try:
        with _random_numbers_of(progress.step, seed):
            loss = objective.loss(progress.step)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # the weights have made a system singular
        raise _diverged("A system of equations became singular", progress.step + 1, rate) from error
    value, first = loss.item(), progress.first_losses
    if not math.isfinite(value):
        raise _diverged(f"The loss became {value}", progress.step + 1, rate)
    usual = math.fsum(map(abs, first)) / len(first) if first else math.inf
    if value > max(EXPLODED, TIMES_FIRST * usual):
        raise _diverged(f"The loss rose from {usual:.3g} to {value:.3g}", progress.step + 1, rate)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for p in objective.module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if not norm.isfinite():
        raise _diverged(f"The gradient became {norm.item()}", progress.step + 1, rate)
    if optimisation.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, optimisation.clip_norm, norm, foreach=True)
    optimiser.step()
    progress.step += 1
    progress.loss_sum += value
    progress.n_summed += 1
    if len(first) < N_FIRST:
        first.append(value)
    return Stepped(progress.step, objective.n_steps, value)


@torch.no_grad()
def _average(objective: Objective, optimisation: Optimisation, progress: _Progress) -> None:
    n = optimisation.n_averaged(progress.step, objective.n_steps)
    if n == 1:
        progress.averaged = _weights(objective)
    elif n > 1:
        for name, now in objective.module.state_dict().items():
            mean = progress.averaged[name]
            if mean.is_floating_point():
                mean.lerp_(now, 1 / n)
            else:  # a number of batches
                mean.copy_(now)


def _weights(objective: Objective) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in objective.module.state_dict().items()}


@contextmanager
def _averaged(objective: Objective, progress: _Progress) -> Iterator[None]:
    """The module with its averaged weights, where there are any."""
    if not progress.averaged:
        yield
        return
    last = _weights(objective)
    objective.module.load_state_dict(progress.averaged)
    try:
        yield
    finally:
        objective.module.load_state_dict(last)


def _validate(objective: Objective, progress: _Progress) -> Validated:
    objective.module.eval()
    with _averaged(objective, progress):
        accuracy = objective.validate()
        best = accuracy.value > progress.best_accuracy
        if best:
            progress.best_accuracy = accuracy.value
            progress.best_weights = _weights(objective)
    mean_loss = progress.loss_sum / progress.n_summed
    progress.history.append({"step": progress.step, "loss": mean_loss, **accuracy.record("accuracy")})
    progress.loss_sum, progress.n_summed = 0.0, 0
    return Validated(progress.step, objective.n_steps, mean_loss, accuracy, best)


def _state(
    objective: Objective, optimiser: torch.optim.Optimizer, progress: _Progress, config: dict[str, Any]
) -> Artifact:
    """One file, so that weights, optimiser and history can never be of different moments."""
    tensors = {f"last.{k}": v for k, v in objective.module.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in progress.best_weights.items()}
    tensors |= {f"averaged.{k}": v for k, v in progress.averaged.items()}
    for i, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{k}": v for k, v in slots.items() if v is not None}
    plain = {k: v for k, v in vars(progress).items() if k not in ("best_weights", "averaged")}
    return Artifact("state", tensors, {"config": config, "progress": plain})


def _finite(state: Artifact, optimiser: torch.optim.Optimizer) -> Artifact:
    """The state, as long as it may take the place of the last one. A finite gradient at a huge rate, or statistics of
    a normalisation, can leave the finite numbers without the loss telling yet."""
    for name, tensor in state.tensors.items():
        if not tensor.isfinite().all():
            part = "The state of the optimiser" if name.startswith("optimiser.") else "The weights"
            raise _diverged(
                f"{part} left the finite numbers", state.about["progress"]["step"], optimiser.param_groups[0]["lr"]
            )
    return state


def _resume(path: Path, objective: Objective, optimiser: torch.optim.Optimizer, config: dict[str, Any]) -> _Progress:
    saved = artifacts.load(path, "state")
    differing = sorted(k for k in {*config, *saved.about["config"]} if config.get(k) != saved.about["config"].get(k))
    if differing:
        key = differing[0]
        raise ArtifactError(
            f"{path.parent} holds a run with other settings ({key}: {saved.about['config'].get(key)}, "
            f"now {config.get(key)}); choose another folder, or remove this one."
        )
    objective.module.load_state_dict(_with_prefix(saved.tensors, "last."))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _with_prefix(saved.tensors, "optimiser.").items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor.clone()
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    best, averaged = (
        {k: v.clone() for k, v in _with_prefix(saved.tensors, prefix).items()} for prefix in ("best.", "averaged.")
    )
    return _Progress(**saved.about["progress"], best_weights=best, averaged=averaged)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
