"""Which of 420 pre-training tasks are worth learning? `digits_tasks` on MNIST: 20 tasks real, 400 noise.

    metapt run mnist_tasks --data FOLDER

FOLDER holds mnist.npz or the four original idx files; without it METAPT_DATA is read, then OpenML. All else: digits_tasks.

About three minutes on two CPU cores. With `--seeds 5`: weight_auc 0.99, gap_closed 0.48, gap_closed_replay 0.63.
"""

from dataclasses import dataclass

import numpy as np
from _images import MnistFile
from digits_tasks import METHOD, Config as Digits, experiment

from metapt.data import Labelled, split

__all__ = ["METHOD", "Config", "experiment"]


@dataclass(frozen=True)
class Config(MnistFile, Digits):
    """Every field can be set on the command line."""

    pool: int = 5000
    """Images to pre-train on."""
    pretrain_lr: float = 5e-4
    """Adam's learning rate in pre-training. At 2e-3, as on the digits, three quarters of the units die at equal weights."""
    meta_lr: float = 0.05
    """Adam's learning rate for the weights' logits at first. At 0.15 tasks that are all useful lose (the null control)."""

    def parts(self, rng: np.random.Generator) -> dict[str, Labelled]:
        train, test = self.mnist
        sizes = {"monitor": 500, "train": self.train_labels, "validation": self.validation_labels, "pool": self.pool}
        return {"test": test} | {name: train.rows(rows) for name, rows in split(rng, len(train.y), sizes).items()}
