"""Weights of tasks that keep their training in step: larger where the gradient is small or the loss falls slowly."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.checks import real
from metapt.types import Objective, PyTree, StageState, Update
from metapt.updates.single import single_gradients


class Progress(NamedTuple):
    """Where every task stands."""

    norms: Array  # [T] |gradient of L_t| on what the tasks share, without its weight
    losses: Array  # [T]


class BalanceState(NamedTuple):
    """The optimizer's state, and the losses that progress is counted from: 0 before the first."""

    opt_state: PyTree
    first: Array  # [T]


def by_balance(optimizer: optax.GradientTransformation, alpha: float) -> Update:
    """The weights step down on `sum_t |G_t - target_t|`, stay at 0 or above, and sum to T. `apply` takes a `Progress`.

        G_t = w_t norm_t      target_t = mean(G) (r_t / mean(r))^alpha      r_t = loss_t / first loss_t

    The targets are constants, so the derivative is `sign(G_t - target_t) norm_t`. At `alpha=0` all tasks pull alike. A `Progress`
    that is not finite, or a first loss that is not above 0, moves nothing.

    Args:
        optimizer: of the weights; with Adam their path does not depend on the losses' unit.
        alpha: how much harder a task that lags behind is to pull, at least 0.

    Source: Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing", equations 1 and 2. There a
    weight may become negative.

    Example:
        >>> update = by_balance(optax.sgd(0.1), alpha=1.0)
        >>> state = update.init(jnp.ones(2))._replace(first=jnp.array([1.0, 1.0]))
        >>> weights, *_ = update.apply(Progress(jnp.array([4.0, 1.0]), jnp.array([0.75, 0.25])), state, jnp.ones(2))
        >>> [round(float(w), 4) for w in weights]  # (1 - 0.4, 1 + 0.1), made to sum to 2
        [0.7059, 1.2941]
    """
    real("by_balance: alpha", alpha, least=0)

    def apply(progress: Progress, state: BalanceState, phi: Array) -> tuple[Array, BalanceState, Array]:
        norms, losses = progress
        first = jnp.where(state.first > 0, state.first, losses)
        usable = jnp.isfinite(norms).all() & jnp.isfinite(losses).all() & (first > 0).all()
        size = phi * norms
        rate = losses / first
        target = size.mean() * (rate / rate.mean()) ** alpha
        updates, opt_state = optimizer.update(jnp.sign(size - target) * norms, state.opt_state, phi)
        moved = jnp.maximum(optax.tree.add(phi, updates), 0.0)
        new = len(phi) * moved / moved.sum(), BalanceState(opt_state, first)
        usable &= moved.sum() > 0
        weights, state = jax.tree.map(lambda after, before: jnp.where(usable, after, before), new, (phi, state))
        return weights, state, ~usable

    return Update(lambda phi: BalanceState(optimizer.init(phi), jnp.zeros_like(phi)), apply)


def progress(
    objective: Objective, tasks: int, shared: Callable[[PyTree], PyTree] = lambda params: params
) -> Callable[[StageState, PyTree, Array], Progress]:
    """`measure(state, batches, key) -> Progress`, means over `batches` `[S, ...]`: one backward pass a task and batch.

    Args:
        objective: linear in its context, the weights `[tasks]`.
        shared: from a tree of parameters to the part whose gradients are compared, for example the last shared layer's.

    Example:
        >>> objective = lambda params, w, extra, batch, key: (w @ (batch * params["shared"]), extra)
        >>> state = StageState({"shared": jnp.array([3.0, 1.0]), "head": 0.0}, None, None)
        >>> measure = progress(objective, tasks=2, shared=lambda params: params["shared"])
        >>> found = measure(state, jnp.array([[1.0, 4.0]]), jax.random.key(0))
        >>> found.norms.tolist(), found.losses.tolist()
        ([1.0, 4.0], [3.0, 4.0])
    """

    def measure(state: StageState, batches: PyTree, key: Array) -> Progress:
        def of(batch):
            losses, pull = single_gradients(
                objective, tasks, lambda params: params, state.params, state.extra, batch, key
            )
            norms = jax.lax.map(lambda task: optax.tree.norm(shared(pull(task)[0])), jnp.eye(tasks, dtype=losses.dtype))
            return Progress(norms, losses)

        return jax.tree.map(lambda a: a.mean(axis=0), jax.lax.map(of, batches))

    return measure
