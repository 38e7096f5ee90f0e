"""How should an electrocardiogram be warped for contrastive pre-training? On 2,211 real records, on a CPU.

metapt run ecg_small --data FOLDER
"""

from dataclasses import dataclass

from _ecg import EcgConfig
from _ecg_arms import ecg_experiment

from metapt import data, recipes
from metapt.io.experiment import Experiment

METHOD = recipes.simclr_augmentation.METHOD


@dataclass(frozen=True)
class Config(EcgConfig):
    """Every field can be set on the command line."""

    data: str = ""
    """A folder or an .npz file with the records."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    return ecg_experiment(config, data.ptbxl_subset(config.data))
