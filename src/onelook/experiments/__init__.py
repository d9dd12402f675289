"""The two zero-shot experiments of the SIB paper: tasks without a single label, solved from their inputs alone."""

from onelook.experiments.lines import LinesConfig as LinesConfig
from onelook.experiments.lines import lines as lines
