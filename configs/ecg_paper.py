"""How should an electrocardiogram be warped for contrastive pre-training? The paper's own experiment, on PTB-XL.

    metapt run ecg_paper --data FOLDER

FOLDER holds PTB-XL 1.0.3; `python -c "import metapt.data; metapt.data.download_ptbxl('FOLDER')"` fetches it. Reading it the
first time needs wfdb: pip install 'metapt[ecg]'. Arms as in ecg_small; one set of runs for each number of labelled
records that meta-learning sees, each judged at all sizes.

The paper's settings, for one large GPU: residual network of 18 layers, batches of 256, 3,800 steps of pre-training. From
operation counts about 10 hours at 100 TFLOP/s for all 40 runs (`--seen 500` alone, five runs: 1.3 hours); nobody has run it
yet. Each run keeps its own copy of the data on the device, half a gigabyte.
The paper reports, at 500 examples, an area of 81.7 for learned and 79.8 for fixed views. Departures from the paper's code:
records are not padded to 1,024 samples; meta-learning fine-tunes a fresh head by ten steps instead of a carried one by one,
and validates on a new random half of the labelled records every step instead of one fifth; mask, noise and lead dropout
are learned too (`--also` without a name: the warp alone).
"""

from dataclasses import dataclass
from typing import Literal

from _ecg import EcgConfig
from _ecg_arms import ecg_experiment

from metapt import data, recipes
from metapt.io.experiment import Experiment

METHOD = recipes.simclr_augmentation.METHOD


@dataclass(frozen=True)
class Config(EcgConfig):
    """Every field can be set on the command line."""

    data: str = ""
    """The folder with PTB-XL."""
    sizes: tuple[int, ...] = (100, 250, 500, 1000, 2500)
    """Labelled records of the final fine-tuning, one comparison each; the score is their mean."""
    seen: tuple[int, ...] = (10, 25, 50, 100, 250, 500, 1000, 2500)
    """Labelled records that meta-learning sees, one set of runs each; fewer than in `sizes`: partial fine-tuning access."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Of the stages of the residual network."""
    blocks: int = 2
    """In a stage."""
    kernel: int = 15
    """Of the convolutions."""
    crop: int = 1000
    """Samples of a record in training: all."""
    batch: int = 256
    """Records in a pre-training batch."""
    outer_steps: int = 380
    """Outer steps, warm-up included."""
    warm_up: int = 8
    """Outer steps before learning begins."""
    pretrain_steps: int = 10
    """P, pre-training steps of an outer step."""
    neumann_terms: int = 1
    """Of `implicit`, terms of the inverse-Hessian series beyond the first."""
    pretrain_lr: float = 1e-4
    """Adam's learning rate in pre-training."""
    warp_width: int = 32
    """Of the network that says how strongly to warp a record."""
    warp_kernel: int = 15
    """Of its convolutions."""
    warp_layers: int = 4
    """Of these."""
    start: float = 4.0
    """Magnitude of the warp at first, and in the arm simclr_random_warp: 100 times its square is a displacement in samples."""
    meta_lr: float = 1.0
    """Adam's learning rate for the magnitude and the other strengths, at first; along a cosine it comes to 0."""
    network_lr: float = 1e-4
    """Adam's learning rate for the network that says how strongly to warp a record, likewise."""
    final: Literal["linear", "full"] = "full"
    """The final fine-tuning: of a linear head on the features, or of the whole network. Curves always show the former."""
    final_steps: int = 1000
    """Steps of the final fine-tuning."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    return ecg_experiment(config, data.ptbxl(config.data))
