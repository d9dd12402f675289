"""Save and load a FewShotClassifier. Only data and predictions are stored; the rest is recomputed."""

from typing import Any

import numpy as np
import torch

from onelook.artifacts import Artifact
from onelook.estimators import label_values
from onelook.estimators.model import Examples, Transduction
from onelook.methods.guard import Verdict


def make_artifact(classifier: Any, network: dict[str, str] | None) -> Artifact:
    """Describe a fitted classifier. Its labels and settings can be of any kind, so saving may raise TypeError."""
    examples, found = classifier._examples, classifier._transduction
    tensors = {name: torch.from_numpy(getattr(examples, name)) for name in ("rows", "marked", "pool")}
    tensors |= {"labels": classifier._support.labels, "posterior": found.posterior}
    if found.verdict is not None:
        tensors["verdict"] = torch.stack(list(vars(found.verdict).values()))
    about = {
        "settings": {name: label_values.as_json(value) for name, value in classifier.get_params().items()},
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
    made = kind(**{name: label_values.from_json(value) for name, value in about["settings"].items()})
    rows, marked, pool = (tensors[name].numpy() for name in ("rows", "marked", "pool"))
    made.n_features_in_ = rows.shape[1]
    if about["columns"]:
        made.feature_names_in_ = np.array(about["columns"], dtype=object)
    made.network_ = about["network"]
    labels = np.array(label_values.from_json(about["classes"]), dtype=about["dtype"])[tensors["labels"].numpy()]
    verdict = Verdict(*tensors["verdict"]) if "verdict" in tensors else None
    found = Transduction(posterior=tensors["posterior"], verdict=verdict, **about["answer"])
    return made._learn(Examples(rows, labels, marked, pool), found)
