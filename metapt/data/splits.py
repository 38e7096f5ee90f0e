"""Parts of a data set that cannot overlap."""

from collections.abc import Mapping

import numpy as np


def split(rng: np.random.Generator, n: int, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random disjoint indices into `n` examples, one sorted array a part.

    Raises:
        ValueError: if a size is below 1, or they sum to more than `n`.

    Example:
        >>> parts = split(np.random.default_rng(0), 10, {"train": 6, "test": 4})
        >>> sorted(parts["train"].tolist() + parts["test"].tolist()) == list(range(10))
        True
    """
    small = {name: size for name, size in sizes.items() if size < 1}
    if small:
        raise ValueError(f"split: {small} must each be at least 1")
    if sum(sizes.values()) > n:
        raise ValueError(f"split: {dict(sizes)} sum to {sum(sizes.values())}, but there are only {n} examples")
    order = rng.permutation(n)
    ends = np.cumsum(list(sizes.values()))
    return {name: np.sort(part) for name, part in zip(sizes, np.split(order, ends)[:-1], strict=True)}


def balanced(rng: np.random.Generator, y: np.ndarray, n: int) -> np.ndarray:
    """Indices of `n` random examples, equally many of each class, in random order: `[n]`.

    Raises:
        ValueError: if the number of classes does not divide `n`, or a class has too few examples.

    Example:
        >>> picked = balanced(np.random.default_rng(0), np.array([0, 0, 0, 0, 1, 1]), 4)
        >>> sorted(picked.tolist())[-2:], len(picked)
        ([4, 5], 4)
    """
    classes, counts = np.unique(y, return_counts=True)
    if n < 1 or n % len(classes) or n // len(classes) > counts.min():
        raise ValueError(
            f"balanced: n={n} must be a multiple of the {len(classes)} classes, at most {len(classes) * counts.min()}"
        )
    of_each = [rng.permutation(np.flatnonzero(y == label))[: n // len(classes)] for label in classes]
    return rng.permutation(np.concatenate(of_each))
