import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from onelook.errors import Bound, PositiveInt, SettingsError, check_fields


@dataclass(frozen=True)
class Settings:
    """Settings with every kind of bound."""

    n: PositiveInt = 1
    rate: Annotated[float, Bound(">", 0), Bound("<=", 1)] = 0.5
    kind: Annotated[str, Bound("one of", ("a", "b"))] = "a"
    flag: bool = True


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"n": 0}, "n of Settings must be a whole number >= 1, but is 0."),
        ({"n": True}, "n of Settings must be a whole number >= 1, but is True."),
        ({"n": 1.5}, "n of Settings must be a whole number >= 1, but is 1.5."),
        ({"rate": 0}, "rate of Settings must be a number > 0 and <= 1, but is 0."),
        ({"rate": 1.1}, "rate of Settings must be a number > 0 and <= 1, but is 1.1."),
        ({"rate": math.nan}, "rate of Settings must be a number > 0 and <= 1, but is nan."),
        ({"kind": "c"}, "kind of Settings must be one of a, b, but is 'c'."),
        ({"flag": "yes"}, "flag of Settings must be true or false, but is 'yes'."),
    ],
)
def test_a_field_out_of_its_bounds_is_refused_with_the_bound_and_what_was_found(
    wrong: dict[str, Any], sentence: str
) -> None:
    check_fields(Settings())
    with pytest.raises(SettingsError) as refusal:
        check_fields(Settings(**wrong))
    assert str(refusal.value) == sentence
