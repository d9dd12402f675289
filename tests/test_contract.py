"""Every method of METHODS keeps every law of the contract (docs/architecture.md). A new method is one line in CASES."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import reference
from making import (
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
from onelook.tasks import Tasks

CASES: list[tuple[str, dict[str, Any]]] = [
    ("activations", {}),
    ("activations", {"hidden": 4}),
    ("bd-cspn", {}),
    ("bd-cspn", {"scale": 3.0, "transform": "none"}),
    ("bms", {"scale": 20.0, "n_steps": 5, "n_sinkhorn": 8}),
    ("bms", {"balanced": False, "n_steps": 5, "n_sinkhorn": 8}),
    ("bms", {"balanced": False, "scale": 4.0, "n_steps": 2, "n_sinkhorn": 3, "transform": "cl2n"}),
    ("alpha-tim", {"n_iterations": 15}),
    ("alpha-tim", {"n_iterations": 15, "alpha": 1.5, "marginal_weight": 0.5, "transform": "root"}),
    ("ctm", {}),
    ("ctm", {"metric": "cosine"}),
    ("dynamic", {}),
    ("dynamic", {"attention_scale": 3.0}),
    ("em-dirichlet", {}),
    ("em-dirichlet", {"temperature": 30.0}),
    ("em-dirichlet", {"temperature": 10.0, "class_weight": 0.5, "n_iterations": 3, "transform": "cl2n"}),
    ("feature-averaging", {}),
    ("glance", {"width": 8}),
    ("glance", {"guard": False, "n_steps": 2, "width": 8, "n_layers": 1, "n_neighbours": 3}),
    ("gnn", {"n_layers": 2, "width": 64, "hidden": 16, "edge_hidden": 16}),
    ("gnn", {"n_layers": 1, "width": 32, "edge_hidden": 16}),
    ("laplacianshot", {}),
    ("laplacianshot", {"smoothness": 0.3, "n_neighbours": 2, "n_steps": 4, "rectify": False, "transform": "l2n"}),
    ("ilpc", {}),
    ("ilpc", {"n_moved": 1, "n_neighbours": 3, "alpha": 0.5, "n_steps": 10, "step_size": 0.5, "transform": "l2n"}),
    ("ilpc", {"n_moved": 1, "balanced": False, "power": 1.0, "n_steps": 20, "transform": "cl2n"}),
    ("label-spreading", {}),
    ("label-spreading", {"n_neighbours": 2, "alpha": 0.5, "gamma": 3.0, "transform": "cl2n"}),
    ("leo", {"latent_size": 16}),
    ("leo", {"latent_size": 8, "latent_steps": 2, "tuning_steps": 1}),
    ("logistic-regression", {}),
    ("logistic-regression", {"C": 10.0, "transform": "cl2n"}),
    ("logistic-regression", {"C": 0.5, "transform": "none"}),
    ("maml", {}),
    ("maml", {"n_steps": 2, "step_size": 0.05}),
    ("maml", {"order": 1}),
    ("maml", {"adapt": "head"}),
    ("maml", {"adapt": "head", "order": 1, "step_size": 0.2}),
    ("map-proportions", {}),
    ("map-proportions", {"scale": 4.0, "prior": 1.0, "step_size": 0.5, "n_steps": 5, "transform": "cl2n"}),
    ("matching", {}),
    ("matching", {"full_context": True}),
    ("matching", {"full_context": True, "n_reads": 1, "lstm_size": 16, "initial_scale": 5.0}),
    ("metaoptnet", {}),
    ("metaoptnet", {"C": 2.0, "unit_length": True}),
    ("metaoptnet", {"head": "ridge", "ridge": 0.5}),
    ("paddle", {"n_iterations": 20}),
    ("paddle", {"n_iterations": 20, "min_max": True, "temperature": 1.0, "transform": "none"}),
    ("paddle", {"n_iterations": 5, "class_weight": 0.5, "temperature": 15.0, "transform": "cl2n"}),
    ("prototypical", {}),
    ("prototypical", {"transform": "l2n"}),
    ("prototypical", {"transform": "cl2n"}),
    ("prototypical", {"transform": "root"}),
    ("prototypical", {"transform": "root-centred"}),
    ("prototypical", {"metric": "cosine"}),
    ("prototypical", {"metric": "cosine", "transform": "cl2n"}),
    ("pt-map", {"n_steps": 5, "n_sinkhorn": 8}),
    ("pt-map", {"scale": 4.0, "step_size": 0.5, "n_steps": 3, "n_sinkhorn": 3, "transform": "cl2n"}),
    ("protolp", {"n_steps": 10}),
    ("protolp", {"n_steps": 5, "dimensions": 5, "smoothness": 0.3, "transform": "l2n"}),
    ("protolp", {"n_steps": 5, "balanced": False, "step_size": 0.5, "propagated_part": 0.9}),
    ("r2d2", {}),
    ("r2d2", {"initial_ridge": 0.1, "unit_length": False}),
    ("relation", {}),
    ("relation", {"hidden": 3, "loss_kind": "cross-entropy"}),
    ("sib", {}),
    ("sib", {"n_steps": 2, "step_size": 2e-3, "prior_weight": 0.3}),
    ("sib-inductive", {}),
    ("sib-inductive", {"n_steps": 2, "step_size": 0.3, "prior_weight": 0.3, "learn_step": False}),
    ("snail", {"filters": 16, "max_support": 8}),
    ("snail", {"filters": 16, "max_support": 2}),
    ("soft-kmeans", {}),
    ("soft-kmeans", {"scale": 2.0, "n_steps": 3, "transform": "l2n"}),
    ("tadam", {}),
    ("tadam", {"metric_scale": 0.5, "penalty": 0.0}),
    ("tim", {"n_iterations": 20}),
    ("tim", {"solver": "gd", "n_iterations": 15}),
    ("tim", {"n_iterations": 5, "marginal_weight": 0.5, "conditional_weight": 0.4, "transform": "cl2n"}),
    ("tpn", {}),
    ("tpn", {"n_neighbours": 2, "alpha": 0.6, "even_classes": False}),
    ("transductive-fine-tuning", {}),
    ("transductive-fine-tuning", {"n_steps": 4, "step_size": 0.05, "scale": 3.0, "transform": "cl2n"}),
    ("transductive-fine-tuning", {"n_steps": 3, "entropy_weight": 0.2, "transform": "none"}),
]

WITHOUT_PARAMETERS = {
    "alpha-tim",
    "bd-cspn",
    "bms",
    "em-dirichlet",
    "ilpc",
    "label-spreading",
    "laplacianshot",
    "logistic-regression",
    "map-proportions",
    "paddle",
    "prototypical",
    "protolp",
    "pt-map",
    "soft-kmeans",
    "tim",
    "transductive-fine-tuning",
}
"""Methods that have nothing to learn in one of their settings, so that no gradient can be asked of it."""

REFERENCE_TOLERANCE: dict[str, float] = {"em-dirichlet": 1e-6, "logistic-regression": 1e-6, "metaoptnet": 1e-6}
"""Of methods whose slow loop is itself an approximation, such as a general solver's."""

