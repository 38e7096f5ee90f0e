"""Parts of a data set that cannot overlap."""

from collections.abc import Mapping

import numpy as np

from metapt.checks import whole


def split(rng: np.random.Generator, n: int, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random disjoint indices into `n` examples, one sorted array a part.

    Raises:
        ValueError: if a size is below 1, or they sum to more than `n`.

    Example:
        >>> parts = split(np.random.default_rng(0), 10, {"train": 6, "test": 4})
        >>> sorted(parts["train"].tolist() + parts["test"].tolist()) == list(range(10))
        True
    """
    if not sizes:
        raise ValueError("split: sizes is empty, but must name at least one part")
    for name, size in sizes.items():
        whole(f"split: {name}", size)
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
    whole("balanced: n", n)
    classes, counts = np.unique(labels("balanced", y), return_counts=True)
    if n % len(classes) or n // len(classes) > counts.min():
        raise ValueError(
            f"balanced: n={n} must be a multiple of the {len(classes)} classes, at most {len(classes) * counts.min()}"
        )
    of_each = [rng.permutation(np.flatnonzero(y == label))[: n // len(classes)] for label in classes]
    return rng.permutation(np.concatenate(of_each))


def labels(name: str, y: np.ndarray) -> np.ndarray:
    """`y`, if it holds one class an example, of at least two: whole numbers from 0 on, `[N]`.

    Raises:
        ValueError: if it does not.

    Example:
        >>> labels("fit", np.array([0.0, np.nan]))
        Traceback (most recent call last):
        ValueError: fit: y is float64 [2], but labels must be integers [N]: cast them, after those that are NaN are dropped
    """
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        cure = ": cast them, after those that are NaN are dropped" if y.dtype.kind == "f" else ""
        raise ValueError(f"{name}: y is {y.dtype} {list(y.shape)}, but labels must be integers [N]{cure}")
    if not len(y) or y.min() < 0:
        raise ValueError(f"{name}: y has {len(y)} labels from {y.min(initial=0)} on, but must have some, from 0 on")
    if y.min() == y.max():
        raise ValueError(f"{name}: all {len(y)} labels are {y[0]}, but there must be at least two classes")
    return y
