import pytest
import torch

from helpers.methods import takes_images, tiny_network
from onelook import methods
from onelook.errors import SettingsError


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="'prototipical'; did you mean 'prototypical'"):
        methods.create("prototipical", feature_size=4)


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="setting of sib named 'n_step'; did you mean 'n_steps'"):
        methods.create("sib", feature_size=4, n_step=3)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="feature_size"):
        methods.create("sib")


@pytest.mark.parametrize("name", [name for name in methods.METHODS if not takes_images(name)])
def test_a_method_needs_no_more_than_the_size_of_its_features_and_the_number_of_training_classes(name: str) -> None:
    sizes = {"feature_size": 4, "n_classes": 3}
    needed = {key: size for key, size in sizes.items() if key in methods.list_settings(name)}
    assert needed.items() <= methods.create(name, **needed).settings().items()


def test_training_starts_from_the_same_weights_under_the_same_seed() -> None:
    states = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            states.append(methods.create("sib", feature_size=4).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", [name for name in methods.METHODS if takes_images(name)])
def test_the_network_a_method_is_built_on_is_none_of_its_settings(name: str) -> None:
    sizes = {"n_classes": 4} if "n_classes" in methods.list_settings(name) else {}
    settings = methods.create(name, backbone=tiny_network(), **sizes).settings()
    assert all(isinstance(value, int | float | str | bool) for value in settings.values())


def test_a_setting_never_changes_after_the_weights_are_made_for_it() -> None:
    method = methods.create("sib", feature_size=4)
    with pytest.raises(AttributeError, match="n_steps is a setting"):
        method.n_steps = 5  # type: ignore[misc]
