"""Which of 617 assays are worth pre-training on, to foretell side effects of drugs? ToxCast to SIDER.

    metapt run toxcast_sider --data FOLDER

As toxcast_tox21, but fine-tuned on the 27 groups of side effects of SIDER's 1,136 drugs. Pre-training on ToxCast helps
little here (none 0.530, equal 0.545), and learned weights do not help (docs/graphs.md).
"""

from dataclasses import dataclass

from _molecules import MoleculeConfig, molecule_experiment

from metapt import recipes
from metapt.io.experiment import Experiment

METHOD = recipes.task_weights.METHOD


@dataclass(frozen=True)
class Config(MoleculeConfig):
    """Every field can be set on the command line."""

    labelled_share: float = 0.4
    """Share of the molecules that are labelled for fine-tuning; meta-learning validates on random halves of them."""
    monitor_share: float = 0.05
    """Share of the molecules for the curves."""
    test_share: float = 0.4
    """Share of the molecules for the test; no part has a scaffold of another."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    return molecule_experiment(config, "sider")
