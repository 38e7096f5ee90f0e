"""Which labels are wrong? `digits_label_noise` on MNIST.

    metapt run mnist_label_noise --data FOLDER

FOLDER holds mnist.npz or the four original idx files; without it METAPT_DATA is read, then OpenML. The network is a
layer on random features of local histograms of the image's gradients. All else: digits_label_noise.

Twenty minutes on one CPU core. Expected: weight_auc above 0.99 in every run, mean weight_ratio 94, 120 and 113 at the three
levels, `meta` 0.0115 above `equal` (0.006, 0.010 and 0.018).
"""

from dataclasses import dataclass

from _images import Mnist
from digits_label_noise import METHOD, Config as Digits, experiment

from metapt import models
from metapt.types import Model

__all__ = ["METHOD", "Config", "experiment"]
CELLS, ORIENTATIONS = 7, 8  # of the gradient histograms
FREQUENCY = 2.0  # of the random Fourier features; histograms have norm 1


@dataclass(frozen=True)
class Config(Mnist, Digits):
    """Every field can be set on the command line."""

    warm_up: int = 40
    """Outer steps at equal weights before learning begins."""
    pretrain_lr: float = 2e-3
    """Adam's learning rate in pre-training."""
    hidden: int = 1024
    """Random Fourier features of the gradient histograms, which the encoder's layer is trained on."""
    l2: float = 3e-4
    """Penalty on the parameters in pre-training."""
    critic: int = 32
    """Width of the weighing network."""
    power: float = 2.0
    """Of the sigmoid in the weights: above 1 they part right from wrong further, and the accuracy gains less."""
    changing: bool = True
    """Which of the labelled images are of which kind changes at every outer step: no single validation set can be fitted."""
    final_steps: int = 30
    """Steps of the final fine-tuning."""

    def encoder(self) -> Model:
        """`digits_label_noise`'s, but of histograms of the image's gradients, which tell digits apart better than pixels do."""
        layer = models.mlp(self.hidden, (self.features,))
        kernel = models.on_fourier_features(layer, CELLS**2 * ORIENTATIONS, self.hidden, FREQUENCY)
        return models.relu(models.on_gradient_histograms(kernel, 28, CELLS, ORIENTATIONS))
