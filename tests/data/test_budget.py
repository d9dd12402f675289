"""Readers together never hold more than there is, and none waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from onelook.data.budget import Budget


@pytest.mark.parametrize("sizes", [[30] * 40, [100, 1, 99, 50, 51] * 8, [1000, 3] * 10])
def test_what_is_held_at_once_is_at_most_what_there_is(sizes: list[int]) -> None:
    budget, lock, held, most = Budget(100), threading.Lock(), 0, 0

    def work(n: int) -> None:
        nonlocal held, most
        with budget.hold(n):
            with lock:
                held += min(n, 100)
                most = max(most, held)
            threading.Event().wait(0.001)
            with lock:
                held -= min(n, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, sizes))
    assert held == 0
    assert most <= 100


def test_what_was_held_by_work_that_failed_is_free_again() -> None:
    budget = Budget(10)
    with pytest.raises(ValueError, match="damaged"), budget.hold(10):
        raise ValueError("damaged")
    with budget.hold(10):
        pass
