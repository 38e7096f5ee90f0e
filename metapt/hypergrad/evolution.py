"""Derivatives of smoothed losses from random trials: where gradients explode, or the loss has none."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from metapt.checks import real, whole
from metapt.hypergrad.differences import Differentiate, stand_in
from metapt.types import PyTree

_NOISE = 0x5EED  # folded into a key that the loss splits for itself


def evolution(sigma: float, pairs: int) -> Differentiate:
    """A stand-in for `jax.grad`: an unbiased estimate of the gradient of `E f(phi + sigma eps)`, eps standard normal:

        1 / (2 sigma n) sum_i (f(phi + sigma eps_i) - f(phi - sigma eps_i)) eps_i,   n = pairs

    Nothing is differentiated, so any loss will do, accuracy too. All trials share `f`'s other arguments, so batches and keys
    (common random numbers); `2 n + 1` evaluations, and a variance that grows with the number of meta-parameters. The
    last argument of `f` must be a key. Only the first of `argnums` is differentiated; the others get zeros.

    Raises:
        ValueError: if `sigma <= 0` or `pairs < 1`, or if the last argument of `f` is not a key.

    Source: Salimans et al. 2017, "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", section 2.

    Example:
        >>> f = lambda phi, key: jnp.sum(phi**2)
        >>> gradient = evolution(sigma=0.1, pairs=10_000)(f)(jnp.array([3.0, 1.0]), jax.random.key(0))
        >>> bool(jnp.abs(gradient - jnp.array([6.0, 2.0])).max() < 0.3)
        True
    """
    _check("evolution", sigma, pairs)

    def estimate(value: Callable[[PyTree], Array], phi: PyTree, *rest: Any) -> PyTree:
        key: Any = rest[-1] if rest else None
        if not jnp.issubdtype(getattr(key, "dtype", float), jax.dtypes.prng_key):
            raise ValueError(f"evolution: the last argument must be a key (jax.random.key), found {key!r}")
        flat, unravel = ravel_pytree(phi)
        noise = sigma * jax.random.normal(jax.random.fold_in(key, _NOISE), (pairs, flat.size), flat.dtype)
        losses = jax.vmap(lambda shift: value(unravel(flat + shift)))(jnp.concatenate([noise, -noise]))
        return unravel(_antithetic(losses, noise, sigma))

    return stand_in(estimate)


class Particles(NamedTuple):
    """What persistent evolution strategies carry from window to window, for n antithetic pairs and d meta-parameters."""

    states: PyTree  # [2 n, ...] training states: n under +noise, then n under -noise
    drift: Array  # [n, d] all noise that a pair has met since its start


class PersistentEvolution(NamedTuple):
    """Two pure functions; particles start afresh with `init` whenever training does."""

    init: Callable[[PyTree, PyTree], Particles]  # (phi, state) -> particles
    # (phi, particles, key, *rest) -> (gradient, particles, mean loss)
    gradient: Callable[..., tuple[PyTree, Particles, Array]]


def persistent_evolution(window: Callable[..., tuple[Array, PyTree]], sigma: float, pairs: int) -> PersistentEvolution:
    """The gradient of a long run from short windows of it, without the bias of cutting it:

        xi_i <- xi_i + eps_i,   gradient = 1 / (2 sigma^2 n) sum_i (L(phi + eps_i, s_i) - L(phi - eps_i, s_i')) xi_i

    Every particle trains on under its own noise, eps normal of standard deviation sigma, and remembers in xi what noise has
    shaped its state. Summed over the windows of a run this is unbiased for the gradient of its smoothed total loss, where
    `evolution` from window to window sees only what phi does within one. The variance grows with the number of windows.

    Args:
        window: `(phi, state, *rest) -> (loss, state)`, a few training steps and what is to be lowered after them.

    Raises:
        ValueError: if `sigma <= 0` or `pairs < 1`.

    Source: Vicol, Metz, Sohl-Dickstein 2021, "Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
    Evolution Strategies", section 4.

    Example:
        >>> window = lambda phi, state: (0.9 * state + phi, 0.9 * state + phi)
        >>> estimator = persistent_evolution(window, sigma=0.1, pairs=20_000)
        >>> particles, gradients = estimator.init(jnp.array(1.0), jnp.array(0.0)), []
        >>> for key in jax.random.split(jax.random.key(0), 3):
        ...     gradient, particles, loss = estimator.gradient(jnp.array(1.0), particles, key)
        ...     gradients.append(gradient)
        >>> exact = jnp.array([1.0, 1.9, 2.71])  # 1, 1 + 0.9, 1 + 0.9 + 0.81; without memory 1, 1, 1
        >>> bool(jnp.abs(jnp.stack(gradients) - exact).max() < 0.2)
        True
    """
    _check("persistent_evolution", sigma, pairs)

    def init(phi: PyTree, state: PyTree) -> Particles:
        flat, _ = ravel_pytree(phi)
        states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2 * pairs, *jnp.shape(leaf))), state)
        return Particles(states, jnp.zeros((pairs, flat.size), flat.dtype))

    def gradient(phi: PyTree, particles: Particles, key: Array, *rest: Any) -> tuple[PyTree, Particles, Array]:
        flat, unravel = ravel_pytree(phi)
        noise = sigma * jax.random.normal(key, particles.drift.shape, flat.dtype)
        run = jax.vmap(lambda shift, state: window(unravel(flat + shift), state, *rest))
        losses, states = run(jnp.concatenate([noise, -noise]), particles.states)
        drift = particles.drift + noise
        return unravel(_antithetic(losses, drift, sigma)), Particles(states, drift), losses.mean()

    return PersistentEvolution(init, gradient)


def _antithetic(losses: Array, shifts: Array, sigma: float) -> Array:
    """`mean_i (L_i - L_i') shift_i / (2 sigma^2)`; losses `[2 n]`, shifts `[n, d]`."""
    above, below = jnp.split(losses, 2)
    return (above - below) @ shifts / (2 * sigma**2 * len(shifts))


def _check(name: str, sigma: float, pairs: int) -> None:
    real(f"{name}: sigma", sigma, above=0, why="in the units of the meta-parameters")
    whole(f"{name}: pairs", pairs)
