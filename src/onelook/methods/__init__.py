"""Few-shot methods: one file per paper, one line each in METHODS."""

from dataclasses import fields
from typing import Any

from onelook.errors import SettingsError, unknown_name
from onelook.methods.activations import ActivationsToParameters as ActivationsToParameters
from onelook.methods.alpha_tim import AlphaTIM as AlphaTIM
from onelook.methods.base import ImageMethod as ImageMethod
from onelook.methods.base import IterativeMethod as IterativeMethod
from onelook.methods.base import Method as Method
from onelook.methods.bd_cspn import BDCSPN as BDCSPN
from onelook.methods.bms import BMS as BMS
from onelook.methods.ctm import CategoryTraversal as CategoryTraversal
from onelook.methods.dynamic import DynamicFewShot as DynamicFewShot
from onelook.methods.em_dirichlet import EMDirichlet as EMDirichlet
from onelook.methods.end_to_end import EndToEnd as EndToEnd
from onelook.methods.feature_averaging import FeatureAveraging as FeatureAveraging
from onelook.methods.glance import Glance as Glance
from onelook.methods.gnn import GraphNetwork as GraphNetwork
from onelook.methods.ilpc import ILPC as ILPC
from onelook.methods.label_spreading import LabelSpreading as LabelSpreading
from onelook.methods.laplacian_logistic import LaplacianLogistic as LaplacianLogistic
from onelook.methods.laplacian_shot import LaplacianShot as LaplacianShot
from onelook.methods.leo import LEO as LEO
from onelook.methods.logistic_regression import LogisticRegression as LogisticRegression
from onelook.methods.maml import MAML as MAML
from onelook.methods.map_proportions import MAPProportions as MAPProportions
from onelook.methods.matching import MatchingNetworks as MatchingNetworks
from onelook.methods.metaoptnet import MetaOptNet as MetaOptNet
from onelook.methods.paddle import PADDLE as PADDLE
from onelook.methods.protolp import ProtoLP as ProtoLP
from onelook.methods.prototypical import PrototypicalNetworks as PrototypicalNetworks
from onelook.methods.pt_map import PTMAP as PTMAP
from onelook.methods.r2d2 import RidgeRegression as RidgeRegression
from onelook.methods.relation import RelationNetworks as RelationNetworks
from onelook.methods.ridge import Ridge as Ridge
from onelook.methods.sib import SIB as SIB
from onelook.methods.sib_inductive import InductiveSIB as InductiveSIB
from onelook.methods.snail import SNAIL as SNAIL
from onelook.methods.soft_kmeans import SoftKMeans as SoftKMeans
from onelook.methods.tadam import TADAM as TADAM
from onelook.methods.tim import TIM as TIM
from onelook.methods.tpn import TransductivePropagation as TransductivePropagation
from onelook.methods.transductive_fine_tuning import TransductiveFineTuning as TransductiveFineTuning
from onelook.methods.unem import UNEM as UNEM

METHODS: dict[str, type[Method]] = {
    "activations": ActivationsToParameters,
    "alpha-tim": AlphaTIM,
    "bd-cspn": BDCSPN,
    "bms": BMS,
    "ctm": CategoryTraversal,
    "dynamic": DynamicFewShot,
    "em-dirichlet": EMDirichlet,
    "feature-averaging": FeatureAveraging,
    "glance": Glance,
    "gnn": GraphNetwork,
    "ilpc": ILPC,
    "label-spreading": LabelSpreading,
    "laplacian-logistic": LaplacianLogistic,
    "laplacianshot": LaplacianShot,
    "leo": LEO,
    "logistic-regression": LogisticRegression,
    "maml": MAML,
    "map-proportions": MAPProportions,
    "matching": MatchingNetworks,
    "metaoptnet": MetaOptNet,
    "paddle": PADDLE,
    "protolp": ProtoLP,
    "prototypical": PrototypicalNetworks,
    "pt-map": PTMAP,
    "r2d2": RidgeRegression,
    "relation": RelationNetworks,
    "ridge": Ridge,
    "sib": SIB,
    "sib-inductive": InductiveSIB,
    "snail": SNAIL,
    "soft-kmeans": SoftKMeans,
    "tadam": TADAM,
    "tim": TIM,
    "tpn": TransductivePropagation,
    "transductive-fine-tuning": TransductiveFineTuning,
    "unem": UNEM,
}


def create(name: str, **settings: Any) -> Method:
    """The method of that name, untrained. Raises SettingsError for a name or a setting that does not exist."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    known = list_settings(name)
    for key in settings:
        if key not in known:
            raise unknown_name(f"setting of {name}", key, known)
    try:
        return METHODS[name](**settings)
    except TypeError as error:
        raise SettingsError(f"{name} cannot be built: {error}.") from error


def list_settings(name: str) -> dict[str, Any]:
    """The settings of the method of that name, each with its annotation: its type and bounds."""
    return {one.name: one.type for one in fields(METHODS[name])}  # type: ignore[arg-type]


def find_name(method: Method) -> str:
    """The name in METHODS of a method's class."""
    return next(name for name, kind in METHODS.items() if type(method) is kind)
