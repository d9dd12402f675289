"""One loop for all training: it yields events, survives a kill at any moment, and returns the best model.

The loop trains an `Objective`: a module and a loss that is a pure function of its weights and the number of the step.
So a run that goes on from its last saved state takes the same steps as one that was never interrupted. A loss may draw
random numbers from torch's global generator: it is seeded for each step from the configuration of the run and the
number of the step, and restored.

Training that diverges stops before the optimiser writes numbers that are not finite into the weights: at a loss or a
gradient that is not finite, and at a loss that exploded. The state on disk holds finite numbers only.
"""

import json
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from onelook import artifacts
from onelook.artifacts import Artifact
from onelook.errors import ArtifactError, DivergedError, check_value, describe_cause, list_names
from onelook.files import digest
from onelook.machine import seeded
from onelook.scoring import Estimate
from onelook.train import processes
from onelook.train.optimisation import Optimisation


@runtime_checkable
class Objective(Protocol):
    """A module with its loss and its validation."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def n_steps(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def validate_every(self) -> int: ...

    def loss(self, step: int, rows: slice = processes.ALL) -> Tensor:
        """The loss of step 0 … n_steps - 1, with its graph. It may draw from torch's global generator.

        rows: the part of the batch to take. The mean over parts, weighted by their sizes, is the loss of the batch.
        """

    def validate(self) -> Estimate:
        """Accuracy on the validation tasks, the same tasks every time."""

    def artifact(self, about: dict[str, Any]) -> Artifact:
        """The part of the module that is saved as the model."""


@dataclass(frozen=True)
class Resumed:
    """A run was taken up after `step` steps."""

    step: int
    n_steps: int


@dataclass(frozen=True)
class Stepped:
    """A step was taken; `step` counts it."""

    step: int
    n_steps: int
    loss: float


@dataclass(frozen=True)
class Validated:
    """The module was validated after `step` steps."""

    step: int
    n_steps: int
    loss: float
    """Mean loss since the last validation."""
    accuracy: Estimate
    best: bool


Event = Resumed | Stepped | Validated


N_FIRST = 10
EXPLODED, TIMES_FIRST = 1000.0, 100.0
"""A loss above both this and so many times the mean of the first N_FIRST ones has exploded. The second alone would stop
a run whose loss began near zero, the first alone one whose loss is large by nature."""


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
    work = _Run(objective, optimisation, config, optimisation.build(objective.module.parameters()))
    progress = work.progress
    if state.exists():
        work.resume(state)
        yield Resumed(progress.step, objective.n_steps)
    elif model.exists():
        raise ArtifactError(f"{run} holds a model without the state of its run; choose another folder, or remove it.")
    processes.begin(objective.module, progress.step, run)
    try:
        while progress.step < objective.n_steps:
            # Nothing is yielded before the step is whole, validation included: whoever stops the loop at an event
            # leaves a state from which a straight run would have gone on.
            events: list[Event] = [work.step()]
            work.average()
            last = progress.step == objective.n_steps
            if last or progress.step % objective.validate_every == 0:
                events.append(work.validate())
            if last or progress.step % save_every == 0:
                work.save(state)
            yield from events
    except GeneratorExit:
        with suppress(DivergedError):  # whoever stops a run that diverged keeps the state before it
            work.save(state)
        raise
    if processes.is_first() and not _is_whole(model):
        # At the end the best weights take the place of the last, and what remains is a model and its history.
        objective.module.load_state_dict(progress.best_weights)
        artifacts.save(objective.artifact({"config": config, "history": progress.history}), model)
    processes.wait()
    return model


def _is_whole(model: Path) -> bool:
    try:
        artifacts.load(model, artifacts.read_kind(model))
    except ArtifactError:
        return False
    return True


@dataclass
class _Progress:
    """Everything of a run that changes, except for the module and the optimiser."""

    step: int = 0
    loss_sum: float = 0.0
    n_summed: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    averaged: dict[str, Tensor] = field(default_factory=dict)
    """Weights and statistics; empty before there is an average."""
    history: list[dict[str, float]] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)


@dataclass
class _Run:
    """A training that goes on."""

    objective: Objective
    optimisation: Optimisation
    config: dict[str, Any]
    optimiser: torch.optim.Optimizer
    progress: _Progress = field(default_factory=_Progress)

    def step(self) -> Stepped:
        objective, progress = self.objective, self.progress
        for group in self.optimiser.param_groups:
            group["lr"] = self.optimisation.learning_rate_at(progress.step, objective.n_steps)
        objective.module.train()
        self.optimiser.zero_grad()
        rows, fraction = processes.own_part(objective.batch_size)
        try:
            with self._random_numbers():
                loss = fraction * objective.loss(progress.step, rows)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # the weights made a system singular
            raise self._diverged("A system of equations became singular") from error
        value, first = processes.total(loss.detach()).item(), progress.first_losses
        if not math.isfinite(value):
            raise self._diverged(f"The loss became {value}")
        usual = math.fsum(map(abs, first)) / len(first) if first else math.inf
        if value > max(EXPLODED, TIMES_FIRST * usual):
            raise self._diverged(f"The loss rose from {usual:.3g} to {value:.3g}")
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in objective.module.parameters() if p.grad is not None]
        processes.add_gradients(parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not norm.isfinite():
            raise self._diverged(f"The gradient became {norm.item()}")
        if self.optimisation.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.optimisation.clip_norm, norm)
        self.optimiser.step()
        progress.step += 1
        progress.loss_sum += value
        progress.n_summed += 1
        if len(first) < N_FIRST:
            first.append(value)
        return Stepped(progress.step, objective.n_steps, value)

    @cached_property
    def _seed(self) -> bytes:
        return digest(json.dumps(self.config, sort_keys=True).encode())

    @contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Draws from torch's global generators that depend on configuration, step and part, and do not move it."""
        of_step = digest(self._seed, self.progress.step.to_bytes(8, "little"), *processes.mark())
        with seeded(int.from_bytes(of_step[:8], "little"), self._device):
            yield

    @property
    def _device(self) -> torch.device:
        return next(self.objective.module.parameters()).device

    def _diverged(self, what: str, steps: int = 1) -> DivergedError:
        """steps: from the last whole one to the one at fault."""
        rate = self.optimiser.param_groups[0]["lr"]
        return DivergedError(
            f"{what} at step {self.progress.step + steps} with learning rate {rate:.3g}; the last saved state is "
            f"intact. Choose a smaller learning rate."
        )

    @torch.no_grad()
    def average(self) -> None:
        n = self.optimisation.n_averaged(self.progress.step, self.objective.n_steps)
        if n == 1:
            self.progress.averaged = self._weights()
        elif n > 1:
            for name, now in self.objective.module.state_dict().items():
                mean = self.progress.averaged[name]
                if mean.is_floating_point():
                    mean.lerp_(now, 1 / n)
                else:  # a number of batches
                    mean.copy_(now)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.objective.module.state_dict().items()}

    def validate(self) -> Validated:
        """Validate the module, with its averaged weights where there are any."""
        module, progress = self.objective.module, self.progress
        module.eval()
        last = self._weights()
        try:
            if progress.averaged:
                module.load_state_dict(progress.averaged)
            accuracy = self.objective.validate()
            best = accuracy.value > progress.best_accuracy
            if best:
                progress.best_accuracy, progress.best_weights = accuracy.value, self._weights()
        finally:
            if progress.averaged:
                module.load_state_dict(last)
        loss = progress.loss_sum / progress.n_summed
        progress.history.append({"step": progress.step, "loss": loss, **accuracy.record("accuracy")})
        progress.loss_sum, progress.n_summed = 0.0, 0
        return Validated(progress.step, self.objective.n_steps, loss, accuracy, best)

    def save(self, path: Path) -> None:
        """Write one file, so that weights, optimiser and history can never be of different moments.

        Raises DivergedError instead of writing numbers that are not finite: a finite gradient at a huge rate, or the
        statistics of a normalisation, can leave them without the loss telling yet.
        """
        plain = dict(vars(self.progress))
        parts = {"last": self.objective.module.state_dict()}
        parts |= {"best": plain.pop("best_weights"), "averaged": plain.pop("averaged")}
        parts |= {f"optimiser.{i}": slots for i, slots in self.optimiser.state_dict()["state"].items()}
        tensors = {f"{part}.{k}": v for part, slots in parts.items() for k, v in slots.items() if v is not None}
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                what = "The state of the optimiser" if name.startswith("optimiser.") else "The weights"
                raise self._diverged(f"{what} left the finite numbers", 0)
        if processes.is_first():
            artifacts.save(Artifact("state", tensors, {"config": self.config, "progress": plain}), path)

    def resume(self, path: Path) -> None:
        saved = artifacts.load(path, "state")
        before, now = saved.about.get("config", {}), self.config
        if differing := sorted(k for k in {*now, *before} if now.get(k) != before.get(k)):
            what = f"{list_names([key := differing[0]])}: {list_names([before.get(key)])}, now {now.get(key)}"
            found = f"{path.parent} holds a run with other settings ({what})"
            raise ArtifactError(f"{found}; choose another folder, or remove this one.")
        try:
            self._restore(saved)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ArtifactError(f"{path} is damaged ({describe_cause(error)}); remove it to begin again.") from error

    def _restore(self, saved: Artifact) -> None:
        self.objective.module.load_state_dict(_with_prefix(saved.tensors, "last."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _with_prefix(saved.tensors, "optimiser.").items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": slots, "param_groups": groups})
        best, averaged = (_with_prefix(saved.tensors, f"{part}.") for part in ("best", "averaged"))
        averaged = {name: value.to(self._device) for name, value in averaged.items()}
        progress = _Progress(**saved.about["progress"], best_weights=best, averaged=averaged)
        for one in (each for each in fields(progress) if each.default is not MISSING):
            check_value(f"the {one.name} of its progress", one.type, getattr(progress, one.name))
        vars(self.progress).update(vars(progress))


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    # Copies, because they change, and the file that they are mapped from does not.
    return {name.removeprefix(prefix): x.clone() for name, x in tensors.items() if name.startswith(prefix)}
