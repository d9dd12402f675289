"""Types and shapes in signatures hold under pytest: what breaks them is refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Float32, Int, Shaped
from jaxtyping._storage import get_shape_memo
from torch import Tensor

from helpers.checking import AXES, check_once
from onelook import ops

x, y = torch.zeros(2, 3), torch.zeros(3, 4)
check = check_once(typechecker=beartype)


@check
def product(a: Float[Tensor, "N M"], b: Float[Tensor, "M K"], times: int = 1) -> Float[Tensor, "N K"]:
    return a @ b if times == 1 else (a @ b).T if times == 2 else (a @ b).int()


@check
def rows(a: Float[Tensor, "N M"], b: Float[Tensor, "N K"]) -> Iterator[Tensor]:
    yield from torch.cat([a, b], dim=1)


@check
def nested(a: list[Float[Tensor, "N M"]]) -> str:
    return str(product(a[0], torch.zeros(len(a[0].T), 9)))  # axes of its own


@check
@dataclass(frozen=True)
class Pair:
    a: Float[Tensor, "N M"]
    b: Float[Tensor, "N K"]


def add(number: int) -> Any:
    @check
    def added(a: Float[Tensor, "N M"], times: int = 1) -> Float[Tensor, "N M"]:
        """Adds the number."""
        return a + number * times if times < 5 else a[0]

    return added


def test_functions_in_functions_are_decorated_once_and_stay_their_own() -> None:
    one, two = add(1), add(2)
    assert [one(x).max(), two(x).max(), two(a=x, times=2).max(), one(x).max()] == [1, 2, 4, 1]
    assert one.__wrapped__ is not two.__wrapped__
    assert two.__doc__ == "Adds the number."


HINTS = [
    Float[Tensor, "N M"],
    Float[Tensor, "M N"],
    Float[Tensor, "N N"],
    Float[Tensor, "N 2"],
    Float[Tensor, "_ M"],
    Float[Tensor, "N 1+M"],
    Float[Tensor, "#N M"],
    Float[Tensor, "*more M"],
    Float[Tensor, "N *more"],
    Float[Tensor, "N *more 2"],
    Float[Tensor, "*#more M"],
    Shaped[Tensor, "... M"],
    Shaped[Tensor, "*more"],
    Float[Tensor, ""],
    Int[Tensor, "N"],
    Shaped[Tensor, "N"],
    Float32[np.ndarray, "N M"],
    Int[np.ndarray, "M"],
]
TENSORS = [torch.zeros(n, m) for n in (1, 2, 3) for m in (1, 2)] + [torch.zeros(()), torch.zeros(3, dtype=torch.int64)]
ARRAYS = [np.zeros((2, 3), dtype=np.float32), np.zeros((2, 3)), np.zeros(2, dtype=np.int16), np.zeros(2, dtype="i4,f4")]


@given(st.lists(st.tuples(st.sampled_from(HINTS), st.sampled_from([*TENSORS, *ARRAYS, "no tensor"])), max_size=6))
@settings(max_examples=200)
def test_hints_are_told_from_each_other_as_by_jaxtyping(pairs: list[tuple[Any, Any]]) -> None:
    def judge(how: Callable[[Any, Any], bool]) -> list[Any]:
        found = list[Any]()
        with AXES:
            for hint, one in pairs:
                try:
                    found.append((how(hint, one), *map(dict, get_shape_memo()[:2])))
                except jaxtyping.AnnotationError:
                    found.append("of an axis that nothing has")
        return found

    assert judge(lambda hint, one: isinstance(one, hint)) == judge(
        lambda hint, one: hint.__instancecheck_str__(one) == ""
    )


def test_what_is_right_goes_through() -> None:
    assert product(x, y).shape == (2, 4)
    assert product(x, y, 1).shape == product(a=x, b=y).shape
    assert len(list(rows(x, x))) == 2
    assert nested([x, x]).startswith("tensor")
    assert Pair(x, x).b is x


@pytest.mark.parametrize(
    ("call", "given"),
    [
        (product, ("x", y)),
        (product, (x.int(), y)),
        (product, (x[0], y)),
        (product, (x, x)),  # lengths of two arguments
        (product, (x, y, "1")),
        (product, (x, y, 2)),  # lengths of the result
        (product, (x, y, 3)),  # its numbers
        (rows, (x, y)),
        (nested, ([x.int()],)),
        (Pair, (x, y)),
        (ops.cosine_similarity, (x, y)),
        (add(1), (x[0],)),
        (add(2), (x[0],)),
        (add(2), (x, "1")),
        (add(2), (x, 5)),
    ],
)
def test_what_breaks_a_signature_is_refused(call: Any, given: tuple[Any, ...]) -> None:
    with pytest.raises((BeartypeCallHintViolation, jaxtyping.TypeCheckError)):
        call(*given)
