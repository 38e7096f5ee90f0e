"""What are views worth? As `digits_views`, on CIFAR-10.

    METAPT_DATA=FOLDER metapt run cifar_views

Reads `cifar10.npz`, a part of the data set or all of it; images to pre-train on, to watch and to test are disjoint.
Crops, flips, jitter, grey and blur as in SimCLR, the crops not as small, in a small network.

An hour and more of one CPU core. Expected at 50 labels a class: `simclr` and `byol` 0.085 above `none`, which is 0.24.
"""

from dataclasses import dataclass

import _views

from metapt import data, recipes
from metapt.io.experiment import Experiment

METHOD = recipes.simclr.METHOD


@dataclass(frozen=True)
class Config(_views.ViewsConfig):
    """Every field can be set on the command line."""

    data: str = ""
    """A folder with `cifar10.npz`, or the file; without it, what METAPT_DATA names."""
    labels: tuple[int, ...] = (10, 50)
    """Labelled images a class in linear evaluation, one comparison each; the score is their mean."""
    pool: int = 2500
    """Images to pre-train on; those with labels are among them."""
    monitor: int = 500
    """Further ones for the curves."""
    steps: int = 300
    """Pre-training steps."""
    batch: int = 64
    """Images in a batch."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels after each convolution of the encoder."""
    features: int = 128
    """Numbers that the encoder gives."""
    smallest: float = 0.2
    """Share of an image that a crop has at least."""
    flips: float = 0.5
    """Probability of a flip."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    return _views.experiment(config, lambda rng: data.cifar10(config.data))
