"""Means, standard errors and paired tests over seeds."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats


def summary(per_seed: np.ndarray) -> dict[str, Any]:
    """`per_seed`, its mean, and the standard error of the mean (None for one seed).

    Example:
        >>> summary(np.array([1.0, 3.0]))
        {'per_seed': [1.0, 3.0], 'mean': 2.0, 'stderr': 1.0}
    """
    return {"per_seed": per_seed.tolist(), "mean": float(per_seed.mean()), "stderr": _stderr(per_seed)}


def paired(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """A - b over the same seeds: mean, standard error, two-sided p-value of Student's paired t-test (None if undefined).

    Example:
        >>> row = paired(np.array([2.0, 3.0, 5.0]), np.array([1.0, 2.0, 3.0]))
        >>> round(row["difference"], 4), round(row["stderr"], 4), round(row["p_value"], 4)
        (1.3333, 0.3333, 0.0572)
    """
    difference = a - b
    stderr = _stderr(difference)
    p_value = float(stats.ttest_rel(a, b).pvalue) if stderr else None
    return {"difference": float(difference.mean()), "stderr": stderr, "p_value": p_value}


def comparisons(scores: Mapping[str, np.ndarray], baseline: str) -> list[dict[str, Any]]:
    """Every arm against `baseline`."""
    return [{"a": name, "b": baseline, **paired(scores[name], scores[baseline])} for name in scores if name != baseline]


def _stderr(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
