"""Onelook: learn a new classification task from one labelled example per class and the unlabelled examples."""

import importlib
import typing

from onelook.errors import UserError as UserError
from onelook.events import finish as finish
from onelook.methods import METHODS as METHODS
from onelook.methods import SIB as SIB
from onelook.methods import FeatureAveraging as FeatureAveraging
from onelook.methods import Method as Method
from onelook.methods import PrototypicalNetworks as PrototypicalNetworks
from onelook.tasks import Embeddings as Embeddings
from onelook.tasks import Tasks as Tasks

if typing.TYPE_CHECKING:
    from onelook.estimators.classifier import AccuracyEstimate as AccuracyEstimate
    from onelook.estimators.classifier import FewShotClassifier as FewShotClassifier
    from onelook.estimators.image_features import ImageFeatures as ImageFeatures

__version__ = "0.1.0"


_LATER = {
    "AccuracyEstimate": "onelook.estimators.classifier",
    "FewShotClassifier": "onelook.estimators.classifier",
    "ImageFeatures": "onelook.estimators.image_features",
}


def __getattr__(name: str) -> typing.Any:
    """The faces of scikit-learn are loaded when they are asked for, because it takes its time."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
