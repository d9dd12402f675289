"""A FewShotClassifier as a file: its rows and labels, from which all that they alone say is computed again, and what
Glance said of the unlabelled ones."""

from typing import Any

import numpy as np
import torch

from onelook.artifacts import Artifact
from onelook.estimators import label_values
from onelook.methods.guard import Verdict


def artifact(made: Any, network: dict[str, str] | None) -> Artifact:
    """Of a FewShotClassifier. Its JSON may turn out to be none: labels and settings can be of any kind."""
    tensors = {name: torch.from_numpy(getattr(made, "_" + name)) for name in ("rows", "marked", "pool")}
    tensors |= {"codes": made._codes, "proba": torch.from_numpy(made.transduction_proba_)}
    # Copies, as two of them may be one and the same.
    tensors |= {f"verdict.{name}": x.clone() for name, x in vars(made.verdict_).items()} if made.verdict_ else {}
    about = {
        "settings": {name: label_values.as_json(value) for name, value in made.get_params().items()},
        "classes": label_values.as_json(made.classes_),
        "dtype": made._labels.dtype.str,
        "words": made.guard_,
        "trust": made._trust,
        "believed": made._believed,
        "alone_believed": made._alone_believed,
        "columns": list(getattr(made, "feature_names_in_", [])),
        "network": network,
    }
    return Artifact("classifier", tensors, about)


def restored(kind: Any, file: Artifact) -> Any:
    """The classifier, of class `kind`. Raises LookupError, TypeError, ValueError or AttributeError for another file."""
    about, tensors = file.about, file.tensors
    made = kind(**{name: label_values.from_json(value) for name, value in about["settings"].items()})
    made.n_features_in_ = tensors["rows"].shape[1]
    if about["columns"]:
        made.feature_names_in_ = np.array(about["columns"], dtype=object)
    labels = np.array(label_values.from_json(about["classes"]), dtype=about["dtype"])[tensors["codes"].numpy()]
    rows, marked, pool = (tensors[name].numpy() for name in ("rows", "marked", "pool"))
    made._prepare(rows, marked, pool, labels)
    verdict = {name[8:]: x for name, x in tensors.items() if name.startswith("verdict.")}
    made.verdict_ = Verdict(**verdict) if verdict else None
    made.guard_ = about["words"]
    made.network_ = about.get("network")
    made._settle(tensors["proba"], about["trust"], about["believed"], about["alone_believed"])
    return made
