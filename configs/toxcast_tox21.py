"""Which of 617 assays are worth pre-training on, to tell toxic from harmless molecules? ToxCast to Tox21.

    metapt run toxcast_tox21 --data FOLDER

FOLDER holds mol_toxcast.npz and mol_tox21.npz; without it METAPT_DATA is read. Pre-training: ToxCast's assays, most entries
missing, without the molecules that are judged. Fine-tuning: Tox21's twelve assays, few molecules labelled. Test: scaffolds
that were never seen. Arms as in ppi_tissues.

About 25 minutes on one CPU core. Expected (--seeds 16): none 0.665, equal 0.714, meta 0.716, replay 0.718 (of two fresh sets one
has both 0.003 below equal, one 0.005 above), cotrain_pcgrad 0.753; with --final full none 0.736, equal, meta and cotrain_pcgrad
0.747 to 0.749 (docs/graphs.md).
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
