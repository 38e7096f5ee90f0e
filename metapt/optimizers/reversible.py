"""Gradient descent whose steps can be taken back bit for bit."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.checks import real, whole
from metapt.types import PyTree

Phase = Literal["step", "start", "undo_move", "undo_momentum"]


class ReversibleState(NamedTuple):
    """What `reversible_sgd` remembers."""

    count: Array  # steps taken
    velocity: PyTree
    remainders: PyTree  # [words, ...] uint32, what rounding the decayed velocity lost


def reversible_sgd(
    learning_rate: float | Array | Callable[[Array], Array], momentum: float = 0.9, *, steps: int, limit: float = 16.0
) -> optax.GradientTransformationExtraArgs:
    """`optax.sgd(learning_rate, momentum)` in fixed point, for `hypergrad.reversible`: v <- n/d v + g, theta <- theta - rate v.

    Parameters and velocities are multiples of a grid, on which floating-point sums are exact: `limit / 2**24` in float32
    (1e-6 by default), `limit / 2**53` in float64. Decay would forget; what it rounds away is kept in a stack of digits, 32
    bits a parameter for every 173 steps at a momentum of 0.9. One step puts the velocity off by less than `n + 1` grids and
    the parameters by half a grid; derivatives take rounding for the identity. Transformations without a state (clipping,
    weight decay) may be chained before it, and `from_context` makes its learning rate a meta-parameter.

    Args:
        learning_rate: a number, or a schedule of the step's number.
        momentum: a fraction n/d with d up to 1000, between 0 and 1; it decides sizes and can't be learned.
        steps: the longest run that is to be taken back; it decides the size of the stack.
        limit: what parameters and velocities must stay below, rounded up to a power of two. A run that did not can't be
            taken back, which the rule notices.

    Raises:
        ValueError: if momentum is no such fraction, `steps < 1`, `limit <= 0`, or parameters are neither float32 nor float64.

    Source: Maclaurin, Duvenaud, Adams 2015, "Gradient-based Hyperparameter Optimization through Reversible Learning",
    algorithm 3.

    Example:
        >>> optimizer = reversible_sgd(0.1, momentum=0.5, steps=10)
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(3):
        ...     updates, state = optimizer.update(params, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params.round(3))  # 1, 0.9, 0.76, 0.614
        [ 0.614 -1.228]
    """
    n, d = _fraction(momentum)
    whole("reversible_sgd: steps", steps)
    real("reversible_sgd: limit", limit, least=2.0**-100)
    span = _steps_a_word(n, d)
    words = (steps + span - 2) // span + 1  # as many as a run that begins anywhere can touch
    snap = lambda x: jnp.round(x / _grid(x, limit)) * _grid(x, limit)

    def init(params: PyTree) -> ReversibleState:
        for leaf in jax.tree.leaves(params):
            if jnp.result_type(leaf) not in (jnp.float32, jnp.float64):
                raise ValueError(
                    f"reversible_sgd: parameters must be float32 or float64, found {jnp.result_type(leaf)}; cast them"
                )
        zeros = lambda leaf: jnp.zeros((words, *jnp.shape(leaf)), jnp.uint32)
        return ReversibleState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), jax.tree.map(zeros, params))

    def moves(velocity: PyTree, count: Array) -> PyTree:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        smooth = jax.tree.map(lambda v: -jnp.asarray(rate, v.dtype) * v, velocity)
        return jax.tree.map(lambda x: _with_slope_of(x, snap(x)), smooth)

    def scaled(velocity: PyTree, stacks: PyTree, step: Array, fresh: Any, times: int, by: int) -> tuple[PyTree, PyTree]:
        """`times / by` the velocity, with the word of digits that belongs to the step."""
        at = step // span % words
        old = jax.tree.map(lambda stack: jnp.where(fresh, jnp.uint32(0), stack[at]), stacks)
        pairs = jax.tree.map(lambda v, digits: _scaled(v, digits, _grid(v, limit), times, by), velocity, old)
        velocity, new = jax.tree.transpose(jax.tree.structure(velocity), jax.tree.structure((0, 0)), pairs)
        return velocity, jax.tree.map(lambda stack, digits: stack.at[at].set(digits), stacks, new)

    def update(updates, state, params=None, *, phase: Phase = "step", run: int = 0, **extra_args):
        """A step; or, for a run of so many, its start on the grid, and a step's two halves taken back (the gradient between)."""
        count, velocity, remainders = state
        if phase == "start":
            if run > steps:
                raise ValueError(f"reversible_sgd: steps={steps} but the run has {run}; raise steps")
            return jax.tree.map(lambda p: snap(p) - p, params), state
        if phase == "undo_move":
            return optax.tree.scale(-1, moves(velocity, count - 1)), state
        if phase == "undo_momentum":
            decayed = jax.tree.map(lambda v, g: v - snap(g), velocity, updates)
            velocity, remainders = scaled(decayed, remainders, count - 1, False, d, n)
            return updates, ReversibleState(count - 1, velocity, remainders)
        decayed, remainders = scaled(velocity, remainders, count, count % span == 0, n, d)
        smooth = jax.tree.map(lambda v, g: jnp.asarray(momentum, v.dtype) * v + g, velocity, updates)
        velocity = jax.tree.map(lambda x, v, g: _with_slope_of(x, v + snap(g)), smooth, decayed, updates)
        return moves(velocity, count), ReversibleState(count + 1, velocity, remainders)

    return optax.GradientTransformationExtraArgs(init, update)


def _scaled(v: Array, digits: Array, grid: float, times: int, by: int) -> tuple[Array, Array]:
    """`v times / by` on the grid: the remainder goes onto the digits, and their lowest fills the gap. Swapped, its inverse."""
    k = (v / grid).astype(jnp.int64 if v.dtype == jnp.float64 else jnp.int32)
    digits = digits * jnp.uint32(by) + (k % by).astype(jnp.uint32)
    k = k // by * times + (digits % times).astype(k.dtype)
    return k.astype(v.dtype) * grid, digits // times


@jax.custom_jvp
def _with_slope_of(smooth: Array, value: Array) -> Array:
    """`value`, with the derivative of `smooth`."""
    return value


@_with_slope_of.defjvp
def _(primals, tangents):
    return primals[1], tangents[0]


def _grid(x: Array, limit: float) -> float:
    """The distance of neighbours, a power of two: all its multiples up to the limit are floating-point numbers."""
    return 2.0 ** (math.ceil(math.log2(limit)) - int(jnp.finfo(x.dtype).nmant) - 1)


def _fraction(momentum: float) -> tuple[int, int]:
    ratio = Fraction(momentum).limit_denominator(1000) if 0 < momentum < 1 else Fraction(0)
    if not 0 < ratio < 1 or abs(ratio - Fraction(momentum)) > 1e-9:
        raise ValueError(
            f"reversible_sgd: momentum={momentum} must be a fraction between 0 and 1 with a denominator up to 1000, for example "
            "0.9 (without momentum a step forgets its gradient and can't be taken back; use unroll)"
        )
    return ratio.numerator, ratio.denominator


def _steps_a_word(n: int, d: int) -> int:
    """How many steps of `digits <- (digits d + r) // n`, r < d, are sure to fit into 32 bits."""
    largest = steps = 0
    while (largest + 1) * d <= 2**32:
        largest, steps = ((largest + 1) * d - 1) // n, steps + 1
    return steps