LEARNS_TO_COMPARE: dict[str, int] = {"gnn": 100, "maml": 20, "relation": 100, "snail": 150}
"""Methods that know nothing of similarity before they are trained, and the steps that are enough for an easy task."""


def _names(cases: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [" ".join([name, *(f"{key}={value}" for key, value in kept.items())]) for name, kept in cases]


def _of_any_number_of_classes(case: tuple[str, dict[str, Any]]) -> bool:
    return "n_way" not in methods.parameters_of(case[0])


each_method = pytest.mark.parametrize(("name", "kept"), CASES, ids=_names(CASES))

_free = [case for case in CASES if _of_any_number_of_classes(case)]
each_method_of_any_n_way = pytest.mark.parametrize(("name", "kept"), _free, ids=_names(_free))

_of_features = [case for case in CASES if not takes_images(case[0])]
each_method_of_features = pytest.mark.parametrize(("name", "kept"), _of_features, ids=_names(_of_features))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def permuted_queries(tasks: Tasks, order: Tensor) -> Tasks:
    labels = None if tasks.query_labels is None else tasks.query_labels[:, order]
    return replace(tasks, query=tasks.query[:, order], query_labels=labels)


def test_every_method_stands_in_the_list_of_cases() -> None:
    assert {name for name, _ in CASES} == set(methods.METHODS)


@each_method
@given(tasks=tasks_of_any_shape())
def test_the_logits_are_finite_and_of_shape_tasks_queries_classes(
    name: str, kept: dict[str, Any], tasks: Tasks
) -> None:
    tasks = suited(name, tasks)
    logits = method_for(tasks, name, **kept)(tasks)
    assert logits.shape == (len(tasks), tasks.query.shape[1], tasks.n_way)
    assert logits.isfinite().all()


@each_method
def test_features_that_are_all_zero_give_finite_logits(name: str, kept: dict[str, Any]) -> None:
    tasks = random_tasks()
    support, query = tasks.support.clone(), tasks.query.clone()
    support[0, tasks.support_labels[0] == 0] = 0
    query[0, 0] = 0
    query[1] = 0
    tasks = suited(name, replace(tasks, support=support, query=query))
    # The parameters are left at their initial values: a zero centre keeps cl2n at the zero row.
    assert method_for(tasks, name, seed=None, **kept)(tasks).isfinite().all()


@each_method_of_features
@pytest.mark.parametrize(("length", "alike"), [(1e-6, False), (1e3, True)])
def test_features_of_any_length_give_finite_logits_and_gradients_in_single_precision(
    name: str, kept: dict[str, Any], length: float, alike: bool
) -> None:
    tasks = random_tasks(shots=(1, 4, 2, 1, 2), feature_size=16)
    rows, labels = training_classes(16)
    method = method_for(tasks, name, seed=None, **kept).float()
    method.prepare(length * rows.float(), labels)
    # All support rows alike: no system of equations between them has full rank.
    support = tasks.support[:, :1].expand_as(tasks.support) if alike else tasks.support
    support, query = (length * x.float() for x in (support, tasks.query))
    tasks = replace(tasks, support=support.requires_grad_(), query=query.requires_grad_())
    assert method(tasks).isfinite().all()
    method.loss(tasks).backward()
    gradients = [value.grad for value in (*method.parameters(), tasks.support, tasks.query)]
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@each_method
@pytest.mark.parametrize("training", [True, False])
def test_asking_twice_gives_the_same_answer_and_leaves_the_method_unchanged(
    name: str, kept: dict[str, Any], training: bool
) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **kept).train(training)
    before = copy.deepcopy(method.state_dict())
    attributes = {key: value for key, value in vars(method).items() if not key.startswith("_")}
    first = method(tasks)
    assert torch.equal(method(tasks), first)
    after = method.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert {key: value for key, value in vars(method).items() if not key.startswith("_")} == attributes


