"""What are views worth? Pre-training without labels, then a linear layer on a few labelled images, on scikit-learn's digits.

    metapt run digits_views

A small convolution network is pre-trained on 1,000 images; then a linear layer is trained on its features of a few labelled ones.
Arms: a random encoder (`none`); SimCLR (`simclr`), without its head (`simclr_no_head`), with views of two different images as a
pair (`simclr_shuffled`) and with the image itself as both views (`simclr_identical`); BYOL (`byol`), without its
stop-gradient (`byol_no_stop`), without its predictor (`byol_no_predictor`).

Some minutes of one CPU core. Expected at two labels a class: `simclr` 0.19 and `byol` 0.13 above `none`, `byol_no_stop` below.
Null controls, in which no gain can be: `simclr_shuffled` and `simclr_identical`.
"""

from dataclasses import dataclass

import _views
import numpy as np

from metapt import data, recipes
from metapt.data import Labelled, TrainTest
from metapt.io.experiment import Experiment

METHOD = recipes.simclr.METHOD


@dataclass(frozen=True)
class Config(_views.ViewsConfig):
    """Every field can be set on the command line."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""

    def images(rng):
        x, y = data.digits()
        x, order = (np.asarray(x) + 0.5).reshape(-1, 8, 8, 1), rng.permutation(len(y))
        train, test = order[:-597], order[-597:]
        return TrainTest(Labelled(x[train], y[train]), Labelled(x[test], y[test]))

    return _views.experiment(config, images)
