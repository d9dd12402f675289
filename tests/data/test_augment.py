"""Augmentation as a map from pixels and draws to pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from onelook.data.augment import N_DRAWS, Augmentation, augment, turn

STILL = (0.5, 0.5, 0.9, 0.5, 0.5, 0.5)
"""No shift, no flip, every factor 1."""

cases = st.builds(
    lambda seed, n, channels, height, width, pad, flip, jitter: (
        pixels(seed, n, channels, height, width),
        Augmentation(pad, flip, jitter),
        np.random.default_rng([seed, 1]).random((n, N_DRAWS)),
    ),
    st.integers(0, 999),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
    st.integers(5, 9),
    st.integers(5, 9),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.4, 1.0]),
)


def pixels(seed: int = 0, n: int = 2, channels: int = 3, height: int = 8, width: int = 7) -> Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.integers(0, 256, (n, channels, height, width), dtype=np.uint8))


def draws(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows)


def shift(by: int, pad: int) -> float:
    """The middle of the draws that move by `by`."""
    return (by + pad + 0.5) / (2 * pad + 1)


@given(cases)
def test_the_same_pixels_and_draws_give_the_same_and_are_left_as_they_were(
    case: tuple[Tensor, Augmentation, np.ndarray],
) -> None:
    images, how, numbers = case
    before, numbers_before = images.clone(), numbers.copy()
    first = augment(images, how, numbers)
    torch.rand(3)  # no generator is read
    assert torch.equal(augment(images, how, numbers), first)
    assert torch.equal(images, before)
    assert np.array_equal(numbers, numbers_before)


@given(cases)
def test_many_at_once_are_what_they_are_one_by_one(case: tuple[Tensor, Augmentation, np.ndarray]) -> None:
    images, how, numbers = case
    one_by_one = [augment(images[i : i + 1], how, numbers[i : i + 1]) for i in range(len(images))]
    torch.testing.assert_close(augment(images, how, numbers), torch.cat(one_by_one), rtol=0, atol=1e-4)


@given(cases)
def test_pixels_stay_between_0_and_255_and_lie_channels_last(case: tuple[Tensor, Augmentation, np.ndarray]) -> None:
    images, how, numbers = case
    result = augment(images, how, numbers)
    assert result.dtype == torch.float32
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 255
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("jitter", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_middle_draws_change_nothing(channels: int, flip: bool, jitter: float) -> None:
    images = pixels(channels=channels)
    assert torch.equal(augment(images, Augmentation(3, flip, jitter), draws(STILL, STILL)), images.float())


@pytest.mark.parametrize("down", range(-3, 4))
@pytest.mark.parametrize("right", range(-3, 4))
def test_a_shift_takes_each_pixel_from_as_far_away_and_mirrors_the_edge(down: int, right: int) -> None:
    images = pixels(n=1)
    numbers = draws((shift(down, 3), shift(right, 3), *STILL[2:]))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), "reflect")
    expected = padded[:, :, 3 + down : 11 + down, 3 + right : 10 + right]
    assert np.array_equal(augment(images, Augmentation(3, jitter=0.0), numbers).numpy(), expected)


def test_every_shift_is_equally_likely() -> None:
    mark = torch.arange(9, dtype=torch.uint8).view(1, 1, 1, 9).expand(500, 1, 9, 9)
    even = (np.arange(500) + 0.5) / 500
    numbers = np.stack([even * 0 + 0.5, even, *[even * 0 + 0.9] * 4], 1)
    middle = augment(mark, Augmentation(2, jitter=0.0), numbers)[:, 0, 4, 4]
    assert middle.long().bincount(minlength=9).tolist() == [0, 0, 100, 100, 100, 100, 100, 0, 0]


def test_a_draw_below_one_half_mirrors_left_to_right_and_twice_is_nothing() -> None:
    images = pixels()
    how = Augmentation(3, jitter=0.0)
    low, high = (0.5, 0.5, 0.49, *STILL[3:]), (0.5, 0.5, 0.5, *STILL[3:])
    once = augment(images, how, draws(low, high))
    assert torch.equal(once, torch.stack([images[0].flip(-1), images[1]]).float())
    assert torch.equal(augment(once.byte(), how, draws(low, high)), images.float())


def test_without_flip_the_draw_does_nothing() -> None:
    images = pixels()
    low = (0.5, 0.5, 0.0, *STILL[3:])
    assert torch.equal(augment(images, Augmentation(flip=False), draws(low, low)), images.float())


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_multiplies(channels: int) -> None:
    images = pixels(channels=channels) // 2
    half, most = (*STILL[:3], 0.0, 0.5, 0.5), (*STILL[:3], 1.0, 0.5, 0.5)
    result = augment(images, Augmentation(jitter=0.5), draws(half, most))
    torch.testing.assert_close(result, images * torch.tensor([0.5, 1.5]).view(2, 1, 1, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_no_contrast_leaves_the_mean_grey(channels: int) -> None:
    images = pixels(channels=channels)
    none = (*STILL[:4], 0.0, 0.5)
    weights = torch.tensor([0.299, 0.587, 0.114] if channels == 3 else [1.0]).view(1, -1, 1, 1)
    expected = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(augment(images, Augmentation(jitter=1.0), draws(none, none)), expected)


def test_no_saturation_leaves_three_equal_channels_of_the_same_luminance() -> None:
    images = pixels()
    none = (*STILL[:5], 0.0)
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(images)
    torch.testing.assert_close(augment(images, Augmentation(jitter=1.0), draws(none, none)), grey)


def test_saturation_says_nothing_to_grey_images() -> None:
    images = pixels(channels=1)
    a, b = (*STILL[:3], 0.3, 0.8, 0.0), (*STILL[:3], 0.3, 0.8, 0.99)
    assert torch.equal(augment(images, Augmentation(), draws(a, a)), augment(images, Augmentation(), draws(b, b)))


def test_images_are_turned_by_their_own_number_of_quarters() -> None:
    four = torch.arange(4.0).view(1, 1, 2, 2).expand(4, 1, 2, 2)
    found = turn(four, torch.tensor([2, 0, 3, 1]))
    assert found.flatten(1).tolist() == [[3, 2, 1, 0], [0, 1, 2, 3], [2, 0, 3, 1], [1, 3, 0, 2]]
