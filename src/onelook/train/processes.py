"""Training by several processes, each with its part of every batch, as torchrun starts them.

The parts of the loss and their gradients are added up over the processes, and batch normalisation takes its statistics
from the whole batch. So every process takes the step that one would take alone with the whole batch, to rounding, and
all have the same weights. The first process alone writes.
"""

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from onelook.errors import ArtifactError, SettingsError, describe_cause

ALL = slice(None)
"""All rows of a batch."""
TIMEOUT = timedelta(days=1)
"""Time that a process waits for another one, which may be computing features; one that has ended is noticed at once."""


class LostProcess(KeyboardInterrupt):
    """Another process of the training has ended, which ends this one at once, as a second Ctrl-C does."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started. The current CUDA device becomes the one of this process."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    n_devices = torch.cuda.device_count()
    if n_devices:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % n_devices)
    # Imported later, as torch.optim does, its functions would keep the group of that time as a default argument, and
    # with it threads that abort a process whose interpreter ends under them.
    importlib.import_module("torch.distributed.nn")
    # nccl refuses two processes on one device, which gloo serves by way of the processor.
    has_own = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= n_devices and distributed.is_nccl_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_own else "gloo", timeout=TIMEOUT)
    yield
    distributed.destroy_process_group()  # not after an error, where it might wait for a process that has ended


def count() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    return count() == 1 or distributed.get_rank() == 0


def mark() -> tuple[bytes, ...]:
    """Mark of the random numbers of this process; none for the first one."""
    return () if is_first() else (distributed.get_rank().to_bytes(4, "little"),)


def own_part(n: int) -> tuple[slice, float]:
    """Rows of this process in a batch of n, and their number divided by n; parts differ by one row at most."""
    if (n_processes := count()) == 1:
        return ALL, 1.0
    if n < n_processes:
        raise SettingsError(f"A batch of {n} has no parts for {n_processes} processes; start fewer, or enlarge it.")
    index = distributed.get_rank()
    rows = range(index * n // n_processes, (index + 1) * n // n_processes)
    return slice(rows.start, rows.stop), len(rows) / n


def begin(module: nn.Module, step: int, run: object) -> None:
    """Wait for all processes, and let batch normalisation take its statistics from the batch of all of them.

    Raises ArtifactError in each of them where they do not begin at one step.
    """
    if count() == 1:
        return
    found = torch.tensor([step, -step])
    _reduce(found, distributed.ReduceOp.MAX)
    last, first = found[0].item(), -found[1].item()
    if first != last:
        raise ArtifactError(
            f"The processes found the run {run} after step {first} and after step {last}; give them one folder that "
            "all of them see."
        )
    for one in module.modules():
        if type(one) is nn.BatchNorm2d:
            one.__class__ = _SharedNorm  # in place, so that the names of weights stay


def wait() -> None:
    """Wait for all processes."""
    if count() > 1:
        _reduce(torch.zeros(1))


def total(x: Tensor) -> Tensor:
    """Sum over the processes. A gradient by it is summed as well, so that it is that of the whole loss."""
    return x if count() == 1 else _Total.apply(x)  # type: ignore[no-untyped-call]


def gather(own: Tensor, rows: slice, n: int) -> Tensor:
    """All n rows of a batch, of which this process has computed some; gradients go to where a row comes from."""
    if len(own) == n:
        return own
    before, after = (own.new_zeros(size, *own.shape[1:]) for size in (rows.start, n - rows.stop))
    return total(torch.cat([before, own, after]))


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes."""
    if count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    summed = _reduce(torch.cat([one.flatten() for one in gradients]))
    for one, new in zip(gradients, torch.split(summed, [one.numel() for one in gradients]), strict=True):
        one.copy_(new.view_as(one))


class _SharedNorm(nn.BatchNorm2d):
    """Batch normalisation over the processes on any device; nn.SyncBatchNorm takes CUDA alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or count() == 1:
            return super().forward(x)
        own = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        n_own = own.new_tensor([own.numel() / self.num_features])
        *_, n = summed = total(torch.cat([own.sum((0, 2, 3)), n_own]))
        mean = summed[:-1] / n
        centred = own - mean.view(1, -1, 1, 1)
        variance = total(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normal: Tensor = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(x.dtype)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return _reduce(x.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return _reduce(gradients[0].clone(memory_format=torch.contiguous_format))


def _reduce(x: Tensor, operation: Any = distributed.ReduceOp.SUM) -> Tensor:
    """Reduce x in place."""
    try:
        distributed.all_reduce(x, operation)
    except RuntimeError as error:
        raise LostProcess(f"another process is lost ({describe_cause(error)})") from error
    return x
