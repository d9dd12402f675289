import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import MetaOptNet, RidgeRegression
from onelook.tasks import Tasks


@given(tasks_of_any_shape(shots=st.lists(st.integers(1, 3), min_size=2, max_size=2).map(tuple)))
def test_a_machine_of_two_classes_that_pays_little_for_margins_compares_sums_of_rows(tasks: Tasks) -> None:
    # Every margin is violated then, so every row pulls at both classes with the whole price.
    method = MetaOptNet(tasks.query.shape[-1], C=1e-6).double()
    sign = 1 - 2 * tasks.support_labels.double()
    weight = (sign.unsqueeze(-1) * tasks.support).sum(1, keepdim=True)
    logit = tasks.query @ weight.mT
    torch.testing.assert_close(method(tasks) / 5e-6, torch.cat([logit, -logit], -1), rtol=1e-6, atol=1e-6)


@given(tasks_of_any_shape())
def test_the_ridge_head_is_r2d2_with_a_fixed_ridge(tasks: Tasks) -> None:
    size = tasks.query.shape[-1]
    fixed = MetaOptNet(size, head="ridge", ridge=1.0, unit_length=True).double()
    torch.testing.assert_close(fixed(tasks), RidgeRegression(size, initial_ridge=1.0).double()(tasks))


def test_features_ten_times_as_long_ask_for_a_hundredth_of_the_price_and_a_hundred_times_the_ridge() -> None:
    tasks = random_tasks()
    longer = Tasks(10 * tasks.support, tasks.support_labels, 10 * tasks.query, tasks.n_way)
    for long, short in [({"C": 0.1}, {"C": 10.0}), ({"ridge": 50.0}, {"ridge": 0.5})]:
        head = {"head": "svm" if "C" in long else "ridge"}
        found = method_for(tasks, "metaoptnet", **head, **long)(longer)
        torch.testing.assert_close(found, method_for(tasks, "metaoptnet", **head, **short)(tasks), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("head", ["svm", "ridge"])
def test_gradients_of_the_features_are_those_of_finite_differences(head: str) -> None:
    tasks = random_tasks(n_tasks=1)
    method = method_for(tasks, "metaoptnet", head=head, unit_length=True)

    def logits(support: Tensor, query: Tensor) -> Tensor:
        return method(Tasks(support, tasks.support_labels, query, tasks.n_way))

    inputs = (tasks.support.requires_grad_(), tasks.query.requires_grad_())
    assert torch.autograd.gradcheck(logits, inputs, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("wrong", [{"head": "'lda'"}, {"C": 0.0}, {"ridge": -1.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float | str]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        MetaOptNet(8, **{key: value.strip("'") if isinstance(value, str) else value})  # type: ignore[arg-type]
