"""An encoder and its activation, an encoder and a head, as one model, with parameters `{"encoder": ..., "head": ...}`."""

from typing import overload

import jax
import jax.numpy as jnp
from jax import Array

from metapt.checks import real
from metapt.types import Model, StatefulModel


def relu(model: Model) -> Model:
    """`max(model(x), 0)`: an encoder whose features end in a nonlinearity.

    Example:
        >>> import jax.numpy as jnp
        >>> relu(Model(lambda key: None, lambda params, x: x)).apply(None, jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return Model(model.init, lambda params, *args: jax.nn.relu(model.apply(params, *args)))


def normalised(model: Model, size: float = 1.0) -> Model:
    """`model(x)`, scaled so that every row has this norm, which bounds what a step of training a head on it can do.

    A row of zeros stays; all derivatives are finite.

    Example:
        >>> import jax.numpy as jnp
        >>> normalised(Model(lambda key: None, lambda params, x: x), 10.0).apply(None, jnp.array([[3.0, 4.0]])).tolist()
        [[6.0, 8.0]]
    """
    real("normalised: size", size, above=0)
    return Model(model.init, lambda params, *args: size * unit(model.apply(params, *args)))


def unit(z: Array) -> Array:
    """Rows of length 1, `[..., D]`; a row of zeros stays, with finite derivatives.

    Example:
        >>> unit(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=-1, keepdims=True), 1e-12))


@overload
def with_head(encoder: Model, head: Model) -> Model: ...
@overload
def with_head(encoder: StatefulModel, head: Model) -> StatefulModel: ...
@overload
def with_head(encoder: Model | StatefulModel, head: Model) -> Model | StatefulModel: ...
def with_head(encoder: Model | StatefulModel, head: Model) -> Model | StatefulModel:
    """`head(encoder(x))`; `stages.transfer_encoder` knows the encoder by its name in the parameters.

    Args:
        encoder: with running averages or without; so is what comes out.

    Example:
        >>> from metapt.models import linear, mlp
        >>> import jax.numpy as jnp
        >>> model = with_head(mlp(64, (32, 8)), linear(8, 10))
        >>> params = model.init(jax.random.key(0))
        >>> sorted(params), model.apply(params, jnp.zeros((5, 64))).shape
        (['encoder', 'head'], (5, 10))
    """
    if isinstance(encoder, StatefulModel):
        return _stateful_with_head(encoder, head)

    def init(key):
        encoder_key, head_key = jax.random.split(key)
        return {"encoder": encoder.init(encoder_key), "head": head.init(head_key)}

    def apply(params, *args):
        return head.apply(params["head"], encoder.apply(params["encoder"], *args))

    return Model(init, apply)


def _stateful_with_head(encoder: StatefulModel, head: Model) -> StatefulModel:
    def init(key):
        encoder_key, head_key = jax.random.split(key)
        params, extra = encoder.init(encoder_key)
        return {"encoder": params, "head": head.init(head_key)}, extra

    def apply(params, extra, x, key, mode):
        features, extra = encoder.apply(params["encoder"], extra, x, key, mode)
        return head.apply(params["head"], features), extra

    return StatefulModel(init, apply)
