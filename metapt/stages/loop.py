"""The training loop: one function with the interface of `jax.lax.scan`, in three forms, and the choice among them.

On a CPU, XLA runs a convolution inside `scan` many times slower than outside; dense models lose nothing there.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from metapt.types import Loop

_log = logging.getLogger("metapt")


def auto(f: Callable, init: Any, xs: Any) -> tuple[Any, Any]:
    """`choose(f, init, xs)`, then run it. The choice and its reason go to the log (`logging.getLogger("metapt")`, INFO)."""
    loop, reason = choose(f, init, xs)
    _log.info("training loop: %s", reason)
    return loop(f, init, xs)


def choose(f: Callable, init: Any, xs: Any) -> tuple[Loop, str]:
    """The loop that suits the model and the backend, and why.

    Example:
        >>> loop, reason = choose(lambda carry, x: (carry + x, carry), jnp.zeros(()), jnp.ones(3))
        >>> loop is lax.scan, reason
        (True, 'lax.scan (no convolution in the step)')
    """
    length(xs)  # refuses what has no first step
    first = jax.tree.map(lambda x: x[0], xs)
    # A new function object: make_jaxpr remembers functions, and must not keep the ones that close over tracers.
    if "conv_general_dilated" not in _primitives(jax.make_jaxpr(lambda c, x: f(c, x))(init, first)):
        return lax.scan, "lax.scan (no convolution in the step)"
    if jax.default_backend() != "cpu":
        return lax.scan, f"lax.scan (convolution, but on {jax.default_backend()})"
    return host, "host loop over a jitted step (a convolution inside lax.scan is slow on cpu)"


def unrolled(f: Callable, init: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan` as a Python loop: the compiler sees every step. Compile time grows with the number of steps."""
    carry, ys = init, []
    for i in range(length(xs)):
        carry, y = f(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def host(f: Callable, init: Any, xs: Any) -> tuple[Any, Any]:
    """`unrolled`, each step one call of a jitted function; inside an outer `jit` the calls are inlined.

    `f` compiles once if it is the same object on every call, or a `jax.tree_util.Partial` of the same function.
    """
    return unrolled(Partial(_jitted, f if isinstance(f, Partial) else Partial(f)), init, xs)


def nested(loop: Loop, f: Callable, init: Any, xs: Any) -> tuple[Any, Any]:
    """`loop` in about sqrt(S) checkpointed pieces of about sqrt(S) checkpointed steps: memory O(sqrt(S)), one more forward pass.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 4.
    """
    steps = length(xs)
    size = piece_length(steps)
    pieces = steps // size
    head = jax.tree.map(lambda x: x[: pieces * size].reshape(pieces, size, *x.shape[1:]), xs)
    tail = jax.tree.map(lambda x: x[pieces * size :], xs)
    piece = jax.checkpoint(lambda carry, xs: loop(f, carry, xs))
    carry, ys = loop(piece, init, head)
    ys = jax.tree.map(lambda y: y.reshape(pieces * size, *y.shape[2:]), ys)
    if pieces * size < steps:
        carry, rest = loop(f, carry, tail)
        ys = jax.tree.map(lambda y, r: jnp.concatenate([y, r]), ys, rest)
    return carry, ys


def piece_length(steps: int) -> int:
    """How many steps a piece of `nested` has: about sqrt(S), where the pieces and the steps in one take least memory together."""
    return max(1, round(steps**0.5))


def length(xs: Any) -> int:
    """The common leading axis of a tree of stacked batches, or a `ValueError` that names the lengths found."""
    found = {x.shape[0] if jnp.ndim(x) else None for x in jax.tree.leaves(xs)}
    if len(found) != 1 or None in found or 0 in found:
        raise ValueError(
            f"batches: every leaf must have the same leading step axis [S, ...] with S >= 1, found {found}"
        )
    return int(found.pop() or 0)


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Names of all operations, those inside loops, branches and calls too."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _primitives(inner)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


@jax.jit
def _jitted(f: Partial, carry: Any, x: Any) -> tuple[Any, Any]:
    return f(carry, x)
