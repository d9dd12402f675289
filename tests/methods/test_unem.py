import math
from dataclasses import replace

import torch
from torch.nn import functional

from helpers.methods import random_tasks
from onelook.methods import PADDLE, UNEM


def test_layers_that_are_all_alike_are_iterations_of_paddle() -> None:
    tasks = random_tasks()
    method = UNEM().double()
    with torch.no_grad():
        for value in method.parameters():
            value.fill_(1.0)
    soft = math.log1p(math.e)
    paddle = PADDLE(6, n_iterations=10, temperature=soft**2 / (1 + soft), class_weight=soft / (1 + soft)).double()
    torch.testing.assert_close(method(tasks), paddle(tasks))


def test_it_learns_whether_few_classes_or_all_have_queries() -> None:
    def learn(n_present: int) -> float:
        method = UNEM().double()
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
