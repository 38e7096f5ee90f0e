"""Is a derivative exact? Held against finite differences of the whole procedure, from afar and from close by."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from metapt.types import PyTree

NOT_FINITE = "not finite: some derivative is infinite (a root, a norm or a logarithm at 0)"
_NOT_DETERMINISTIC = "the loss is not deterministic: the same phi, batches and key gave two values"
_ALIKE = 0.05  # the difference of two slopes as a share of the larger
_CLOSE = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9)  # steps of the second look, as shares of the length of phi


def against_differences(value: Callable[[PyTree], Array], phi: PyTree, gradient: PyTree) -> tuple[float, float, str]:
    """Relative error and cosine of `gradient` against the slopes of `value`, and what to make of them in a line.

    Slopes are taken along the gradient, two random directions, and leaves where it is zero, each as Richardson's
    `(4 D(h) - D(2h)) / 3` of two central differences D. Where they disagree, a second look from close by tells a value
    that jumps as phi moves, its derivative right between the jumps, from a derivative that is wrong.

    Example:
        >>> stairs = lambda x: x**2 + 1e-4 * jnp.floor(1e4 * x)
        >>> print(against_differences(stairs, jnp.array(1.23456), jnp.array(2.46912))[2])
        exact between jumps: 29% off finite differences from afar, none from close by. Training jumps as phi moves
        (ReLU, max pooling, clipping): smooth activations (silu, gelu, softplus)
    """
    flat, unravel = ravel_pytree(phi)
    point, g = np.asarray(flat, float), np.asarray(ravel_pytree(gradient)[0], float)
    J = lambda x: float(value(unravel(jnp.asarray(x, flat.dtype))))
    here, again, eps = J(point), J(point), float(jnp.finfo(flat.dtype).eps)
    rounding = 8 * eps * abs(here)  # of a value: a few units in the last place
    rng, unit = np.random.default_rng(0), lambda v: v / np.linalg.norm(v)
    scale = 1 + np.linalg.norm(point)
    central = lambda d, h: (J(point + h * d) - J(point - h * d)) / (2 * h)

    def slope(d: np.ndarray) -> tuple[float, float]:
        """And by how much rounding may have moved it."""
        # The step where rounding is a thousandth of what changes, if that is not too far.
        change = max(abs(g @ d), 1e-30)
        h = min(max(eps**0.2 * scale, 100 * rounding / change), 0.3 * scale)
        return (4 * central(d, h) - central(d, 2 * h)) / 3, rounding / h

    def close_by(d: np.ndarray, expected: float) -> bool:
        steps = [h * scale for h in _CLOSE if rounding / (h * scale) < _ALIKE * abs(expected)]
        return any(_alike(expected, central(d, h)) for h in steps)

    if not np.isfinite(g).all():
        return np.nan, np.nan, NOT_FINITE
    directions = [unit(rng.normal(size=g.size)) for _ in range(2)] + ([unit(g)] if g.any() else [])
    slopes = [slope(d) for d in directions]
    found, truth = np.array([g @ d for d in directions]), np.array([s for s, _ in slopes])
    error, cosine = compared(found, truth)
    if here != again:
        return error, cosine, _NOT_DETERMINISTIC
    cut, unused = [], []
    for name, inside in _zero_leaves(gradient):
        d = unit(rng.normal(size=g.size) * inside)
        far = max(abs(J(point + h * d) - here) for h in (scale, -scale))  # a step function moves in the end
        (cut if far > rounding else unused).append(name)
    off = [(d, f) for d, f, (t, moved) in zip(directions, found, slopes, strict=True) if not _alike(f, t, moved)]
    jumps = bool(off) and all(close_by(d, f) for d, f in off)
    return error, cosine, _advice(error, bool(off), jumps, cut, unused)


def _alike(found: float, truth: float, moved: float = 0.0) -> bool:
    return abs(found - truth) <= _ALIKE * max(abs(found), abs(truth)) + moved


def _zero_leaves(gradient: PyTree) -> list[tuple[str, np.ndarray]]:
    """Names of the leaves that are exactly zero, and where they are in the raveled tree."""
    sizes = [leaf.size for _, leaf in named_leaves(gradient)]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return [(name, owner == i) for i, (name, leaf) in enumerate(named_leaves(gradient)) if leaf.size and not leaf.any()]


def _advice(error: float, off: bool, jumps: bool, cut: Sequence[str], unused: Sequence[str]) -> str:
    """`off` finite differences or not, if so from afar only; leaves of phi where the derivative is wrongly, or rightly, zero."""
    if cut:
        return f"zero in {listed(cut)}, yet the loss changes with it: a stopped gradient, a rounding or an argmax cuts it off"
    if jumps:
        return (
            f"exact between jumps: {error:.0%} off finite differences from afar, none from close by. Training jumps as phi "
            "moves (ReLU, max pooling, clipping): smooth activations (silu, gelu, softplus)"
        )
    if off:
        return f"{error:.0%} off finite differences: the loss has kinks here, or part of its derivative is cut off"
    zero = f"; zero in {listed(unused)}: the validation loss does not depend on it here" if unused else ""
    rounded = ", as far as their rounding tells" if error > 0.01 else ""
    return f"exact: agrees with finite differences{rounded}{zero}"


def compared(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Relative error and cosine of two vectors; 0 and NaN for two zeros."""
    size, length, off = map(np.linalg.norm, (truth, found, found - truth))
    error = off / size if size else (np.inf if off else 0.0)
    return float(error), float(found @ truth / (size * length)) if size * length else np.nan


def named_leaves(tree: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """Every leaf with a name such as `phi['scale']`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield f"phi{jax.tree_util.keystr(path)}", np.asarray(leaf)


def listed(names: Sequence[str]) -> str:
    """Three of them, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
