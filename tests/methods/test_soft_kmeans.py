from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.cluster import KMeans

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook import ops
from onelook.errors import SettingsError
from onelook.methods import PrototypicalNetworks, SoftKMeans
from onelook.tasks import Tasks


def soft_kmeans_for(tasks: Tasks, **kept: Any) -> SoftKMeans:
    method = method_for(tasks, "soft-kmeans", **kept)
    assert isinstance(method, SoftKMeans)
    return method


@given(tasks_of_any_shape())
def test_without_a_step_it_is_prototypical_networks(tasks: Tasks) -> None:
    prototypical = PrototypicalNetworks(tasks.query.shape[-1], transform="l2n").double()
    torch.testing.assert_close(
        soft_kmeans_for(tasks, n_steps=0, scale=3.0, transform="l2n")(tasks), 3 * prototypical(tasks)
    )


def test_with_a_large_scale_it_is_the_k_means_of_scikit_learn_from_the_support_means() -> None:
    # Many shots, because scikit-learn moves the labelled rows too; of clusters this clear, all stay where they are.
    tasks = random_tasks(n_tasks=4, shots=(3, 4, 5), n_query=30, feature_size=10, noise=0.3)
    method = soft_kmeans_for(tasks, scale=1e4, n_steps=30, transform="l2n")
    found = method(tasks).argmax(-1)
    rows = method.preprocess(tasks)
    starts = ops.class_means(rows.support, rows.support_labels, 3)
    for i in range(4):
        both = torch.cat([rows.support[i], rows.query[i]]).numpy()
        expected = KMeans(3, init=starts[i].numpy(), n_init=1).fit(both)
        np.testing.assert_array_equal(expected.labels_[:12], tasks.support_labels[i].numpy())
        np.testing.assert_array_equal(expected.labels_[12:], found[i].numpy())


@given(tasks_of_any_shape())
def test_many_steps_end_where_one_more_changes_nothing(tasks: Tasks) -> None:
    torch.testing.assert_close(
        soft_kmeans_for(tasks, scale=1.0, n_steps=200)(tasks),
        soft_kmeans_for(tasks, scale=1.0, n_steps=201)(tasks),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"n_steps": -1}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        SoftKMeans(8, **wrong)  # type: ignore[arg-type]
