"""Training: one loop (`loop`), and what is trained by it (`pretraining`, `episodes`)."""

from onelook.train.episodes import EpisodicPretraining as EpisodicPretraining
from onelook.train.episodes import ImageMetaTraining as ImageMetaTraining
from onelook.train.episodes import MetaTrainConfig as MetaTrainConfig
from onelook.train.episodes import MetaTraining as MetaTraining
from onelook.train.loop import Event as Event
from onelook.train.loop import Optimisation as Optimisation
from onelook.train.loop import Resumed as Resumed
from onelook.train.loop import Stepped as Stepped
from onelook.train.loop import Validated as Validated
from onelook.train.loop import seconds_of_a_step as seconds_of_a_step
from onelook.train.loop import train as train
from onelook.train.mixed import MixedConfig as MixedConfig
from onelook.train.mixed import MixedTraining as MixedTraining
from onelook.train.pretraining import PretrainConfig as PretrainConfig
from onelook.train.pretraining import Pretraining as Pretraining
