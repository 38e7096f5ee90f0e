"""What training itself consists of: a penalty on every parameter, and the examples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metapt.checks import real
from metapt.meta.signals import fraction
from metapt.types import Meta, PyTree


def penalties(like: Callable[[Array], PyTree], start: float, most: float = 1.0) -> Meta:
    """`most * sigmoid(phi + logit(start / most))` in (0, most), phi 0 at first: a strength of the penalty on every parameter.

    Far below `most` a step of phi changes the same share of the strength whatever it is. Without the bound the largest
    eigenvalue, and with it the step that training and a Neumann series can take, would move while phi does.

    Args:
        like: gives a tree of the strengths' shapes: `model.init` for one a parameter, `lambda key: jnp.zeros(())` for one for
            all. For the context of `objectives.with_penalties`.
        start: the strength at first, above 0 and below `most`.

    Source: Lorraine et al. 2020, section 5.2, where it is exp(phi).

    Example:
        >>> meta = penalties(lambda key: {"w": jnp.zeros(2)}, start=0.5)
        >>> meta.constrain(meta.init(jax.random.key(0)))["w"].tolist()
        [0.5, 0.5]
    """
    real("penalties: most", most, above=0)
    real("penalties: start", start, above=0, below=most, why="below most")
    share = fraction(start / most)
    strength = lambda phi: most * share.constrain(phi)
    return Meta(lambda key: jax.tree.map(jnp.zeros_like, like(key)), lambda phi: jax.tree.map(strength, phi))


def distilled(inputs: tuple[int, ...], y: np.ndarray | Array, scale: float = 0.1) -> Meta:
    """Phi are the inputs of the training examples, noise at first; their labels are given. The value is the batch `(x, y)`.

    For the context of `objectives.on_context`.

    Args:
        inputs: the shape of one example.
        y: `[N]`, a label for each.
        scale: standard deviation of the noise.

    Source: Lorraine et al. 2020, section 5.3; Wang et al. 2018, "Dataset Distillation".

    Example:
        >>> meta = distilled((8, 8), np.arange(10))
        >>> x, y = meta.constrain(meta.init(jax.random.key(0)))
        >>> x.shape, y.shape
        ((10, 8, 8), (10,))
    """
    real("distilled: scale", scale, above=0)
    return Meta(lambda key: scale * jax.random.normal(key, (len(y), *inputs)), lambda phi: (phi, jnp.asarray(y)))
