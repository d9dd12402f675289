"""Save and load a FewShotClassifier. Only data and predictions are stored; the rest is recomputed."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onelook.artifacts import Artifact
from onelook.estimators import label_values
from onelook.estimators.asking import Transduction
from onelook.estimators.fitting import Examples
from onelook.estimators.pool import Answers
from onelook.events import finish
from onelook.methods.glance_pool import CANDIDATES
from onelook.methods.guard import Verdict


def make_artifact(classifier: Any, network: dict[str, str] | None) -> Artifact:
    """Describe a fitted classifier. Its labels and settings can be of any kind, so saving may raise TypeError."""
    examples, found = classifier._examples, classifier._transduction
    tensors = {name: torch.tensor(getattr(examples, name)) for name in ("rows", "marked", "pool")}
    tensors |= {"labels": classifier._support.labels, "posterior": found.posterior.values}
    if found.posterior.candidates is not None:
        tensors["candidates"] = found.posterior.candidates
    if found.verdict is not None:
        tensors["verdict"] = torch.stack(list(vars(found.verdict).values()))
    about = {
        "settings": {
            name: label_values.as_json(value) for name, value in classifier.get_params().items() if name != "device"
        },
        "classes": label_values.as_json(classifier.classes_),
        "dtype": examples.labels.dtype.str,
        "answer": {"trust": found.trust, "confidence": found.confidence, "message": found.message},
        "columns": list(getattr(classifier, "feature_names_in_", [])),
        "network": network,
    }
    return Artifact("classifier", tensors, about)


def restore(kind: Any, file: Artifact) -> Any:
    """Rebuild the classifier, of class `kind`.

    Raises LookupError, TypeError, ValueError or AttributeError for another file.
    """
    about, tensors = file.about, file.tensors
    classes = _read_classes(about["classes"], about["dtype"])
    _require_tensors(tensors, len(classes))
    made = kind(**{name: label_values.from_json(value) for name, value in _require(about, "settings", dict).items()})
    rows, marked, pool = (tensors[name].numpy() for name in ("rows", "marked", "pool"))
    made.n_features_in_ = rows.shape[1]
    if columns := _require(about, "columns", list):
        if len(columns) != rows.shape[1] or not all(isinstance(name, str) for name in columns):
            raise ValueError("its columns are not as many names as its rows have numbers")
        made.feature_names_in_ = np.array(columns, dtype=object)
    made.network_ = about["network"]
    answer = _require(about, "answer", dict)
    if not all(0 <= answer[name] <= 1 for name in ("trust", "confidence")) or not isinstance(answer["message"], str):
        raise ValueError("its trust and confidence are not fractions with a message")
    verdict = Verdict(*tensors["verdict"]) if "verdict" in tensors else None
    posterior = Answers(tensors["posterior"], tensors.get("candidates"), len(classes))
    found = Transduction(posterior=posterior, verdict=verdict, **answer)
    return finish(made._learn(Examples(rows, classes[tensors["labels"].numpy()], marked, pool), found))


def _require(about: dict[str, Any], name: str, kind: type[Any]) -> Any:
    if not isinstance(about[name], kind):
        raise ValueError(f"its {name} are of another type")
    return about[name]


def _read_classes(found: Any, dtype: Any) -> np.ndarray:
    """Labels of the classes: words or numbers, sorted and different."""
    kinds = {type(one) for one in found} if isinstance(found, list) else set()
    if kinds != {str} and not (kinds and kinds <= {int, float} and np.isfinite(found).all()) and kinds != {bool}:
        raise ValueError("its classes are neither words nor finite numbers")
    kind = np.dtype(dtype).kind
    if kind not in ("UO" if kinds == {str} else "biufO"):
        raise ValueError("its classes are not of the type that it says")
    # The file does not say how long words are: it could ask for more memory than there is.
    classes = np.array(found, dtype=object if kind == "O" else str if kind == "U" else dtype)
    if len(np.unique(classes)) != len(classes) or (np.unique(classes) != classes).any():
        raise ValueError("its classes are not in order, or not different")
    return classes


def _require_tensors(tensors: dict[str, Tensor], n_way: int) -> None:
    """Raise ValueError where a tensor has another shape or type, or numbers that are not finite."""
    rows, labels, posterior = (tensors[name] for name in ("rows", "labels", "posterior"))
    n_unlabelled = len(tensors["marked"]) + len(tensors["pool"])
    shapes: dict[str, tuple[int, ...]] = {
        "marked": (len(tensors["marked"]), rows.shape[-1]),
        "pool": (len(tensors["pool"]), rows.shape[-1]),
    }
    shapes |= {"rows": (len(labels), rows.shape[-1]), "posterior": (n_unlabelled, n_way), "labels": (len(labels),)}
    if (candidates := tensors.get("candidates")) is not None:
        shapes["posterior"] = shapes["candidates"] = (n_unlabelled, min(CANDIDATES, n_way))
        if candidates.lt(0).any() or candidates.ge(n_way).any():
            raise ValueError("its candidates are not among its classes")
    dtypes = {"labels": (torch.int64,), "candidates": (torch.int32,), "rows": (torch.float64,)}
    for name, shape in shapes.items():
        kinds = dtypes.get(name, (torch.float64, torch.float32))
        if tensors[name].shape != shape or tensors[name].dtype not in kinds or not tensors[name].isfinite().all():
            raise ValueError(f"its {name} are not finite numbers of shape {shape}")
    if set(labels.tolist()) != set(range(n_way)) or posterior.lt(0).any() or posterior.gt(1.001).any():
        raise ValueError("its labels are not those of its classes, or its probabilities are none")
    if "verdict" in tensors and tensors["verdict"].shape != (len(fields(Verdict)), 1):
        raise ValueError("its verdict is not one on one task")
