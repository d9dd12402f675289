"""A second device without an accelerator: tensors that say `meta`, compute on the CPU, and refuse to mix with its own.

So code runs as it would on an accelerator, with the numbers of the CPU: a tensor that is made without the device of its
neighbours meets them in an operation, which fails as it fails on CUDA.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from onelook.machine import Place

ELSEWHERE = torch.device("meta")
INDEXING = ("aten.index.Tensor", "aten.index_put", "aten._unsafe_index", "aten._index_put_impl_")
"""Operations that CUDA allows with row numbers of the CPU."""


class Elsewhere(Tensor):
    """A tensor of the second device around one of the CPU."""

    inner: Tensor
    is_meta = False  # or torch would not fill it from a file

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=ELSEWHERE, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inner!r})"

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy; use Tensor.cpu() first")

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _Device():
            return function(*args, **(kwargs or {}))


class _Device(TorchDispatchMode):
    """Runs every operation on the CPU, and wraps its results where it belongs to the other device."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = any(isinstance(one, Elsewhere) for one in tensors)
        name = str(function)
        mixes = there and any(not isinstance(one, Elsewhere) and one.dim() > 0 for one in tensors)
        if mixes and not name.startswith(("aten.copy_", "aten._to_copy", *INDEXING)):
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got two.")
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]) == ELSEWHERE
            kwargs["device"] = torch.device("cpu")
        result = function(*_unwrapped(args), **_unwrapped(kwargs))
        if name.split(".")[1].endswith("_") and isinstance(args[0], Tensor):
            return args[0]  # what was changed in place
        return tree_map_only(Tensor, Elsewhere, result) if there else result


def _unwrapped(values: Any) -> Any:
    return tree_map_only(Elsewhere, lambda one: one.inner, values)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Within it, `tensor.to(device)` and `module.to(device)` work as with an accelerator."""
    with pytest.MonkeyPatch.context() as patch, _Device():
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch, "tensor", _tensor(torch.tensor))
        patch.setattr(torch, "inference_mode", _without_gradients)
        yield ELSEWHERE


def _tensor(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor`, which otherwise makes a tensor without numbers of this device, unseen by any mode."""

    def make_there(*values: Any, device: Any = None, **settings: Any) -> Tensor:
        return make(*values, **settings).to(device)

    return make_there


def _without_gradients(mode: bool = True) -> AbstractContextManager[object]:
    """Stand-in for `torch.inference_mode`, which has no place for tensors of classes of their own."""
    return torch.no_grad() if mode else nullcontext()


class _Autocast(torch.autocast):
    """Autocast of the CPU under the name of the second device, for which torch has none."""

    def __init__(self, device_type: str, *settings: Any, **more: Any) -> None:
        super().__init__("cpu" if device_type == ELSEWHERE.type else device_type, *settings, **more)


def place_elsewhere(cache: Path | None = None, precision: str = "float32") -> Place:
    """A place whose device is the second one, which no person can ask for."""
    place = Place(cache or Path("cache"), None, precision, "cpu")
    object.__setattr__(place, "device", ELSEWHERE.type)
    return place
