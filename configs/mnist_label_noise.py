"""Which labels are wrong? `digits_label_noise` on MNIST.

    metapt run mnist_label_noise --data FOLDER

FOLDER holds mnist.npz or the four original idx files; without it METAPT_DATA is read, then OpenML. All else: digits_label_noise.

About seventeen minutes on one CPU core with --final-steps 30. Expected: weight_auc 0.986 to 0.993, mean weight_ratio 51, 50
and 45 at the three levels, `meta` 0.009 above `equal`.
"""

from dataclasses import dataclass

from _images import Mnist
from digits_label_noise import METHOD, Config as Digits, experiment

__all__ = ["METHOD", "Config", "experiment"]


@dataclass(frozen=True)
class Config(Mnist, Digits):
    """Every field can be set on the command line."""

    warm_up: int = 40
    """Outer steps at equal weights before learning begins."""
    pretrain_lr: float = 2e-3
    """Adam's learning rate in pre-training."""
    l2: float = 1e-4
    """Penalty on the parameters in pre-training."""
    rotation: float = 10.0
    """Standard deviation of the random rotation in pre-training, in degrees."""
    critic: int = 32
    """Width of the weighing network."""
