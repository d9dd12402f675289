"""Onelook: learn a new classification task from one labelled example per class and the unlabelled examples."""

from onelook.errors import UserError as UserError
from onelook.events import finish as finish
from onelook.methods import METHODS as METHODS
from onelook.methods import SIB as SIB
from onelook.methods import FeatureAveraging as FeatureAveraging
from onelook.methods import Method as Method
from onelook.methods import PrototypicalNetworks as PrototypicalNetworks
from onelook.tasks import Embeddings as Embeddings
from onelook.tasks import Tasks as Tasks

__version__ = "0.1.0"
