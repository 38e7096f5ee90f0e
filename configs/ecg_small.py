"""How should an electrocardiogram be warped for contrastive pre-training? On 2,211 real records, on a CPU.

    metapt run ecg_small --data FOLDER

FOLDER holds ptbxl_subset.npz; without it METAPT_DATA is read. Pre-training: SimCLR on crops of the records of folds 1 to
9, without labels. Fine-tuning: five superclasses, on 100, 250, 500 and 1,000 labelled records, of which meta-learning sees
the first hundred. Test: fold 10, read once, at the end. Arms: no pre-training (`none`); fixed views without a warp
(`simclr_no_warp`), with the warp where the paper's code starts (`simclr_random_warp`) and tuned by hand
(`simclr_tuned_warp`); strengths found by random search at equal compute (`search`); strengths learned while pre-training
proceeds (`meta`); pre-training afresh with those (`replay`).

Nine minutes on two CPU cores. Expected: none 0.697, no warp 0.773, random warp 0.748, tuned warp 0.771, search 0.758,
meta 0.771, replay 0.767: learning beats the paper's own baseline and, less surely, the search, not the views
without a warp (docs/ecg.md).
Partial access: --seen 10 25 50 100. Only the warp: --also without a name. The whole network: --final full
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
