import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from helpers.methods import method_for, random_tasks, tasks_of_any_shape
from onelook.errors import SettingsError
from onelook.methods import TransductiveFineTuning
from onelook.tasks import Tasks


def tuning_for(tasks: Tasks, **kept: float) -> TransductiveFineTuning:
    method = method_for(tasks, "transductive-fine-tuning", **kept)
    assert isinstance(method, TransductiveFineTuning)
    return method


def objective(method: TransductiveFineTuning, head: Tensor, tasks: Tasks) -> Tensor:
    """Equation 6, a number for each task."""
    of_support = functional.cross_entropy(
        method.scores(head, tasks.support).mT, tasks.support_labels, reduction="none"
    ).mean(1)
    share = method.scores(head, tasks.query).softmax(-1)
    return of_support + method.entropy_weight * torch.special.entr(share).sum(-1).mean(1)


@given(tasks_of_any_shape(), st.sampled_from([0.3, 1.0, 8.0]), st.sampled_from([0.0, 0.4, 1.0]))
def test_the_gradient_is_that_of_autograd(tasks: Tasks, scale: float, entropy_weight: float) -> None:
    method = tuning_for(tasks, scale=scale, entropy_weight=entropy_weight)
    head = method.initial(tasks)
    head = (head + 0.3 * torch.randn(head.shape, dtype=head.dtype)).requires_grad_()
    (expected,) = torch.autograd.grad(objective(method, head, tasks).sum(), head)
    torch.testing.assert_close(method.gradient(head, tasks), expected, rtol=1e-9, atol=1e-12)


def test_before_the_first_step_the_scores_are_scaled_cosines_with_the_class_means() -> None:
    tasks = random_tasks()
    cosine = method_for(tasks, "prototypical", transform="l2n", metric="cosine", seed=None)
    torch.testing.assert_close(tuning_for(tasks, n_steps=0)(tasks), cosine(tasks))  # whose scale begins at 10, too


def test_the_queries_are_not_heard_where_their_entropy_weighs_nothing() -> None:
    tasks = random_tasks()
    method = tuning_for(tasks, entropy_weight=0.0)
    changed = Tasks(tasks.support, tasks.support_labels, torch.cat([tasks.query[:, :1], -tasks.query], 1), tasks.n_way)
    torch.testing.assert_close(method(changed)[:, 0], method(tasks)[:, 0])


def test_more_steps_make_the_queries_surer_and_fit_the_support_better() -> None:
    tasks = random_tasks(n_tasks=50, n_query=15, feature_size=16)
    entropy, loss = [], []
    for n_steps in (0, 5, 25, 100):
        share = tuning_for(tasks, n_steps=n_steps, step_size=0.01)(tasks).softmax(-1)
        entropy.append(float(torch.special.entr(share).sum(-1).mean()))
        support = Tasks(tasks.support, tasks.support_labels, tasks.support, tasks.n_way)
        scores = tuning_for(tasks, n_steps=n_steps, step_size=0.01)(support)
        loss.append(float(functional.cross_entropy(scores.mT, tasks.support_labels)))
    assert entropy == sorted(entropy, reverse=True)
    assert loss == sorted(loss, reverse=True)


@pytest.mark.parametrize("wrong", [{"n_steps": -1}, {"step_size": 0.0}, {"scale": 0.0}, {"entropy_weight": -1.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, float]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value}"):
        TransductiveFineTuning(8, **wrong)  # type: ignore[arg-type]
