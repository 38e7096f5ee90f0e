"""Which labels are wrong? `digits_label_noise` on MNIST.

    metapt run mnist_label_noise --data FOLDER

FOLDER holds mnist.npz or the four original idx files; without it METAPT_DATA is read, then OpenML. All else:
digits_label_noise.

Four minutes on one CPU core. Expected: weight_auc above 0.99 in every run, mean weight_ratio 1,874, 2,901 and 3,336 at the three
levels, `meta` 0.004, 0.013 and 0.030 above `equal`.
"""

import functools
from dataclasses import dataclass

import numpy as np
from _images import Mnist
from digits_label_noise import METHOD, Config as Digits, experiment, scattered

from metapt.data import TrainTest

__all__ = ["METHOD", "Config", "experiment"]


@dataclass(frozen=True)
class Config(Mnist, Digits):
    """Every field can be set on the command line."""

    warm_up: int = 40
    """Outer steps at equal weights before learning begins."""
    pretrain_lr: float = 2e-3
    """Adam's learning rate in pre-training."""
    hidden: int = 1000
    """Principal components of the images' scattering coefficients, which the encoder's layer is trained on."""
    critic: int = 32
    """Width of the weighing network."""
    final_steps: int = 30
    """Steps of the final fine-tuning."""

    def images(self, rng: np.random.Generator) -> TrainTest:
        """`digits_label_noise`'s features, the same in every run."""
        return self._scattered

    @functools.cached_property
    def _scattered(self) -> TrainTest:
        return scattered(self.brightness, margin=2, scales=3, count=self.hidden)
