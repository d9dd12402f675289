"""Which images to label next: laws of the choice, and what is said of it."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelook.errors import DataError, SettingsError
from onelook.labelling.suggest import GROWTH, after_more, suggest
from onelook.scoring import Estimate


def pool(n: int, k: int, seed: int, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randn(n, k, generator=g).mul(2).softmax(-1)


def clusters(sizes: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows around orthogonal directions, and which direction each is of."""
    g = torch.Generator().manual_seed(seed)
    of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return torch.eye(16)[of] + 0.05 * torch.randn(len(of), 16, generator=g), of


def chosen(*args: object, **more: object) -> list[int]:
    return [s.index for s in suggest(*args, **more)]  # type: ignore[arg-type]


sizes = st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 12), st.integers(0, 99))


@given(sizes)
def test_so_many_different_images_of_the_pool_are_suggested_as_were_asked_for(size: tuple[int, ...]) -> None:
    n_pool, k, n, seed = size
    indices = chosen(*pool(n_pool, k, seed), n)
    assert len(indices) == len(set(indices)) == min(n, n_pool)
    assert set(indices) <= set(range(n_pool))


@given(sizes)
def test_a_smaller_batch_is_the_beginning_of_a_larger_one(size: tuple[int, ...]) -> None:
    n_pool, k, n, seed = size
    assert chosen(*pool(n_pool, k, seed), n) == chosen(*pool(n_pool, k, seed), n + 3)[:n]


@given(sizes)
def test_neither_the_scale_of_the_features_nor_the_names_of_the_classes_matter(size: tuple[int, ...]) -> None:
    n_pool, k, n, seed = size
    x, p = pool(n_pool, k, seed)
    assert chosen(4 * x, p.flip(1), n, labelled=2 * x[:2]) == chosen(x, p, n, labelled=x[:2])


def test_the_choice_goes_along_when_the_pool_is_in_another_order() -> None:
    x, p = pool(50, 4, seed=3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert [int(order[i]) for i in chosen(x[order], p[order], 8)] == chosen(x, p, 8)


def test_each_group_that_nothing_labelled_resembles_gets_one_before_any_gets_two() -> None:
    x, of = clusters((20, 9, 14, 11))
    picked = [int(of[i]) for i in chosen(x, torch.full((54, 4), 0.25), 3, labelled=torch.eye(16)[:1])]
    assert sorted(picked) == [1, 2, 3]


def test_the_larger_group_of_equal_doubt_comes_first() -> None:
    x, of = clusters((5, 20, 10))
    assert [int(of[i]) for i in chosen(x, torch.full((35, 3), 1 / 3), 3)] == [1, 2, 0]


def test_of_two_groups_alike_the_one_in_doubt_comes_first() -> None:
    for doubtful in (0, 1):
        x, of = clusters((12, 12))
        p = torch.where((of == doubtful).unsqueeze(1), torch.tensor([0.5, 0.5]), torch.tensor([0.999, 0.001]))
        assert int(of[chosen(x, p, 1)[0]]) == doubtful


def test_with_more_labels_doubt_outweighs_numbers() -> None:
    """By one label a class the larger group comes first, by four the one in doubt."""
    x, of = clusters((20, 12))
    p = torch.where((of == 1).unsqueeze(1), torch.tensor([0.6, 0.4]), torch.tensor([0.99, 0.01]))
    elsewhere = torch.eye(16)[10:].repeat(2, 1)
    assert int(of[chosen(x, p, 1, labelled=elsewhere[:2])[0]]) == 0
    assert int(of[chosen(x, p, 1, labelled=elsewhere[:8])[0]]) == 1


def test_a_single_odd_image_in_doubt_does_not_come_before_a_group() -> None:
    x, of = clusters((15, 1))
    p = torch.where((of == 1).unsqueeze(1), torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1]))
    assert int(of[chosen(x, p, 1)[0]]) == 0


