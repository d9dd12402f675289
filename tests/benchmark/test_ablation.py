"""The parts of Glance can still be taken away one by one."""

import runpy
from pathlib import Path

import torch

from onelook.artifacts import load_shipped
from onelook.tasks import Tasks

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablation.py"


def test_what_is_left_without_any_part_answers_and_differs() -> None:
    tasks = Tasks.random(n_tasks=2, n_way=4, n_query=12, feature_size=32)
    taken_away = runpy.run_path(str(SCRIPT))["taken_away"]
    with torch.inference_mode():
        answers = {name: answer(tasks) for name, answer in taken_away(load_shipped("glance"))}
    whole = answers.pop("as it ships")
    assert len(answers) > 5
    for answer in answers.values():
        assert answer.isfinite().all()
        assert not answer.equal(whole)
