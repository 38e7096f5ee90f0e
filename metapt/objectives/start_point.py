"""Training that is held near where it began, not near 0."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from metapt.types import Objective, PyTree


class StartPoint(NamedTuple):
    """What holds the parameters, and how strongly: the context of `with_start_point` and of `optimizers.group_lasso`.

    Strengths are prefixes of the parameters' tree: one number, or one a part, a layer, a parameter.
    """

    params: PyTree  # w0, like the parameters: where they began, 0 for those that are new
    squares: PyTree  # alpha of L2-SP; alpha F, with F from `fisher_diagonal`, makes it L2-SP-Fisher
    groups: PyTree = 0.0  # alpha of the group lasso

    def scaled(self, strength: PyTree) -> "StartPoint":
        """Both strengths times `strength`, a prefix too.

        Example:
            >>> unit = StartPoint({"encoder": jnp.ones(2), "head": jnp.zeros(1)}, squares=2.0)
            >>> unit.scaled({"encoder": 4, "head": 3}).squares
            {'encoder': 8.0, 'head': 6.0}
        """
        full = lambda prefix: jax.tree.broadcast(prefix, self.params)
        times = lambda own: jax.tree.map(lambda a, b: a * b, full(own), full(strength))
        return self._replace(squares=times(self.squares), groups=times(self.groups))


def with_start_point(objective: Objective) -> Objective:
    """`objective + 1/2 sum_j alpha_j (w_j - w0_j)^2`; the context is a `StartPoint`, which `objective` sees too.

    With an objective that is quadratic near its minimum w*, with Hessian H, training rests at `(H + alpha)^-1 (H w* + alpha w0)`:
    along directions that the data say little about it stays where it began. Switch other decay off: it pulls to 0.

    Source: Li, Grandvalet, Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    section 3 (L2-SP, L2-SP-Fisher).

    Example:
        >>> zero = lambda params, context, extra, batch, key: (0.0, extra)
        >>> context = StartPoint({"encoder": 1.0, "head": 0.0}, squares={"encoder": 2.0, "head": 0.5})
        >>> float(with_start_point(zero)({"encoder": 4.0, "head": 2.0}, context, None, None, None)[0])  # 9 + 1
        10.0
    """

    def wrapped(params, context, extra, batch, key):
        loss, extra = objective(params, context, extra, batch, key)
        return loss + pull(context.squares, params, context.params), extra

    return wrapped


def pull(strengths: PyTree, params: PyTree, start: PyTree) -> Array:
    """`1/2 sum_j alpha_j (w_j - w0_j)^2`; strengths are a prefix of the parameters' tree."""
    full = jax.tree.broadcast(strengths, params)
    return 0.5 * jnp.asarray(optax.tree.sum(jax.tree.map(lambda a, w, w0: a * (w - w0) ** 2, full, params, start)))


def fisher_diagonal(logits: Callable[[PyTree, Array], Array], params: PyTree, x: Array) -> PyTree:
    """`F_j = mean_i sum_k p_k(x_i) (d log p_k(x_i) / d w_j)^2`, like `params`: how much each matters to the predictions.

    The expectation is over the model's own labels p, so none are needed. One example's Jacobian is in memory at a time.

    Args:
        logits: `(params, x [1, ...]) -> [1, C]`.
        x: `[N, ...]`, examples of pre-training.

    Source: Li, Grandvalet, Davoine 2018, section 3 (L2-SP-Fisher).

    Example:
        >>> fisher = fisher_diagonal(lambda w, x: x @ w, jnp.zeros((1, 2)), jnp.array([[2.0]]))
        >>> fisher.tolist()  # x^2 p (1 - p)
        [[1.0, 1.0]]
    """

    def add(total, one):
        log_p = lambda params: jax.nn.log_softmax(logits(params, one[None])[0])
        p, slopes = jnp.exp(log_p(params)), jax.jacrev(log_p)(params)
        more = lambda t, slope: t + (jnp.tensordot(p, slope**2, 1) / len(x)).astype(t.dtype)
        return jax.tree.map(more, total, slopes), None

    return jax.lax.scan(add, optax.tree.zeros_like(params), x)[0]
