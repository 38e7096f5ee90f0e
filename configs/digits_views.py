"""What are views worth? Pre-training without labels, then a linear layer on a few labelled images, on scikit-learn's digits.

metapt run digits_views
"""

from dataclasses import dataclass

import numpy as np
from _views import ViewsConfig, experiment

from metapt import data, recipes
from metapt.data import Labelled, TrainTest

METHOD = recipes.simclr.METHOD
__all__ = ["METHOD", "Config", "experiment"]


@dataclass(frozen=True)
class Config(ViewsConfig):
    """Every field can be set on the command line."""

    def images(self, rng: np.random.Generator) -> TrainTest:
        x, y = data.digits()
        x, order = (np.asarray(x) + 0.5).reshape(-1, 8, 8, 1), rng.permutation(len(y))
        train, test = order[:-597], order[-597:]
        return TrainTest(Labelled(x[train], y[train]), Labelled(x[test], y[test]))
