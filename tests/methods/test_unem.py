from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from helpers.methods import method_for, random_tasks
from onelook.errors import SettingsError
from onelook.methods import PADDLE, UNEM


def test_layers_that_are_all_alike_are_iterations_of_paddle() -> None:
    tasks = random_tasks()
    method = method_for(tasks, "unem", seed=None, n_layers=6)
    temperature = 1 + functional.softplus(torch.tensor(1.0)).item()
    paddle = PADDLE(6, n_iterations=6, temperature=60 / temperature, class_weight=(temperature - 1) / temperature)
    torch.testing.assert_close(method(tasks), paddle.double()(tasks), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 7.0, 300.0])
def test_the_scale_begins_where_it_is_told(scale: float) -> None:
    method = UNEM(8, initial_scale=scale)
    torch.testing.assert_close(functional.softplus(method.raw_scale), torch.tensor(scale), rtol=1e-4, atol=0)


def test_it_learns_whether_few_classes_or_all_have_queries() -> None:
    def learn(n_present: int) -> float:
        method = method_for(random_tasks(), "unem", seed=None)
        assert isinstance(method, UNEM)
        optimiser = torch.optim.Adam(method.parameters(), 0.1)
        for step in range(30):
            tasks = random_tasks(4, (1, 1, 1), n_query=12, seed=step)
            own, labels = (
                x[:, :n_present].repeat_interleave(12 // n_present, 1) for x in (tasks.support, tasks.support_labels)
            )
            optimiser.zero_grad()
            method.loss(replace(tasks, query=own + 0.3 * tasks.query, query_labels=labels)).backward()
            optimiser.step()
        return float(functional.softplus(method.raw_class_weight.detach())[1:].mean())

    assert learn(n_present=1) > 2 * learn(n_present=3)


@pytest.mark.parametrize("wrong", [{"n_layers": 0}, {"initial_scale": 0.0}])
def test_impossible_settings_are_refused_with_what_was_found(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(SettingsError, match=f"{key} of .* is {value!r}"):
        UNEM(8, **wrong)
