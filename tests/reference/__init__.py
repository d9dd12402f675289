"""The methods once more, slowly: one task, one class, one query at a time, from the papers' equations.

A file for each method, named like that of the method, with `logits(method, task)`: it takes a method for its
parameters and settings only, and one task (T = 1), and returns the logits (Q, K). Nothing here imports the maths of
onelook.
"""

import importlib

from torch import Tensor

from onelook.methods import Method
from onelook.tasks import Tasks


def logits(method: Method, task: Tasks) -> Tensor:
    """By the slow loop of the method's own file."""
    file = type(method).__module__.rpartition(".")[2]
    return importlib.import_module(f"reference.{file}").logits(method, task)  # type: ignore[no-any-return]
