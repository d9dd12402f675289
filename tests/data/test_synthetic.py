"""The laws of made-up features: they are what their configuration says, above all as hard as it says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from onelook.data.sampler import TaskSpec
from onelook.data.synthetic import SyntheticConfig, random_config, synthetic_features, synthetic_suite
from onelook.errors import SettingsError
from onelook.events import finish
from onelook.methods import PrototypicalNetworks
from onelook.scoring import mean_accuracy
from onelook.tasks import Embeddings

CONFIG = SyntheticConfig(n_features=24, n_classes=20, rows_per_class=40)
PLAIN = replace(CONFIG, relu=False, unevenness=0.0)
SUITE_SEED = 3


@pytest.fixture(scope="module")
def suite() -> list[Embeddings]:
    return synthetic_suite(SUITE_SEED, 8)


def accuracy(data: Embeddings, n_shot: int = 1) -> float:
    """The mean accuracy in percent."""
    method = PrototypicalNetworks(data.feature_size, transform="l2n")
    return 100 * finish(mean_accuracy(method, data, TaskSpec(n_shot=n_shot), 200)).value


def within(data: Embeddings) -> np.ndarray:
    """Deviations of the rows from the mean of their class, K N/K D."""
    x = data.features.double().numpy().reshape(len(data.class_names), -1, data.feature_size)
    return x - x.mean(1, keepdims=True)


def test_a_set_is_a_function_of_its_configuration_and_of_no_generator_of_the_process() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = synthetic_features(CONFIG)
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(first.views, synthetic_features(CONFIG).views)
    assert not torch.allclose(first.views, synthetic_features(replace(CONFIG, seed=1)).views, atol=0.1)


def test_it_has_the_sizes_asked_for_and_as_many_rows_of_each_class() -> None:
    data = synthetic_features(CONFIG)
    assert data.views.shape == (1, 20 * 40, 24)
    assert data.views.dtype == torch.float32
    assert data.views.isfinite().all()
    assert data.labels.bincount().tolist() == [40] * 20
    assert len(set(data.class_names)) == 20


@pytest.mark.parametrize("asked", [35.0, 60.0, 90.0])
@pytest.mark.parametrize(
    "change",
    [{}, {"relu": False}, {"freedom": 3.0}, {"n_features": 300, "decay": 0.3}, {"decay": 2.0, "alignment": 1.0}],
    ids=str,
)
def test_the_accuracy_of_nearest_centroids_is_the_one_asked_for(asked: float, change: dict[str, float]) -> None:
    assert accuracy(synthetic_features(replace(CONFIG, accuracy=asked, **change))) == pytest.approx(asked, abs=5)


def test_what_no_share_of_the_variance_can_give_is_refused() -> None:
    """One feature that is above zero everywhere gives every row the same direction."""
    with pytest.raises(SettingsError, match="accuracy of 60 percent; the nearest have 0"):
        synthetic_features(replace(CONFIG, n_features=1, offset=50.0))


def test_rectified_features_are_not_negative_and_those_that_are_not_rectified_are() -> None:
    rectified = synthetic_features(CONFIG).features
    assert (rectified >= 0).all()
    assert 0.2 < (rectified == 0).float().mean() < 0.8
    plain = synthetic_features(replace(CONFIG, relu=False)).features
    assert 0.2 < (plain < 0).float().mean() < 0.8


def test_t_distributed_classes_have_heavier_tails_than_gaussian_ones() -> None:
    kurtosis = {
        freedom: float(stats.kurtosis(within(synthetic_features(replace(PLAIN, freedom=freedom))), axis=(0, 1)).mean())
        for freedom in (3.0, 5.0, math.inf)
    }
    assert abs(kurtosis[math.inf]) < 0.2
    assert kurtosis[3.0] > kurtosis[5.0] > 0.8


def test_a_divisor_of_the_t_distribution_is_common_to_the_entries_of_a_row() -> None:
    """So that the squares of two uncorrelated features go together, which those of a Gaussian do not."""
    for freedom, low, high in ((3.0, 0.1, 1.0), (math.inf, -0.05, 0.05)):
        data = synthetic_features(replace(PLAIN, freedom=freedom, low_rank=0.0))
        ranks = stats.rankdata(np.abs(within(data).reshape(-1, 24)), axis=0)
        together = np.corrcoef(ranks.T)[np.triu_indices(24, 1)].mean()
        assert low < together < high


def test_few_directions_hold_the_spread_that_is_said_to_be_of_low_rank() -> None:
    for low_rank, rank in ((0.9, 2), (0.5, 3)):
        x = within(synthetic_features(replace(PLAIN, low_rank=low_rank, rank=rank))).reshape(-1, 24)
        spectrum = np.linalg.eigvalsh(np.cov(x.T))[::-1]
        expected = low_rank + (1 - low_rank) * rank / 24
        assert spectrum[:rank].sum() / spectrum.sum() == pytest.approx(expected, abs=0.04)


def test_the_more_the_centres_decay_the_fewer_directions_they_differ_in() -> None:
    """Counted by the participation ratio of their spectrum."""
    counts = []
    for decay in (0.0, 1.0, 2.0):
        data = synthetic_features(replace(PLAIN, n_classes=100, decay=decay, accuracy=90.0))
        centres = data.features.reshape(100, 40, 24).mean(1).double().numpy()
        spectrum = np.linalg.eigvalsh(np.cov(centres.T))
        counts.append(spectrum.sum() ** 2 / (spectrum**2).sum())
    assert counts[0] > 16 > counts[1] > 4 > counts[2]


def test_aligned_classes_spread_where_their_centres_differ_and_gain_less_by_more_shots() -> None:
    gains, shares = [], []
    for alignment in (0.0, 1.0):
        config = replace(PLAIN, n_features=128, rank=4, decay=2.0, low_rank=0.9, alignment=alignment)
        data = synthetic_features(config)
        axes = np.linalg.eigh(np.cov(within(data).reshape(-1, 128).T))[1][:, -4:]
        centres = data.features.reshape(20, 40, 128).mean(1).double().numpy()
        centres -= centres.mean(0)
        shares.append(((centres @ axes) ** 2).sum() / (centres**2).sum())
        gains.append(accuracy(data, n_shot=5) - accuracy(data))
    assert shares[0] < 0.5 < 0.8 < shares[1]
    assert gains[1] < gains[0] - 3


def test_unevenness_makes_some_classes_wide_and_some_tight() -> None:
    for unevenness in (0.0, 0.5):
        config = replace(PLAIN, n_classes=100, n_features=64, low_rank=0.0, unevenness=unevenness)
        scale = np.log((within(synthetic_features(config)) ** 2).mean((1, 2))) / 2
        assert scale.std() == pytest.approx(unevenness, abs=0.1)


def test_the_common_mean_is_as_large_as_asked() -> None:
    for offset in (0.0, 1.0, 3.0):
        drawn = [synthetic_features(replace(PLAIN, n_features=100, offset=offset, seed=seed)) for seed in range(5)]
        means = torch.cat([data.features.mean(0) for data in drawn])
        assert means.std().item() == pytest.approx(offset, rel=0.06, abs=0.15)


@pytest.mark.parametrize(
    "bad",
    [
        {"n_classes": 4},
        {"rows_per_class": 1},
        {"rank": 0},
        {"freedom": 2.0},
        {"low_rank": 1.1},
        {"alignment": -0.1},
        {"accuracy": 20.0},
        {"accuracy": 99.0},
        {"unevenness": math.nan},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="of SyntheticConfig must be"):
        SyntheticConfig(**bad)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ the suite


def test_a_suite_has_sets_of_all_sizes_and_difficulties(suite: list[Embeddings]) -> None:
    found = [accuracy(data) for data in suite]
    assert all(35 <= a <= 90 for a in found)
    assert max(found) - min(found) > 20
    assert len({data.views.shape for data in suite}) == len(suite)
    assert all(data.views.isfinite().all() for data in suite)
    assert all(16 <= data.feature_size <= 640 for data in suite)
    assert all(20 <= len(data.class_names) <= 100 for data in suite)
    assert all(40 <= n <= 100 for data in suite for n in data.labels.bincount().tolist())


def test_a_set_of_a_suite_depends_on_the_seed_and_its_number_only(suite: list[Embeddings]) -> None:
    again = synthetic_suite(SUITE_SEED, 2)
    assert all(torch.equal(a.views, b.views) for a, b in zip(again, suite[:2], strict=True))
    assert synthetic_suite(SUITE_SEED + 1, 1)[0].source != suite[0].source


def test_all_families_are_drawn_over_the_whole_range() -> None:
    drawn = [random_config(np.random.default_rng([0, i])) for i in range(300)]
    assert {(c.relu, math.isfinite(c.freedom)) for c in drawn} == {(a, b) for a in (True, False) for b in (True, False)}
    assert all(3 <= c.freedom <= 5 or c.freedom == math.inf for c in drawn)
    sizes = [c.n_features for c in drawn]
    assert 16 <= min(sizes) < 20 < 550 < max(sizes) <= 640