@each_method
def test_training_mode_and_evaluation_mode_give_the_same_answer(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **kept)
    assert torch.equal(method.train()(tasks), method.eval()(tasks))


@each_method
@given(tasks=tasks_of_any_shape(n_tasks=st.integers(2, 4)))
def test_a_batch_gives_what_its_tasks_give_one_by_one(name: str, kept: dict[str, Any], tasks: Tasks) -> None:
    tasks = suited(name, tasks)
    method = method_for(tasks, name, **kept)
    close(method(tasks), torch.cat([method(tasks[i : i + 1]) for i in range(len(tasks))]))


@each_method
def test_other_tasks_in_the_batch_can_be_replaced_without_effect(name: str, kept: dict[str, Any]) -> None:
    tasks, others = random_tasks(seed=1), random_tasks(seed=2)
    support = torch.cat([tasks.support[:1], 100 * others.support[1:]])
    support_labels = torch.cat([tasks.support_labels[:1], others.support_labels[1:]])
    query = torch.cat([tasks.query[:1], 100 * others.query[1:]])
    method = method_for(tasks, name, **kept)
    replaced = method(suited(name, Tasks(support, support_labels, query, tasks.n_way)))
    kept_tasks = suited(name, tasks)
    close(replaced[0], method(kept_tasks)[0])
    assert not torch.allclose(replaced[1:], method(kept_tasks)[1:])


