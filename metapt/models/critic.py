"""Who judges labels: a network, or one number for each example."""

import jax
import jax.numpy as jnp

from metapt.checks import whole
from metapt.models.encoders import linear, mlp
from metapt.models.heads import with_head
from metapt.types import Model

INPUT_SCALE = 0.01  # of example and label: a critic that sees more prefers the classes it was validated on


def label_critic(classifier: Model, inputs: int, classes: int, hidden: int) -> Model:
    """How far to trust each label of a batch `(x [B, ...], y int [B], ...)`: `apply(params, batch, teacher) -> [B]`, 0 at first.

    It sees the image, the label, and what `classifier` with the parameters `teacher` makes of them: log p(y | x), and
    how far that is from log p of the best other class. One tanh layer.

    Args:
        classifier: `apply(teacher, x) -> logits [B, classes]`; its parameters are not trained here.
        inputs: numbers in one example.
        hidden: width of the layer; (inputs + classes + 3) * hidden + hidden + 1 parameters in all.

    Source: Shu et al. 2019, "Meta-Weight-Net", section 3 (the loss as input); Raghu et al. 2021, section 5.1.

    Example:
        >>> classifier = linear(4, 3)
        >>> critic = label_critic(classifier, inputs=4, classes=3, hidden=8)
        >>> params, teacher = critic.init(jax.random.key(0)), classifier.init(jax.random.key(1))
        >>> critic.apply(params, (jnp.ones((2, 4)), jnp.array([0, 2])), teacher).tolist()
        [0.0, 0.0]
    """
    layer = mlp(inputs + classes + 2, (hidden,))
    network = with_head(
        Model(layer.init, lambda params, x: jnp.tanh(layer.apply(params, x))), linear(hidden, 1, zero=True)
    )

    def apply(params, batch, teacher):
        x, y, *_ = batch
        label = jax.nn.one_hot(y, classes)
        log_p = jax.nn.log_softmax(classifier.apply(teacher, x))
        own = jnp.sum(label * log_p, axis=1, keepdims=True)
        other = jnp.max(jnp.where(label > 0, -jnp.inf, log_p), axis=1, keepdims=True)
        opinion = [jnp.clip(own, -8, 0) / 2 + 1, jnp.clip(own - other, -8, 8) / 4]
        seen = [INPUT_SCALE * x.reshape(len(y), -1) / inputs**0.5, INPUT_SCALE * label, *opinion]
        return network.apply(params, jnp.concatenate(seen, axis=1))[:, 0]

    return Model(network.init, apply)


def by_number(n: int) -> Model:
    """No network: one logit an example, 0 at first, found by the example's number: `apply(params [n], (x, y, number)) -> [B]`.

    For `meta.example_weights` and `meta.relative_example_weights`.

    Example:
        >>> by_number(3).apply(jnp.array([0.0, 1.0, 2.0]), (None, None, jnp.array([2, 0]))).tolist()
        [2.0, 0.0]
    """
    whole("by_number: n", n, why="the number of examples")
    return Model(lambda key: jnp.zeros(n), lambda params, batch, *rest: params[batch[2]])
