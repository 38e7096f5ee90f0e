"""By how much are the fine-tuning images turned? `digits_rotation` on MNIST.

    metapt run mnist_rotation --data FOLDER

FOLDER holds mnist.npz or the four original idx files; without it METAPT_DATA is read, then OpenML. All else: digits_rotation.

Seven minutes on one CPU core with --final-steps 10. Expected: mean_angle_error_degrees 1.6 (10,000 of MNIST's training images).
"""

from dataclasses import dataclass
from typing import Literal

from _images import Mnist
from digits_rotation import METHOD, Config as Digits, experiment

__all__ = ["METHOD", "Config", "experiment"]


@dataclass(frozen=True)
class Config(Mnist, Digits):
    """Every field can be set on the command line."""

    outer_steps: int = 300
    """Outer steps, warm-up included."""
    order: Literal[1, 2] = 1
    """Of the interpolation: at 28 pixels bilinear is fine enough, and with 2 the start farthest off went the wrong way round."""
