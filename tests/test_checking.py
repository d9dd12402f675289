"""Types and shapes in signatures hold under pytest: what breaks them is refused."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from helpers.checking import check_once
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