def test_copies_of_one_image_are_suggested_once_while_there_are_others() -> None:
    x = torch.eye(16)[:6].repeat(12, 1)
    for indices in itertools.combinations(chosen(x, torch.full((72, 2), 0.5), 6), 2):
        assert (indices[0] - indices[1]) % 6


def test_a_pool_beyond_the_limit_is_looked_at_in_part_and_alike_for_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onelook.labelling.suggest.LARGEST_POOL", 20)
    x, p = pool(200, 3, seed=0)
    first = chosen(x, p, 10, seed=1)
    assert first == chosen(x, p, 10, seed=1)
    assert first != chosen(x, p, 10, seed=2)
    assert max(first) >= 20
    monkeypatch.undo()
    assert first == chosen(x, p, 10, seed=1, memory=4 * 4 * 20**2)


def test_an_empty_pool_has_nothing_to_suggest() -> None:
    assert suggest(torch.zeros(0, 4), torch.zeros(0, 3), 5) == ()


def test_why_an_image_is_suggested_is_said_with_the_names_of_the_classes() -> None:
    x, _ = clusters((8,))
    p = torch.tensor([[0.45, 0.35, 0.2]]).repeat(8, 1)
    assert suggest(x, p, 1, class_names=("cat", "dog", "owl"))[0].why.startswith("unsure: cat (45 %) or dog (35 %); 7 ")
    p = torch.tensor([[0.95, 0.03, 0.02]]).repeat(8, 1)
    assert suggest(x, p, 1)[0].why.startswith("taken for class 0 (95 %); ")
    p = torch.tensor([[0.3, 0.7, 0.0]]).repeat(8, 1)
    why = suggest(x[:1], p[:1], 1)[0].why
    assert why == "perhaps class 1 (70 %), perhaps class 0; no other unlabelled image is much like it"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n": 0}, SettingsError, "n is 0"),
        ({"posterior": torch.ones(3, 2)}, DataError, "4 rows of features and 3 of probabilities"),
        ({"labelled": torch.ones(1, 5)}, DataError, "same network"),
        ({"class_names": ("a",)}, DataError, "1 names for 2 classes"),
        ({"features": torch.full((4, 3), torch.nan)}, DataError, "not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(change: dict[str, object], error: type, words: str) -> None:
    arguments = {"features": torch.ones(4, 3), "posterior": torch.full((4, 2), 0.5), "n": 1}
    with pytest.raises(error, match=words):
        suggest(**(arguments | change))  # type: ignore[arg-type]


estimates = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted).map(lambda p: Estimate(p[1], p[0], p[2]))


@given(estimates, st.integers(1, 50), st.integers(0, 50), st.integers(0, 50))
def test_any_estimate_grows_with_labels_and_in_two_steps_as_in_one(now: Estimate, n: int, a: int, b: int) -> None:
    assert vars(after_more(now, n, 0)) == pytest.approx(vars(now))
    then = after_more(now, n, a + b)
    assert vars(after_more(after_more(now, n, a), n + a, b)) == pytest.approx(vars(then))
    assert then.low <= then.value <= then.high
    assert all(getattr(then, end) >= getattr(now, end) - 1e-9 for end in ("low", "value", "high"))


def test_twice_the_labels_move_the_ends_by_what_was_fitted_and_the_interval_grows_in_logits() -> None:
    now = Estimate(0.5, 0.3, 0.7)
    then = after_more(now, 8, 8)

    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    moved = {name: logit(getattr(then, name)) - logit(getattr(now, name)) for name in GROWTH}
    assert moved == pytest.approx({name: slope * math.log(2) for name, slope in GROWTH.items()})
    assert moved["low"] < moved["value"] < moved["high"]
    assert after_more(Estimate(1.0, 0.0, 1.0), 1, 9) == Estimate(1.0, 0.0, 1.0)


@pytest.mark.parametrize("counts", [(0, 1), (1, -1)])
def test_growth_from_nothing_is_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match="n_labelled >= 1 and n_more >= 0"):
        after_more(Estimate(0.5, 0.3, 0.7), *counts)