@each_method
@given(tasks=tasks_of_any_shape(n_query=st.integers(2, 6)), data=st.data())
def test_the_order_of_the_queries_does_not_matter(
    name: str, kept: dict[str, Any], tasks: Tasks, data: st.DataObject
) -> None:
    tasks = suited(name, tasks)
    order = torch.tensor(data.draw(st.permutations(range(tasks.query.shape[1]))))
    method = method_for(tasks, name, **kept)
    close(method(permuted_queries(tasks, order)), method(tasks)[:, order])


@each_method
@given(tasks=tasks_of_any_shape(), data=st.data())
def test_the_order_of_the_support_rows_does_not_matter(
    name: str, kept: dict[str, Any], tasks: Tasks, data: st.DataObject
) -> None:
    tasks = suited(name, tasks)
    order = torch.tensor(data.draw(st.permutations(range(tasks.support.shape[1]))))
    shuffled = replace(tasks, support=tasks.support[:, order], support_labels=tasks.support_labels[:, order])
    method = method_for(tasks, name, **kept)
    if not method.ordered_support:
        close(method(shuffled), method(tasks))


@each_method
def test_a_method_that_is_said_to_depend_on_the_order_of_the_support_rows_does(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **kept)
    if method.ordered_support:
        shuffled = replace(tasks, support=tasks.support.flip(1), support_labels=tasks.support_labels.flip(1))
        assert not torch.allclose(method(shuffled), method(tasks))


@each_method_of_any_n_way
@given(tasks=tasks_of_any_shape(), data=st.data())
def test_the_names_of_the_classes_do_not_matter(
    name: str, kept: dict[str, Any], tasks: Tasks, data: st.DataObject
) -> None:
    tasks = suited(name, tasks)
    new_name = torch.tensor(data.draw(st.permutations(range(tasks.n_way))))
    renamed = replace(tasks, support_labels=new_name[tasks.support_labels], query_labels=None)
    method = method_for(tasks, name, **kept)
    close(method(renamed)[:, :, new_name], method(tasks))


