"""Which of 617 assays are worth pre-training on, to tell toxic from harmless molecules? ToxCast to Tox21.

metapt run toxcast_tox21 --data FOLDER
"""

from dataclasses import dataclass

from _molecules import MoleculeConfig, molecule_experiment

from metapt import recipes
from metapt.io.experiment import Experiment

METHOD = recipes.task_weights.METHOD


@dataclass(frozen=True)
class Config(MoleculeConfig):
    """Every field can be set on the command line."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    return molecule_experiment(config, "tox21")
