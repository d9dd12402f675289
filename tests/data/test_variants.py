"""The laws of variants: what each change keeps and what it does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.features import random_embeddings
from onelook.data.sampler import TaskSpec
from onelook.data.synthetic import SyntheticConfig, synthetic_features
from onelook.data.variants import CHANGES, VariantConfig, random_variant, variant, variants
from onelook.errors import DataError, SettingsError
from onelook.events import finish
from onelook.methods import PrototypicalNetworks
from onelook.scoring import mean_accuracy
from onelook.tasks import Embeddings

DATA = random_embeddings(n_classes=5, images_per_class=8, feature_size=12)
"""Of two views."""


@pytest.fixture(scope="module")
def rectified() -> Embeddings:
    return synthetic_features(SyntheticConfig(n_features=40, n_classes=20, rows_per_class=40, accuracy=75.0))


def accuracy(data: Embeddings) -> float:
    """The mean accuracy in percent."""
    method = PrototypicalNetworks(data.feature_size, transform="l2n")
    return 100 * finish(mean_accuracy(method, data, TaskSpec(), 200)).value


def distances(data: Embeddings) -> torch.Tensor:
    return torch.cdist(data.views.double(), data.views.double(), compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("change", CHANGES)
def test_labels_and_views_stay_and_the_size_is_the_one_asked_for(change: str) -> None:
    config = VariantConfig(change, 7, power=0.5, noise=0.5)
    new = variant(DATA, config)
    assert new.views.shape == (2, 40, 12 if change == "none" else 7)
    assert new.views.dtype == DATA.views.dtype
    assert torch.equal(new.labels, DATA.labels)
    assert new.class_names == DATA.class_names
    assert new.environments == DATA.environments
    assert torch.equal(new.views, variant(DATA, config).views)


def test_no_change_is_none() -> None:
    assert torch.equal(variant(DATA, VariantConfig()).views, DATA.views)


@pytest.mark.parametrize("change", CHANGES)
def test_axes_of_the_same_number_keep_the_distances_within_and_across_views(change: str) -> None:
    assert torch.allclose(distances(variant(DATA, VariantConfig(change))), distances(DATA), atol=1e-5)


def test_random_axes_are_a_linear_map_that_lengthens_nothing_and_differs_by_seed() -> None:
    config = VariantConfig("projection", 5)
    new, doubled = variant(DATA, config), variant(replace(DATA, views=2 * DATA.views), config)
    assert torch.allclose(doubled.views, 2 * new.views, atol=1e-5)
    assert (distances(new) <= distances(DATA) + 1e-5).all()
    other = variant(DATA, replace(config, seed=1))
    assert not torch.allclose(distances(new), distances(other), atol=0.01)


def test_principal_axes_lose_less_of_the_variance_than_any_others() -> None:
    new = variant(DATA, VariantConfig("principal", 4)).views.flatten(0, 1)
    covariance = np.cov(DATA.views.flatten(0, 1).double().numpy().T, bias=True)
    largest = np.linalg.eigvalsh(covariance)[::-1][:4]
    assert np.allclose(new.double().var(0, correction=0).numpy(), largest, rtol=1e-4)
    assert new.mean(0).norm() > 0.01  # the mean is still there


def test_dropping_keeps_some_of_the_features_in_their_order() -> None:
    new = variant(DATA, VariantConfig("dropping", 5)).views
    same = (new.unsqueeze(-1) == DATA.views.unsqueeze(-2)).all(0).all(0)  # R D
    kept = same.int().argmax(1).tolist()
    assert same.any(1).all()
    assert kept == sorted(set(kept))


def test_the_power_is_of_the_size_and_leaves_the_sign() -> None:
    new = variant(DATA, VariantConfig(power=0.5)).views
    assert torch.allclose(new * new.abs(), DATA.views, atol=1e-6)


def test_noise_is_the_deviation_of_another_row_of_the_same_view() -> None:
    added = (variant(DATA, VariantConfig(noise=0.5)).views - DATA.views) / 0.5
    means = torch.stack([DATA.views[:, DATA.labels == k].mean(1) for k in range(5)], 1)
    deviation = DATA.views - means[:, DATA.labels]
    apart = (added[:, :, None] - deviation[:, None]).abs().amax((0, 3))  # of both views at once
    donor = apart.argmin(1)
    assert (apart.amin(1) < 1e-5).all()
    assert (donor != torch.arange(40)).all()
    assert len(set(donor.tolist())) > 15
    assert (DATA.labels[donor] != DATA.labels).any()


def test_rows_without_a_label_get_noise_but_give_none() -> None:
    labels = DATA.labels.clone()
    labels[::2] = -1
    views = DATA.views.clone()
    views[:, ::2] += 1000
    added = variant(replace(DATA, views=views, labels=labels), VariantConfig(noise=1.0)).views - views
    assert (added.abs().amax((0, 2)) > 0.1).all()
    assert added.abs().max() < 10


def test_noise_needs_two_labelled_rows() -> None:
    labels = torch.full_like(DATA.labels, -1)
    labels[0] = 0
    with pytest.raises(DataError, match="2 labelled rows"):
        variant(replace(DATA, labels=labels), VariantConfig(noise=1.0))


def test_the_more_noise_the_harder_and_rectified_features_stay_so(rectified: Embeddings) -> None:
    made = [variant(rectified, VariantConfig(noise=noise)) for noise in (0.0, 0.5, 1.0)]
    assert all((data.views >= 0).all() for data in made)
    found = [accuracy(data) for data in made]
    assert found[0] > found[1] + 3
    assert found[1] > found[2] + 3


@pytest.mark.parametrize(
    "bad", [{"change": "rotation"}, {"size": 0}, {"power": 0.0}, {"noise": -0.1}, {"noise": float("nan")}], ids=str
)
def test_settings_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        VariantConfig(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["projection", "principal", "dropping"])
def test_more_features_than_there_are_are_refused(change: str) -> None:
    with pytest.raises(SettingsError, match="13 were asked for of 12"):
        variant(DATA, VariantConfig(change, 13))


# ------------------------------------------------------------------------------------------------ many variants


def test_a_variant_depends_on_the_seed_and_its_number_only(rectified: Embeddings) -> None:
    made = variants(rectified, 0, 6)
    assert all(torch.equal(a.views, b.views) for a, b in zip(made, variants(rectified, 0, 3), strict=False))
    sources = {data.source for data in (*made, *variants(rectified, 1, 6))}
    assert len(sources) == 12
    assert all(torch.equal(data.labels, rectified.labels) for data in made)
    assert all(data.views.isfinite().all() for data in made)


@pytest.mark.parametrize(("size", "least"), [(8, 8), (40, 16), (640, 160)])
def test_variants_are_drawn_over_the_whole_range(size: int, least: int) -> None:
    drawn = [random_variant(np.random.default_rng([0, i]), size) for i in range(300)]
    assert {c.change for c in drawn} == set(CHANGES)
    sizes = [c.size for c in drawn if c.size is not None]
    assert all((c.size is None) == (c.change == "none") for c in drawn)
    assert least <= min(sizes) <= least + 0.1 * size
    assert 0.9 * size <= max(sizes) <= size
    assert 0.4 <= min(c.power for c in drawn) < 0.45 < 0.95 < max(c.power for c in drawn) <= 1
    noise = [c.noise for c in drawn]
    assert 0.3 < np.mean([n == 0 for n in noise]) < 0.7
    assert 0.9 < max(noise) <= 1
