"""What steers views: numbers above 0, shares between 0 and 1, the strength of a warp, and several of them by name."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from metapt.checks import real
from metapt.types import Meta, Model


def positive(start: float) -> Meta:
    """`start exp(phi)`, phi 0 at first: a scale, of which a step of phi changes the same share whatever it is.

    For the contexts of `data.random_noise`, `random_amplitude` and `time_warp`.

    Example:
        >>> meta = positive(0.1)
        >>> round(float(meta.constrain(meta.init(jax.random.key(0)))), 4), round(float(meta.constrain(jnp.log(2.0))), 4)
        (0.1, 0.2)
    """
    real("positive: start", start, above=0)
    return Meta(lambda key: jnp.zeros(()), lambda phi: start * jnp.exp(phi))


def fraction(start: float) -> Meta:
    """`sigmoid(phi + logit(start))` in (0, 1), phi 0 at first: for the contexts of `data.random_mask` and `lead_dropout`.

    Example:
        >>> meta = fraction(0.25)
        >>> round(float(meta.constrain(meta.init(jax.random.key(0)))), 4)
        0.25
    """
    real("fraction: start", start, above=0, below=1)
    offset = float(np.log(start) - np.log1p(-start))
    return Meta(lambda key: jnp.zeros(()), lambda phi: jax.nn.sigmoid(phi + offset))


def warp_strength(network: Model, start: float = 4.0) -> Meta:
    """How strongly to warp each signal: the constrained value is a function, `x [B, T, C] -> [B]`, in samples.

        100 s^2 * 2 sigmoid(network(x)),   phi = {"scale": s, "network": ...},   s = start at first

    For the context of `data.by_input(data.time_warp)`. The two parts want learning rates of their own (published: 1 and
    1e-4). At s = 4 little of the signal's order is left, at 1 and below a smooth warp by few samples.

    Args:
        network: one logit a signal, for example `models.warp_network(channels)`.

    Source: Raghu et al. 2021, section 5.2, and their code.

    Example:
        >>> network = Model(init=lambda key: jnp.zeros(()), apply=lambda params, x: params * x[:, 0, 0])
        >>> meta = warp_strength(network)
        >>> meta.constrain(meta.init(jax.random.key(0)))(jnp.ones((2, 5, 1))).tolist()
        [1600.0, 1600.0]
    """

    def strength(phi, x):
        return 100 * phi["scale"] ** 2 * 2 * jax.nn.sigmoid(network.apply(phi["network"], x))

    # A Partial is both a function and a pytree of its parameters, so it can be a context.
    return Meta(
        lambda key: {"scale": jnp.array(start), "network": network.init(key)}, lambda phi: Partial(strength, phi)
    )


def named(**metas: Meta) -> Meta:
    """Several at once, by name: for the contexts of `data.in_turn(name=view, ...)`.

    Example:
        >>> meta = named(noise=positive(0.5), mask=fraction(0.5))
        >>> {name: float(value) for name, value in meta.constrain(meta.init(jax.random.key(0))).items()}
        {'noise': 0.5, 'mask': 0.5}
    """

    def init(key):
        keys = jax.random.split(key, len(metas))
        return {name: meta.init(one) for (name, meta), one in zip(metas.items(), keys, strict=True)}

    return Meta(init, lambda phi: {name: meta.constrain(phi[name]) for name, meta in metas.items()})
