"""The handwritten digits that ship inside scikit-learn: real images, no download."""

from typing import NamedTuple

import numpy as np
from jax import Array
from sklearn.datasets import load_digits


class Labelled(NamedTuple):
    """Examples and their labels; indexing picks rows of both."""

    x: np.ndarray | Array  # [N, ...]
    y: np.ndarray | Array  # [N, ...]

    def rows(self, index: np.ndarray) -> "Labelled":
        return Labelled(self.x[index], self.y[index])


def digits() -> Labelled:
    """1,797 grey images of 8 x 8 pixels, flattened and centred: x float32 `[1797, 64]` in [-0.5, 0.5], y int32 `[1797]` in 0..9.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI), test part.

    Example:
        >>> x, y = digits()
        >>> x.shape, float(x.min()), float(x.max()), sorted(set(y.tolist())) == list(range(10))
        ((1797, 64), -0.5, 0.5, True)
    """
    x, y = load_digits(return_X_y=True)
    return Labelled(np.asarray(x / 16.0 - 0.5, np.float32), np.asarray(y, np.int32))
