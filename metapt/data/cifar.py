"""CIFAR-10: small photographs of ten classes, from a file at hand."""

from pathlib import Path

import numpy as np

from metapt.data.digits import Labelled
from metapt.data.files import locate, read_npz
from metapt.data.mnist import TrainTest

_FILE = "cifar10.npz"
_KEYS = "x_train", "y_train", "x_test", "y_test"
_CURE = f"give --data PATH or METAPT_DATA with {_FILE}"


def cifar10(path: str | Path = "") -> TrainTest:
    """Colour images of 32 x 32 pixels: x float32 `[N, 32, 32, 3]` in [0, 1], y int32 `[N]` in 0..9.

    Read from `cifar10.npz` or the folder that holds it, with uint8 images `x_train`, `x_test` `[N, 32, 32, 3]` and the labels
    `y_train`, `y_test` `[N]` or `[N, 1]` (as Keras has them); it may be a part of the data set.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".

    Raises:
        ValueError: if nothing is named or there, the file is damaged, or an array is not as said above.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x, y = np.full((10, 32, 32, 3), 255, np.uint8), np.arange(10)
        ...     np.savez(f"{folder}/cifar10.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
        ...     train, test = cifar10(folder)
        >>> train.x.shape, float(train.x.max()), test.y.tolist()
        ((10, 32, 32, 3), 1.0, [0, 1])
    """
    file = locate("cifar10", path, _FILE, _CURE)
    arrays = read_npz("cifar10", file, _KEYS, _CURE)

    def part(name: str) -> Labelled:
        x, y = arrays[f"x_{name}"], arrays[f"y_{name}"]
        if x.dtype != np.uint8 or x.shape[1:] != (32, 32, 3) or not len(x):
            raise ValueError(
                f"cifar10: {file}: x_{name} is {x.dtype} {list(x.shape)}, but must be uint8 [N, 32, 32, 3]"
            )
        if y.dtype.kind not in "iu" or y.shape not in (x.shape[:1], (len(x), 1)):
            raise ValueError(f"cifar10: {file}: y_{name} is {y.dtype} {list(y.shape)}, but must be integer [{len(x)}]")
        if y.min() < 0 or y.max() > 9:
            raise ValueError(f"cifar10: {file}: y_{name} has labels {y.min()}..{y.max()}, but must stay in 0..9")
        return Labelled(x.astype(np.float32) / 255, y.reshape(-1).astype(np.int32))

    return TrainTest(part("train"), part("test"))
