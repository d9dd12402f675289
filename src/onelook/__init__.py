"""Onelook: learn a new classification task from one labelled example per class and the unlabelled examples."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onelook.artifacts import load_network as load_network
    from onelook.errors import UserError as UserError
    from onelook.estimators.classifier import AccuracyEstimate as AccuracyEstimate
    from onelook.estimators.classifier import FewShotClassifier as FewShotClassifier
    from onelook.estimators.image_features import ImageFeatures as ImageFeatures
    from onelook.events import finish as finish
    from onelook.labelling.label import LabelConfig as LabelConfig
    from onelook.labelling.label import label_folder as label_folder
    from onelook.labelling.predict import PredictConfig as PredictConfig
    from onelook.labelling.predict import predict_images as predict_images
    from onelook.machine import Place as Place
    from onelook.methods import METHODS as METHODS
    from onelook.methods import SIB as SIB
    from onelook.methods import FeatureAveraging as FeatureAveraging
    from onelook.methods import Glance as Glance
    from onelook.methods import Method as Method
    from onelook.methods import PrototypicalNetworks as PrototypicalNetworks
    from onelook.tasks import Embeddings as Embeddings
    from onelook.tasks import Tasks as Tasks

__version__ = "0.1.0"

_MODULES = {
    "artifacts": ("load_network",),
    "errors": ("UserError",),
    "estimators.classifier": ("AccuracyEstimate", "FewShotClassifier"),
    "estimators.image_features": ("ImageFeatures",),
    "events": ("finish",),
    "labelling.label": ("LabelConfig", "label_folder"),
    "labelling.predict": ("PredictConfig", "predict_images"),
    "machine": ("Place",),
    "methods": ("METHODS", "SIB", "FeatureAveraging", "Glance", "Method", "PrototypicalNetworks"),
    "tasks": ("Embeddings", "Tasks"),
}
"""Public names by the module that defines them; a module is loaded when one of its names is asked for."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: torch and scikit-learn take seconds."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"onelook.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
