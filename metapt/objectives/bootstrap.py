"""A network predicts, from one view, what an average of its own past makes of another; no labels and no other examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.data.views import View
from metapt.models.heads import unit
from metapt.objectives.contrastive import two_views
from metapt.objectives.predict import Predict
from metapt.types import Model, Objective, PyTree


class Target(NamedTuple):
    """What `bootstrap` carries: `extra` of its stage, made by `follow`."""

    params: PyTree  # of the network, averaged over the steps
    step: Array  # how many steps these were
    extra: PyTree  # the network's own running averages, if it has any


def follow(params: PyTree, extra: PyTree = None) -> Target:
    """The target before the first step: an exact copy of the network.

    Example:
        >>> follow({"w": 1.0}).params
        {'w': 1.0}
    """
    return Target(params, jnp.zeros((), int), extra)


def bootstrap(
    predict: Predict, predictor: Model, view: View, rate: optax.Schedule, second_view: View | None = None
) -> Objective:
    """With p the prediction from one view and t the target's output for the other, of a batch `(x [B, ...], ...)`:

        mean |p / |p| - t / |t||^2 = mean of 2 - 2 cos(p, t),    plus the same with the views exchanged

    The target's parameters xi are in `extra`, a constant to the gradient of a step, and follow those of the network:
    `xi <- (1 - rate(k)) xi + rate(k) theta` at step k, with theta as it was before the optimizer's step: the target is one
    step older than in the paper. Each view goes through the network by itself, so that batch normalisation sees B.

    This is the loss of one step. There is none whose gradient is zero where training ends, for the target moves with the
    parameters. `unroll` sees that, and its derivative is exact; to `implicit` and the rules like it the target is a constant,
    and what the context does by way of the target is missing from what they find.

    Params: those of the network, a dict, and `"predictor"`. Start the stage with `extra=follow(network's params)`.

    Args:
        predict: of the network, with outputs `[B, D]`.
        predictor: `[B, D] -> [B, D]`.
        rate: for example `optax.cosine_decay_schedule(1 - tau, steps)`: `1 - rate(k) = 1 - (1 - tau) (cos(pi k / K) + 1) / 2`.
        second_view: by default `view` once more, with a key of its own.

    Source: Grill et al. 2020, "Bootstrap Your Own Latent", equations 1 and 2, section 3.3 for the rate.

    Example:
        >>> from metapt.objectives import stateless
        >>> apply, as_it_is = lambda params, context, x: x * params["scale"], lambda context, x, key: x
        >>> doubled = Model(lambda key: 2.0, lambda params, z: params * z)
        >>> objective = bootstrap(stateless(apply), doubled, as_it_is, optax.constant_schedule(0.5))
        >>> params, target = {"scale": 4.0, "predictor": -2.0}, follow({"scale": 1.0})
        >>> loss, target = objective(params, None, target, (jnp.ones((3, 2)),), jax.random.key(0))
        >>> round(float(loss), 4), float(target.params["scale"])  # twice the 4 of opposite directions
        (8.0, 2.5)
    """

    def objective(params, context, extra, batch, key):
        views_key, online_key, target_key = jax.random.split(key, 3)
        x, *_ = batch
        views = two_views(view, second_view, context, x, views_key)
        network = {name: part for name, part in params.items() if name != "predictor"}
        outputs = jax.vmap(predict, in_axes=(None, None, None, 0, 0))  # one view after the other
        z, moved = outputs(network, context, extra.extra, views, jax.random.split(online_key))
        t, _ = outputs(extra.params, context, extra.extra, views[::-1], jax.random.split(target_key))
        p = jax.vmap(predictor.apply, in_axes=(None, 0))(params["predictor"], z)
        loss = jnp.sum((unit(p) - unit(t)) ** 2, axis=-1).mean(axis=1).sum()
        followed = optax.incremental_update(network, extra.params, rate(extra.step))
        averages = jax.tree.map(lambda a: a.mean(axis=0), moved)
        return loss, Target(optax.tree.cast_like(followed, extra.params), extra.step + 1, averages)

    return objective
