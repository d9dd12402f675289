"""Glance's answers to unlabelled rows, calibrated by the labelled ones and mixed in as far as the guard trusts them."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onelook.artifacts import SHIPPED_METHODS, load_method
from onelook.estimators import calibration
from onelook.estimators.model import SupportModel
from onelook.methods import Method
from onelook.methods.glance import Glance
from onelook.methods.guard import Verdict
from onelook.tasks import Tasks


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows as they were given to `fit`, in any scale."""

    rows: np.ndarray
    labels: np.ndarray
    marked: np.ndarray
    """Rows of X whose label is a marker for none."""
    pool: np.ndarray
    """Rows of `unlabeled`."""


@dataclass(frozen=True, eq=False)
class Transduction:
    """Posteriors of the unlabelled rows and how they came about."""

    posterior: Float[Tensor, "Q K"]
    trust: float
    """Fraction of the transductive posterior, 0 to 1."""
    confidence: float
    """Usual accuracy of answers that are as confident as these."""
    message: str
    """Whether the unlabelled rows were used and why, for a person."""
    verdict: Verdict | None


def transduce(support: SupportModel, query: Float[Tensor, "Q D"], guard: bool) -> Transduction:
    """Ask Glance about all unlabelled rows together; nothing is asked without any."""
    inductive, confidence = support.logits(query).softmax(1), support.mean_confidence(query)
    if not len(query):
        message = "There are no unlabelled images: the labelled examples alone decide."
        return Transduction(inductive, 0.0, confidence, message, None)
    logits, verdict = _ask_glance(support, query, guard)
    trust, message = 1.0, "The guard is off: the unlabelled images were used."
    if verdict is not None:
        trust, message = verdict.trust.item(), verdict.messages()[0]
    if not trust:
        return Transduction(inductive, trust, confidence, message, verdict)
    usual = calibration.prior_accuracy(logits)
    log_priors = support.estimate_log_priors(logits.softmax(1), trust)
    # As confident as the answers are right, by what is usual and by the labelled rows left out.
    expected = support.estimate_accuracy(log_priors, usual, usual - confidence, len(query)).accuracy.value
    posterior = trust * calibration.calibrate(logits, expected) + (1 - trust) * inductive
    return Transduction(posterior, trust, trust * usual + (1 - trust) * confidence, message, verdict)


def _ask_glance(
    support: SupportModel, query: Float[Tensor, "Q D"], guard: bool
) -> tuple[Float[Tensor, "Q K"], Verdict | None]:
    """Transductive logits, and the verdict of the guard."""
    tasks = Tasks(support.rows.float()[None], support.labels[None], query.float()[None], len(support.classes))
    path = SHIPPED_METHODS["glance"]
    glance, priors = _load_glance(path, path.stat().st_mtime_ns), support.class_priors.float()[None]
    verdict = None
    with torch.inference_mode():
        if guard:
            logits, verdict = glance.answer(tasks, priors)
        if verdict is None or 0 < verdict.trust < 1:  # the guarded logits are those of a mixture
            logits = glance.trajectory(tasks, priors)[-1]
    return logits[0].double(), verdict


@functools.lru_cache(maxsize=1)
def _load_glance(path: Path, _modified: int) -> Glance:
    """Glance as `path` holds it, read once for each version of the file; nobody else gets this module to change it."""
    method: Method = load_method(path)[0]
    assert isinstance(method, Glance)
    return method
