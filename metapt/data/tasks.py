"""Many binary tasks over the same examples, of which a known part is worth learning."""

import numpy as np

from metapt.checks import whole
from metapt.data.splits import labels as class_labels


def plant_tasks(rng: np.random.Generator, y: np.ndarray, real: int, noise: int) -> np.ndarray:
    """Labels of `real + noise` binary tasks, real ones first: float32 `[N, T]` of 0 and 1.

    A real task splits the classes at random into two halves; a noise task labels each example by a coin.

    Example:
        >>> labels = plant_tasks(np.random.default_rng(0), np.arange(10).repeat(3), real=2, noise=4)
        >>> labels.shape, labels[:, :2].mean(0).tolist()
        ((30, 6), [0.5, 0.5])
    """
    whole("plant_tasks: real", real)
    whole("plant_tasks: noise", noise, least=0)
    y = class_labels("plant_tasks", y)
    classes = int(y.max()) + 1
    halves = np.stack([rng.permutation(classes) < classes // 2 for _ in range(real)], axis=1)
    coins = rng.random((len(y), noise)) < 0.5
    return np.concatenate([halves[y], coins], axis=1).astype(np.float32)
