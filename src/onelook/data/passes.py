"""Passes of images through a network, on all cores."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from onelook.backbones import Backbone
from onelook.machine import take_one_core

Pass = Callable[[], Tensor]

PASSES_AHEAD = 4
"""Passes of a block for each core."""


class Passes:
    """Computation of passes in evaluation mode: one after another with all cores, or at once with a core each.

    Where layers are many and small, cores that share each of them wait for each other at its end, and all for one that
    is needed elsewhere. So on the processor a network that is `in_parallel` has a core for each pass, and computes in
    the background.
    """

    def __init__(self, network: Backbone) -> None:
        self.network = network
        in_parallel = network.in_parallel and network.device.type == "cpu"
        self.n_at_once = torch.get_num_threads() if in_parallel else 1
        self._pool = ThreadPoolExecutor(self.n_at_once, initializer=take_one_core) if in_parallel else None
        self._was_training = network.training

    def __enter__(self) -> "Passes":
        self.network.eval()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self.network.train(self._was_training)

    @property
    def n_ahead(self) -> int:
        """Blocks of images that are computed while more are read."""
        return 0 if self._pool is None else 1

    @property
    def n_wanted(self) -> int | None:
        """Images of a block, so that cores do not wait; None: any number."""
        return None if self._pool is None else PASSES_AHEAD * self.n_at_once * self.network.images_per_pass

    def cut(self, n_images: int, largest: int) -> list[range]:
        """The rows of each pass: at most `largest`, and as many passes for each core."""
        if self._pool is None:
            return [range(n_images)[start : start + largest] for start in range(0, n_images, largest)]
        n_passes = max(1, math.ceil(n_images / (self.n_at_once * largest)) * self.n_at_once)
        edges = [n_images * i // n_passes for i in range(n_passes + 1)]
        return [range(start, end) for start, end in itertools.pairwise(edges) if end > start]

    def start(self, passes: Sequence[Pass]) -> Iterator[Tensor]:
        """The results in their order; each is waited for, or computed, when it is asked for."""
        if self._pool is None:
            return (one() for one in passes)
        futures = [self._pool.submit(one) for one in passes]
        return (one.result() for one in futures)
