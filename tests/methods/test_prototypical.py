import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from helpers.methods import method_for, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import PrototypicalNetworks
from onelook.tasks import Tasks


@given(tasks_of_any_shape())
def test_predictions_are_those_of_the_nearest_centroid_classifier_of_scikit_learn(tasks: Tasks) -> None:
    predicted = PrototypicalNetworks(tasks.query.shape[-1]).double()(tasks).argmax(-1)
    for i in range(len(tasks)):
        with np.errstate(invalid="ignore"):  # at one shot scikit-learn divides by zero for a spread it does not use
            centroids = NearestCentroid().fit(tasks.support[i].numpy(), tasks.support_labels[i].numpy())
        np.testing.assert_array_equal(predicted[i].numpy(), centroids.predict(tasks.query[i].numpy()))


@given(tasks_of_any_shape(), st.sampled_from(["none", "l2n", "cl2n"]), st.integers(0, 1000))
def test_simpleshot_is_the_nearest_mean_of_centred_unit_features(tasks: Tasks, transform: str, seed: int) -> None:
    method = method_for(tasks, "prototypical", seed=seed, transform=transform)
    assert isinstance(method, PrototypicalNetworks)
    centre = method.centre.numpy()

    def transformed(x: np.ndarray) -> np.ndarray:
        if transform == "none":
            return x
        x = x - centre if transform == "cl2n" else x
        return x / np.sqrt((x**2).sum(axis=1, keepdims=True))

    for i in range(len(tasks)):
        support, query = transformed(tasks.support[i].numpy()), transformed(tasks.query[i].numpy())
        means = np.stack([support[tasks.support_labels[i].numpy() == k].mean(axis=0) for k in range(tasks.n_way)])
        expected = -((query[:, None] - means[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(method(tasks)[i].numpy(), expected, rtol=1e-9, atol=1e-9)


@given(tasks_of_any_shape(n_tasks=st.just(1)))
def test_simpleshot_is_centred_on_the_mean_of_the_training_features(tasks: Tasks) -> None:
    method = method_for(tasks, "prototypical", transform="cl2n")
    method.prepare(tasks.support[0], tasks.support_labels[0])
    assert isinstance(method, PrototypicalNetworks)
    np.testing.assert_allclose(method.centre.numpy(), tasks.support[0].numpy().mean(axis=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"metric": "manhattan"}, {"transform": "L2N"}])
def test_an_unknown_metric_or_transform_is_refused_with_what_was_found(wrong: dict[str, str]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is '{value}'"):
        PrototypicalNetworks(8, **wrong)
