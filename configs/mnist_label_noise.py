"""Which labels are wrong? `digits_label_noise` on MNIST.

    metapt run mnist_label_noise --data FOLDER

FOLDER holds mnist.npz or the four original idx files; without it METAPT_DATA is read, then OpenML. The network is a
small convolutional one. All else: digits_label_noise.

Half an hour on one CPU core. Expected: weight_auc 0.990 to 0.997, mean weight_ratio 62, 77 and 66 at the three levels, `meta`
0.005 above `equal` (nothing at 20 %, 0.010 at 60 %).
"""

from dataclasses import dataclass

from _images import Mnist
from digits_label_noise import METHOD, Config as Digits, experiment

from metapt import models
from metapt.types import Model

__all__ = ["METHOD", "Config", "experiment"]


@dataclass(frozen=True)
class Config(Mnist, Digits):
    """Every field can be set on the command line."""

    warm_up: int = 40
    """Outer steps at equal weights before learning begins."""
    pretrain_lr: float = 2e-3
    """Adam's learning rate in pre-training."""
    hidden: int = 16
    """Channels of the encoder's second convolution; the first has half as many."""
    l2: float = 1e-3
    """Penalty on the parameters in pre-training."""
    critic: int = 32
    """Width of the weighing network."""
    final_steps: int = 30
    """Steps of the final fine-tuning."""

    def least(self) -> dict[str, float]:
        return super().least() | {"hidden": 2}

    def encoder(self) -> Model:
        """Two convolutions of the images at half their resolution; one that errs less believes fewer wrong labels than an MLP."""
        net = models.convnet(14, 1, (self.hidden // 2, self.hidden), self.features)
        halved = lambda x: x.reshape(-1, 14, 2, 14, 2).mean((2, 4))[..., None]
        return models.relu(Model(net.init, lambda params, x: net.apply(params, halved(x) - 0.5)))
