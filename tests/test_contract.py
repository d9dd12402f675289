"""Every method of METHODS keeps every law of the contract (docs/architecture.md). A new method is one line in CASES."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as search
from hypothesis import strategies as st
from torch import Tensor

import reference
from helpers.features import random_embeddings, random_images
from helpers.methods import (
    CASES,
    PatternReader,
    method_for,
    random_tasks,
    suited,
    takes_images,
    tasks_of_any_shape,
    tiny_network,
    training_classes,
)
from onelook import methods
from onelook.benchmark.audit import audit
from onelook.data.sampler import TaskSampler, TaskSpec
from onelook.events import finish
from onelook.tasks import Tasks

WITHOUT_PARAMETERS = {
    "alpha-tim",
    "bd-cspn",
    "bms",
    "em-dirichlet",
    "ilpc",
    "label-spreading",
    "laplacian-logistic",
    "laplacianshot",
    "logistic-regression",
    "map-proportions",
    "paddle",
    "prototypical",
    "protolp",
    "pt-map",
    "ridge",
    "soft-kmeans",
    "tim",
    "transductive-fine-tuning",
}
"""Methods that have nothing to learn in one of their settings, so that no gradient can be asked of it."""

REFERENCE_TOLERANCE = dict.fromkeys(("em-dirichlet", "laplacian-logistic", "logistic-regression", "metaoptnet"), 1e-6)
"""Of methods whose slow loop is itself an approximation, such as a general solver's."""

LEARNS_TO_COMPARE: dict[str, int] = {"gnn": 55, "maml": 12, "relation": 70, "snail": 135}
"""Methods that know nothing of similarity before they are trained, and the steps that are enough for three classes."""


def parametrised(cases: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    names = [" ".join([name, *(f"{key}={value}" for key, value in settings.items())]) for name, settings in cases]
    return pytest.mark.parametrize(("name", "settings"), cases, ids=names)


FIRST = {name: (name, settings) for name, settings in reversed(CASES)}
each_case = parametrised(CASES)
each_case_of_features = parametrised([case for case in CASES if not takes_images(case[0])])
each_method = parametrised([case for case in CASES if case[0] == "prototypical" or case == FIRST[case[0]]])
"""The first case of each method; of the simplest one a case for each transform of the features."""


few = search(max_examples=search().max_examples - 2)
"""Three examples by default: two more for each of a hundred cases take 7 seconds of a core."""


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def takes_any_number_of_classes(name: str) -> bool:
    return "n_way" not in methods.list_settings(name)


def test_every_method_stands_in_the_list_of_cases() -> None:
    assert {name for name, _ in CASES} == set(methods.METHODS)
    assert {methods.METHODS[name].transductive for name, _ in CASES} == {True, False}


@each_case
def test_a_method_depends_on_what_it_declares_and_on_nothing_else(name: str, settings: dict[str, Any]) -> None:
    """Earlier questions, its mode, other tasks, labels of queries, orders and numbers of classes are without effect."""
    data = random_images(5, 7) if takes_images(name) else random_embeddings(5, 10, 6, n_views=1)
    sampler = TaskSampler(data, TaskSpec(n_way=3, n_shot=2, n_query=3))
    method = method_for(sampler.sample([0]), name, **settings)
    found = finish(audit(method, sampler, 1))
    assert [finding.sentence for finding in found.leaks] == []
    change = {finding.check.name: finding.change for finding in found.findings}
    assert (change["replaced"] > 1e-6) == method.transductive
    assert (change["support order"] > 1e-6) == method.ordered_support
    rounding = max(finding.relative for finding in found.findings if not finding.excused)
    assert rounding < 1e-10  # far from the tolerance of the audit


@each_case
@few
@given(tasks=tasks_of_any_shape(n_tasks=st.sampled_from((2, 1, 3))), seed=st.integers(0, 100))
def test_a_batch_gives_what_the_slow_loop_of_the_paper_gives_for_each_task(
    name: str, settings: dict[str, Any], tasks: Tasks, seed: int
) -> None:
    """So it does not see the neighbours of a task either: the first example, the simplest, has two tasks."""
    tasks = suited(name, tasks)
    method = method_for(tasks, name, seed=seed, **settings)
    expected = torch.stack([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))])
    assert expected.shape == (len(tasks), tasks.query.shape[1], tasks.n_way)
    assert expected.isfinite().all()
    close(method(tasks), expected, REFERENCE_TOLERANCE.get(name, 1e-9))


@each_method
@few
@given(tasks=tasks_of_any_shape(), data=st.data())
def test_neither_the_order_of_queries_and_examples_nor_the_numbers_of_classes_matter(
    name: str, settings: dict[str, Any], tasks: Tasks, data: st.DataObject
) -> None:
    def order(n: int) -> Tensor:
        return torch.tensor(data.draw(st.permutations(range(n))))

    tasks = suited(name, tasks)
    method = method_for(tasks, name, **settings)
    queries, same = order(tasks.query.shape[1]), torch.arange(max(tasks.n_way, tasks.support.shape[1]))
    examples = same[: tasks.support.shape[1]] if method.ordered_support else order(tasks.support.shape[1])
    new_class = order(tasks.n_way) if takes_any_number_of_classes(name) else same[: tasks.n_way]
    labels = new_class[tasks.support_labels[:, examples]]
    changed = Tasks(tasks.support[:, examples], labels, tasks.query[:, queries], tasks.n_way)
    close(method(changed)[:, :, new_class], method(tasks)[:, queries])


