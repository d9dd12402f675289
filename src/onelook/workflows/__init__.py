"""Whole jobs, from data to a model or a table: what the commands call, and a notebook can call too.

Each is a generator of events that returns its result (`onelook.events.finish`).
"""

from onelook.workflows.comparing import Comparison as Comparison
from onelook.workflows.comparing import benchmark as benchmark
from onelook.workflows.comparing import benchmark_embeddings as benchmark_embeddings
from onelook.workflows.comparing import entry_of as entry_of
from onelook.workflows.embedding import N_VIEWS as N_VIEWS
from onelook.workflows.embedding import features as features
from onelook.workflows.embedding import load_features as load_features
from onelook.workflows.embedding import save_features as save_features
from onelook.workflows.labelling import LabelConfig as LabelConfig
from onelook.workflows.labelling import Labelled as Labelled
from onelook.workflows.labelling import label_folder as label_folder
from onelook.workflows.labelling import save_classifier as save_classifier
from onelook.workflows.labelling import suggest_next as suggest_next
from onelook.workflows.labelling import write_report as write_report
from onelook.workflows.meta_training import end_to_end as end_to_end
from onelook.workflows.meta_training import meta_train as meta_train
from onelook.workflows.meta_training import meta_train_images as meta_train_images
from onelook.workflows.meta_training import meta_train_mixed as meta_train_mixed
from onelook.workflows.networks import SHIPPED_NETWORK as SHIPPED_NETWORK
from onelook.workflows.networks import network_of as network_of
from onelook.workflows.place import Place as Place
from onelook.workflows.place import best_precision as best_precision
from onelook.workflows.predicting import PredictConfig as PredictConfig
from onelook.workflows.predicting import Predicted as Predicted
from onelook.workflows.predicting import predict_images as predict_images
from onelook.workflows.pretraining import new_backbone as new_backbone
from onelook.workflows.pretraining import pretrain as pretrain
from onelook.workflows.pretraining import pretrain_by_episodes as pretrain_by_episodes
from onelook.workflows.pretraining import require_backbone as require_backbone
from onelook.workflows.sources import Source as Source
from onelook.workflows.sources import items_of as items_of
from onelook.workflows.sources import source_of as source_of
from onelook.workflows.sources import source_of_files as source_of_files
