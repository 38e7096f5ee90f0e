"""How should an electrocardiogram be warped for contrastive pre-training? On made-up records: no data needed.

    metapt run ecg_generated

As ecg_small, on records of a dynamical model of the heart beat (docs/ecg.md). What it measures says nothing of patients.
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

    records: int = 2000
    """Made up, one a patient; a tenth is the test."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    return ecg_experiment(config, data.generated_ecg(config.seed, config.records))
