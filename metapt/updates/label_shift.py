"""Class weights where classes have become rarer or more frequent: a small linear solve instead of a derivative."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from metapt.checks import axes, real
from metapt.types import PyTree, Update


class LabelShift(NamedTuple):
    """What one predictor f says on labelled examples of the source p and on unlabelled ones of the target q."""

    joint: Array  # [C, C] C_ij = p(f(x) = i, y = j)
    predicted: Array  # [C] mu_i = q(f(x) = i)


def label_shift(source: Array, y: Array, target: Array) -> LabelShift:
    """The evidence for `by_confusion`, from examples that f was not trained on.

    Args:
        source: `[N, C]`, one row an example: f's probabilities, or one-hot rows of its decisions.
        y: `[N]`, the labels of those examples.
        target: `[M, C]`, f's rows on the target's examples.

    Source: Lipton et al. 2018, section 4; rows of probabilities are its soft version.

    Example:
        >>> label_shift(jnp.eye(2), jnp.array([0, 1]), jnp.array([[1.0, 0.0]])).joint.tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    for name, value, count in (("source", source, 2), ("y", y, 1), ("target", target, 2)):
        axes(f"label_shift: {name}", value, count)
    return LabelShift(source.T @ jax.nn.one_hot(y, source.shape[1], dtype=source.dtype) / len(y), target.mean(axis=0))


def by_confusion(least: float) -> Update:
    """`phi <- max(C^-1 mu, 0)`, an estimate of q(y) / p(y): the class weights of the target. `apply` takes a `LabelShift`.

    The predictor may be poor or badly calibrated; what it must do is tell the classes apart. Where it does not, phi stays.

    Args:
        least: the smallest singular value of C with which it is inverted, above 0 and below 1 / classes. A predictor
            that never errs has the share of the rarest class.

    Source: Lipton et al. 2018, "Detecting and Correcting for Label Shift with Black Box Predictors", algorithm 1.

    Example:
        >>> update = by_confusion(least=0.01)
        >>> evidence = LabelShift(jnp.array([[0.4, 0.1], [0.1, 0.4]]), jnp.array([0.32, 0.68]))
        >>> weights, _, skipped = update.apply(evidence, None, jnp.ones(2))
        >>> [round(float(w), 4) for w in weights], bool(skipped)  # the second class is 1.6 times as frequent as it was
        ([0.4, 1.6], False)
    """
    real("by_confusion: least", least, above=0, below=1, why="below 1 / classes, to invert at all")

    def apply(evidence: LabelShift, state: PyTree, phi: Array) -> tuple[Array, PyTree, Array]:
        joint, predicted = evidence
        usable = jnp.linalg.svd(joint, compute_uv=False)[-1] > least  # False for a NaN too
        weights = jnp.linalg.solve(jnp.where(usable, joint, jnp.eye(len(joint), dtype=joint.dtype)), predicted)
        return jnp.where(usable, jnp.maximum(weights, 0.0), phi), state, ~usable

    return Update(lambda phi: None, apply)


def no_shift_p_value(source: Array, target: Array) -> Array:
    """Small if f decides otherwise on the target than on the source: the chi-squared test that its decisions are alike.

    If p(x | y) has stayed, the labels' shares have shifted exactly if those of the decisions have. Correct only then:
    weights that are estimated where nothing has shifted are noise.

    Args:
        source: `[N, C]`, f's probabilities or logits.
        target: `[M, C]`, the same on the target.

    Source: Lipton et al. 2018, section 4 (black box shift detection), with the chi-squared test in place of theirs.

    Example:
        >>> decided = jnp.eye(2).repeat(jnp.array([30, 10]), axis=0), jnp.eye(2).repeat(jnp.array([20, 20]), axis=0)
        >>> round(float(no_shift_p_value(*decided)), 4)
        0.0209
    """
    count = lambda rows: jax.nn.one_hot(rows.argmax(axis=1), rows.shape[1], dtype=rows.dtype).sum(axis=0)
    counts = jnp.stack([count(source), count(target)])
    seen = counts.sum(axis=0)
    expected = counts.sum(axis=1, keepdims=True) * seen / counts.sum()
    statistic = jnp.sum((counts - expected) ** 2 / jnp.where(expected > 0, expected, 1.0))
    return jax.scipy.stats.chi2.sf(statistic, jnp.maximum(jnp.sum(seen > 0) - 1, 1))