@each_case
def test_asking_with_gradients_or_without_leaves_the_method_unchanged_and_answers_alike(
    name: str, settings: dict[str, Any]
) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **settings).train()
    before = copy.deepcopy(method.state_dict())
    attributes = {key: value for key, value in vars(method).items() if not key.startswith("_")}
    expected = method(tasks).detach()
    with torch.no_grad():
        close(method(tasks), expected)
    with torch.inference_mode():
        close(method(tasks), expected)
    after = method.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert {key: value for key, value in vars(method).items() if not key.startswith("_")} == attributes


@each_method
def test_a_method_has_a_fixed_n_way_exactly_when_it_is_built_for_one(name: str, settings: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    expected = None if takes_any_number_of_classes(name) else tasks.n_way
    assert method_for(tasks, name, **settings).n_way == expected


@each_method
def test_the_loss_is_refused_without_query_labels(name: str, settings: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks().without_query_labels())
    with pytest.raises(ValueError, match="query labels"):
        method_for(tasks, name, **settings).loss(tasks)


@each_case
def test_features_that_are_all_zero_give_finite_logits(name: str, settings: dict[str, Any]) -> None:
    tasks = random_tasks()
    support, query = tasks.support.clone(), tasks.query.clone()
    support[0, tasks.support_labels[0] == 0] = 0
    query[0, 0] = 0
    query[1] = 0
    tasks = suited(name, replace(tasks, support=support, query=query))
    # The parameters are left at their initial values: a zero centre keeps cl2n at the zero row.
    assert method_for(tasks, name, seed=None, **settings)(tasks).isfinite().all()


@each_case_of_features
@pytest.mark.parametrize(("length", "alike"), [(1e-6, False), (1e3, True)])
def test_features_of_any_length_give_finite_logits_and_gradients_in_single_precision(
    name: str, settings: dict[str, Any], length: float, alike: bool
) -> None:
    tasks = random_tasks(shots=(1, 4, 2, 1, 2), feature_size=16)
    rows, labels = training_classes(16)
    method = method_for(tasks, name, seed=None, **settings).float()
    method.prepare(length * rows.float(), labels)
    # All support rows alike: no system of equations between them has full rank.
    support = tasks.support[:, :1].expand_as(tasks.support) if alike else tasks.support
    support, query = (length * x.float() for x in (support, tasks.query))
    tasks = replace(tasks, support=support.requires_grad_(), query=query.requires_grad_())
    assert method(tasks).isfinite().all()
    method.loss(tasks).backward()
    gradients = [value.grad for value in (*method.parameters(), tasks.support, tasks.query)]
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@each_case
def test_every_parameter_gets_a_gradient_from_the_loss(name: str, settings: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks(n_query=8))
    method = method_for(tasks, name, **settings)
    parameters = dict(method.named_parameters())
    if not parameters:
        assert name in WITHOUT_PARAMETERS, f"{name} {settings} has no parameter; if that is meant, add it to the list."
        return
    method.loss(tasks).backward()
    without = [key for key, value in parameters.items() if value.grad is None or not value.grad.any()]
    assert not without
    assert all(value.grad is not None and value.grad.isfinite().all() for value in parameters.values())


def easy_tasks(name: str, seed: int, n_tasks: int = 20, n_query: int = 15) -> Tasks:
    balanced = methods.METHODS[name].assumes_balanced_queries
    shots = (1, 1, 1) if name in LEARNS_TO_COMPARE else (1, 1, 1, 1, 1)
    easy = random_tasks(n_tasks, shots, n_query, feature_size=32, noise=0.15, seed=seed, balanced=balanced)
    return suited(name, easy)


def accuracy(method: methods.Method, tasks: Tasks) -> float:
    assert tasks.query_labels is not None
    with torch.no_grad():
        return float((method(tasks).argmax(-1) == tasks.query_labels).double().mean())


@parametrised([case for case in CASES if case[0] not in LEARNS_TO_COMPARE or case == FIRST[case[0]]])
def test_easy_tasks_are_solved_untrained_or_after_a_little_training(name: str, settings: dict[str, Any]) -> None:
    network = {"backbone": PatternReader(32)} if takes_images(name) else {}
    method = method_for(easy_tasks(name, 0), name, seed=None, **network, **settings)
    if name in LEARNS_TO_COMPARE:
        optimiser = torch.optim.Adam(method.parameters(), 3e-3)
        for step in range(LEARNS_TO_COMPARE[name]):
            optimiser.zero_grad()
            method.loss(easy_tasks(name, step + 1, n_tasks=12, n_query=9)).backward()
            optimiser.step()
    assert accuracy(method, easy_tasks(name, 0)) > 0.95


@each_case
def test_seeing_the_training_classes_changes_the_answer_exactly_when_it_is_declared_to_be_needed(
    name: str, settings: dict[str, Any]
) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **settings)
    before = method(tasks)
    features, labels = training_classes()
    method.prepare(features + 1, labels)
    assert torch.equal(method(tasks), before) != method.needs_training_classes


@each_case
def test_settings_and_weights_are_all_it_takes_to_build_a_method_again(name: str, settings: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **settings)
    assert methods.find_name(method) == name
    built_on = {"backbone": tiny_network()} if takes_images(name) else {}
    again = methods.create(name, **built_on, **method.settings()).double()
    again.load_state_dict(method.state_dict())
    assert torch.equal(again(tasks), method(tasks))
