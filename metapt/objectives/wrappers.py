"""Objectives around an objective: on a view of the batch, with a penalty, with an averaged teacher, over tasks."""

import jax
import optax
from jax.tree_util import Partial

from metapt.checks import real
from metapt.data.views import View
from metapt.objectives.start_point import pull
from metapt.types import Objective


def on_view(objective: Objective, view: View) -> Objective:
    """`objective` on `(view(context, x, key), *rest)` for a batch `(x, *rest)`: an augmentation that the context may steer.

    Args:
        view: `(context, x [B, ...], key) -> x [B, ...]`, from `data.views` or your own.

    Example:
        >>> import jax.numpy as jnp
        >>> inner = lambda params, context, extra, batch, key: (jnp.sum(params * batch[0]), extra)
        >>> doubled = on_view(inner, lambda context, x, key: context * x)
        >>> float(doubled(3.0, 2.0, None, (jnp.ones(4),), jax.random.key(0))[0])
        24.0
    """

    def wrapped(params, context, extra, batch, key):
        view_key, objective_key = jax.random.split(key)
        x, *rest = batch
        return objective(params, context, extra, (view(context, x, view_key), *rest), objective_key)

    return wrapped


def with_l2(objective: Objective, strength: float) -> Objective:
    """`objective + strength * |params|^2`. Unlike decay in the optimizer, the Hessian of an implicit rule sees it.

    Example:
        >>> import jax.numpy as jnp
        >>> zero = lambda params, context, extra, batch, key: (0.0, extra)
        >>> float(with_l2(zero, 0.5)(jnp.array([3.0, 4.0]), None, None, None, None)[0])
        12.5
    """
    real("with_l2: strength", strength, least=0)

    def wrapped(params, context, extra, batch, key):
        loss, extra = objective(params, context, extra, batch, key)
        return loss + strength * optax.tree.norm(params, squared=True), extra

    return wrapped


def with_penalties(objective: Objective) -> Objective:
    """`objective + 1/2 sum_i c_i params_i^2`; the context c has the params' structure, or a number in place of a part of it.

    One strength a parameter, a layer, or for all (`meta.penalties`). The inner objective sees the same context.

    Source: Lorraine et al. 2020, "Optimizing Millions of Hyperparameters by Implicit Differentiation", section 5.2.

    Example:
        >>> import jax.numpy as jnp
        >>> penalised = with_penalties(lambda params, context, extra, batch, key: (0.0, extra))
        >>> params = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
        >>> [float(penalised(params, c, None, None, None)[0]) for c in ({"w": jnp.array([1.0, 0.5]), "b": 0.0}, 1.0)]
        [1.5, 7.0]
    """

    def wrapped(params, context, extra, batch, key):
        loss, extra = objective(params, context, extra, batch, key)
        return loss + pull(context, params, optax.tree.zeros_like(params)), extra

    return wrapped


def on_context(objective: Objective) -> Objective:
    """`objective` on a batch that is the context: learned examples (`meta.distilled`). Of the batches only their number counts.

    The objective itself sees no context.

    Example:
        >>> on_context(lambda params, context, extra, batch, key: (params * batch, extra))(2.0, 3.0, None, None, None)
        (6.0, None)
    """
    return lambda params, context, extra, batch, key: objective(params, None, extra, context, key)


def with_teacher(objective: Objective, decay: float) -> Objective:
    """`extra` is an exponential moving average of the parameters, and a context (a function) sees it: `context(batch, extra)`.

    Start the stage with `extra=params`. The average forgets what single batches teach, so it is slow to memorise wrong labels.

    Args:
        decay: share of the old average that stays, at every step.

    Source: Tarvainen and Valpola 2017, "Mean teachers are better role models", section 2.

    Example:
        >>> weigh = lambda batch, teacher: batch * teacher
        >>> inner = lambda params, context, extra, batch, key: (params * context(batch), extra)
        >>> loss, teacher = with_teacher(inner, 0.9)(2.0, weigh, 1.0, 5.0, None)
        >>> loss, round(float(teacher), 4)
        (10.0, 1.1)
    """
    real("with_teacher: decay", decay, least=0, below=1)

    def wrapped(params, context, extra, batch, key):
        loss, _ = objective(params, Partial(_with_teacher, context, extra), None, batch, key)
        return loss, optax.incremental_update(params, extra, 1.0 - decay)

    return wrapped


def together(first: Objective, second: Objective, copies: bool = False) -> Objective:
    """`first + second` on one encoder: params `{"encoder", "head", "second_head"}`, batch `(first's, second's)`.

    Both see params `{"encoder", "head"}`, one context and one `extra`, `second` after `first`.

    Args:
        copies: the parameters are stacked, leaves `[2, ...]`, and each objective sees its own row (`optimizers.pcgrad`).

    Example:
        >>> import jax.numpy as jnp
        >>> times = lambda params, context, extra, batch, key: (batch * params["encoder"] * params["head"], extra)
        >>> params = {"encoder": 2.0, "head": 3.0, "second_head": 5.0}
        >>> together(times, times)(params, None, None, (1.0, 10.0), jax.random.key(0))
        (106.0, None)
    """

    def objective(params, context, extra, batch, key):
        row = lambda i: jax.tree.map(lambda leaf: leaf[i], params) if copies else params
        one, two = row(0), row(1)
        first_key, second_key = jax.random.split(key)
        loss, extra = first({"encoder": one["encoder"], "head": one["head"]}, context, extra, batch[0], first_key)
        tree = {"encoder": two["encoder"], "head": two["second_head"]}
        other, extra = second(tree, context, extra, batch[1], second_key)
        return loss + other, extra

    return objective


def mean_over_tasks(objective: Objective) -> Objective:
    """The mean of `objective` over T tasks: params, `extra` and batch `[T, ...]` (`stages.over_tasks`), one context.

    Example:
        >>> import jax.numpy as jnp
        >>> apart = lambda params, context, extra, batch, key: (context * (params - batch) ** 2, extra)
        >>> batch = jnp.array([1.0, 5.0])
        >>> float(mean_over_tasks(apart)(jnp.array([2.0, 2.0]), 10.0, None, batch, jax.random.key(0))[0])
        50.0
    """

    def mean(params, context, extra, batch, key):
        keys = jax.random.split(key, len(jax.tree.leaves(params)[0]))
        losses, extra = jax.vmap(objective, in_axes=(0, None, 0, 0, 0))(params, context, extra, batch, keys)
        return losses.mean(), extra

    return mean


def half_square_from_start(params, context, extra, batch, key):
    """`|params - context|^2 / 2`, how far training went; the context is where it began (`stages.with_start`).

    Example:
        >>> float(half_square_from_start(5.0, 2.0, None, None, None)[0])
        4.5
    """
    return 0.5 * optax.tree.norm(optax.tree.sub(params, context), squared=True), extra


def _with_teacher(context, teacher, batch):
    return context(batch, teacher)
