"""Two views of an example are told from all other examples' views; no labels."""

import jax
import jax.numpy as jnp
from jax import Array

from metapt.checks import real
from metapt.data.views import View
from metapt.models.heads import unit
from metapt.objectives.predict import Predict
from metapt.types import Objective, PyTree


def contrastive(predict: Predict, view: View, second_view: View | None = None, temperature: float = 0.5) -> Objective:
    """`nt_xent` of the outputs for two views of a batch `(x [B, ...], ...)`, which the context may steer.

    Both views go through the network at once, so that batch normalisation sees all 2B. The loss couples the batch.

    Args:
        predict: with outputs `[B, D]`, for example `whole(with_head(encoder, projection(...)))`.
        second_view: by default `view` once more, with a key of its own.
        temperature: above 0.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", algorithm 1.

    Example:
        >>> from metapt.objectives import stateless
        >>> shift = lambda context, x, key: x + context
        >>> objective = contrastive(stateless(lambda params, context, x: x * params), shift)
        >>> loss, _ = objective(2.0, 0.0, None, (jnp.eye(2),), jax.random.key(0))
        >>> round(float(loss), 4), round(float(jnp.log1p(2 * jnp.exp(-2))), 4)
        (0.2395, 0.2395)
    """
    real("contrastive: temperature", temperature, above=0)

    def objective(params, context, extra, batch, key):
        views_key, predict_key = jax.random.split(key)
        x, *_ = batch
        # An example's two views side by side: devices that share a batch need not exchange examples.
        views = jnp.swapaxes(two_views(view, second_view, context, x, views_key), 0, 1)
        z, extra = predict(params, context, extra, views.reshape(-1, *x.shape[1:]), predict_key)
        return nt_xent(z[::2], z[1::2], temperature), extra

    return objective


def two_views(view: View, second_view: View | None, context: PyTree, x: Array, key: Array) -> Array:
    """Views of a batch with keys of their own, `[B, ...] -> [2, B, ...]`; by default `view` twice."""
    keys = jax.random.split(key)
    if second_view is None:  # compiles once
        return jax.vmap(lambda key: view(context, x, key))(keys)
    return jnp.stack([view(context, x, keys[0]), second_view(context, x, keys[1])])


def nt_xent(first: Array, second: Array, temperature: float = 0.5) -> Array:
    """Normalised temperature-scaled cross-entropy of B pairs, `[B, D], [B, D] -> []`.

        mean over the 2B rows a of  log sum_{b != a} exp(s_ab) - s_a,partner(a),   s_ab = cos(z_a, z_b) / temperature

    The value of `optax.losses.ntxent`, from one matrix product instead of all products of rows one by one. All
    derivatives are finite, at equal rows and at a row of zeros too.

    Source: Chen et al. 2020, equation 1.

    Example:
        >>> alike = jnp.ones((3, 2))
        >>> round(float(nt_xent(alike, alike)), 4), round(float(jnp.log(5.0)), 4)  # nothing to tell apart
        (1.6094, 1.6094)
    """
    first, second = unit(first), unit(second)
    z = jnp.concatenate([first, second])
    others = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, z @ z.T / temperature)
    pairs = jnp.sum(first * second, axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(others, axis=1)) - jnp.mean(pairs)
