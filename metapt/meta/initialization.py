"""The initial parameters themselves as meta-parameters."""

from metapt.types import Meta, Model


def initialization(model: Model) -> Meta:
    """Phi are the parameters of `model`, and are used as they are: where the training of every task starts.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 2.

    Example:
        >>> import jax
        >>> meta = initialization(Model(lambda key: 2.0, lambda params, x: params * x))
        >>> meta.constrain(meta.init(jax.random.key(0)))
        2.0
    """
    return Meta(model.init)