@each_method
def test_a_method_has_a_fixed_n_way_exactly_when_it_is_built_for_one(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    expected = None if _of_any_number_of_classes((name, kept)) else tasks.n_way
    assert method_for(tasks, name, **kept).n_way == expected


@each_method
@pytest.mark.parametrize("seed", range(5))
def test_a_query_is_judged_by_the_other_queries_exactly_when_the_method_is_declared_transductive(
    name: str, kept: dict[str, Any], seed: int
) -> None:
    tasks, others = (suited(name, random_tasks(n_query=6, seed=one)) for one in (seed, seed + 100))
    changed = replace(tasks, query=torch.cat([tasks.query[:, :1], others.query[:, 1:]], 1))
    method = method_for(tasks, name, **kept)
    difference = (method(tasks)[:, 0] - method(changed)[:, 0]).abs().amax()
    if method.transductive:
        assert difference > 1e-6
    else:
        assert difference < 1e-12


@each_method
def test_gradients_may_be_switched_off_without_effect(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **kept)
    expected = method(tasks)
    with torch.no_grad():
        close(method(tasks), expected.detach())
    with torch.inference_mode():
        close(method(tasks), expected.detach())


@each_method
def test_every_parameter_gets_a_gradient_from_the_loss(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks(n_query=8))
    method = method_for(tasks, name, **kept)
    parameters = dict(method.named_parameters())
    if not parameters:
        assert name in WITHOUT_PARAMETERS, f"{name} {kept} has no parameter; if so meant, add it to WITHOUT_PARAMETERS."
        return
    method.loss(tasks).backward()
    without = [key for key, value in parameters.items() if value.grad is None or not value.grad.any()]
    assert not without
    assert all(value.grad is not None and value.grad.isfinite().all() for value in parameters.values())


def easy_tasks(name: str, seed: int) -> Tasks:
    balanced = methods.METHODS[name].assumes_balanced_queries
    shots = (1, 1, 1, 1, 1)
    easy = random_tasks(20, shots, n_query=15, feature_size=32, noise=0.15, seed=seed, balanced=balanced)
    return suited(name, easy)


def accuracy(method: methods.Method, tasks: Tasks) -> float:
    assert tasks.query_labels is not None
    with torch.no_grad():
        return float((method(tasks).argmax(-1) == tasks.query_labels).double().mean())


@each_method
def test_easy_tasks_are_solved_untrained_or_after_a_little_training(name: str, kept: dict[str, Any]) -> None:
    network = {"backbone": PatternReader(32)} if takes_images(name) else {}
    method = method_for(easy_tasks(name, 0), name, seed=None, **network, **kept)
    if name in LEARNS_TO_COMPARE:
        optimiser = torch.optim.Adam(method.parameters(), 3e-3)
        for step in range(LEARNS_TO_COMPARE[name]):
            optimiser.zero_grad()
            method.loss(easy_tasks(name, step + 1)).backward()
            optimiser.step()
    assert accuracy(method, easy_tasks(name, 0)) > 0.95


@each_method
@given(tasks=tasks_of_any_shape(), seed=st.integers(0, 100))
def test_a_batch_gives_what_the_slow_loop_of_the_paper_gives(
    name: str, kept: dict[str, Any], tasks: Tasks, seed: int
) -> None:
    tasks = suited(name, tasks)
    method = method_for(tasks, name, seed=seed, **kept)
    expected = torch.stack([reference.logits(method, tasks[i : i + 1]) for i in range(len(tasks))])
    tolerance = REFERENCE_TOLERANCE.get(name, 1e-9)
    torch.testing.assert_close(method(tasks), expected, rtol=tolerance, atol=tolerance)


@each_method
def test_the_labels_of_the_queries_are_never_read(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    assert tasks.query_labels is not None
    method = method_for(tasks, name, **kept)
    expected = method(tasks)
    assert torch.equal(method(tasks.without_query_labels()), expected)
    assert torch.equal(method(replace(tasks, query_labels=(tasks.query_labels + 1) % tasks.n_way)), expected)


@each_method
def test_the_loss_is_refused_without_query_labels(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks().without_query_labels())
    with pytest.raises(ValueError, match="query labels"):
        method_for(tasks, name, **kept).loss(tasks)


@each_method
def test_seeing_the_training_classes_changes_the_answer_exactly_when_it_is_declared_to_be_needed(
    name: str, kept: dict[str, Any]
) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **kept)
    before = method(tasks)
    features, labels = training_classes()
    method.prepare(features + 1, labels)
    assert torch.equal(method(tasks), before) != method.needs_training_classes


@each_method
def test_settings_and_weights_are_all_it_takes_to_build_a_method_again(name: str, kept: dict[str, Any]) -> None:
    tasks = suited(name, random_tasks())
    method = method_for(tasks, name, **kept)
    assert methods.name_of(method) == name
    built_on = {"backbone": tiny_network()} if takes_images(name) else {}
    again = methods.create(name, **built_on, **methods.settings_of(method)).double()
    again.load_state_dict(method.state_dict())
    assert torch.equal(again(tasks), method(tasks))
