"""Weights of tasks from their single gradients, without differentiating through training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from metapt.types import Objective, PyTree, StageState
from metapt.updates.single import single_gradients

Weigh = Callable[[StageState, Callable[[PyTree], Array], PyTree, Array], Array]


def cosine_weights(objective: Objective, tasks: int) -> Weigh:
    """`weigh(state, downstream, batches, key)`: `w_t ~ max(0, cos(g_t, v))`, their mean 1; all 1 if no task agrees with v.

    g_t is the gradient of task t's loss, v that of `downstream(params)`, both with respect to `params["encoder"]`: one
    backward pass a task. The cosines are means over `batches` `[P, ...]`; a task whose gradient is 0 has cosine 0.

    Args:
        objective: of pre-training, linear in its context, the weights `[tasks]`.

    Source: Du et al. 2018, "Adapting Auxiliary Losses Using Gradient Similarity", section 3.

    Example:
        >>> objective = lambda params, w, extra, batch, key: (w @ (batch * params["encoder"]), extra)
        >>> state = StageState({"encoder": jnp.array([1.0, 1.0])}, None, None)
        >>> weigh = cosine_weights(objective, tasks=2)
        >>> wanted = lambda params: params["encoder"] @ jnp.array([1.0, -1.0])
        >>> weigh(state, wanted, jnp.ones((1, 2)), jax.random.key(0)).round(4).tolist()
        [2.0, 0.0]
    """

    def weigh(state: StageState, downstream: Callable[[PyTree], Array], batches: PyTree, key: Array) -> Array:
        whole = lambda encoder: {**state.params, "encoder": encoder}
        encoder = state.params["encoder"]
        wanted = jax.grad(lambda encoder: downstream(whole(encoder)))(encoder)

        def cosines(batch):
            _, pull = single_gradients(objective, tasks, whole, encoder, state.extra, batch, key)
            return jax.lax.map(lambda task: _cosine(pull(task)[0], wanted), jnp.eye(tasks))

        agree = jax.nn.relu(jax.lax.map(cosines, batches).mean(axis=0))
        return jnp.where(agree.any(), tasks * agree / jnp.maximum(agree.sum(), 1e-30), 1.0)

    return weigh


def _cosine(a: PyTree, b: PyTree) -> Array:
    dot = lambda x, y: sum(jnp.vdot(p, q) for p, q in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
    size = jnp.sqrt(dot(a, a) * dot(b, b))
    return jnp.where(size > 0, dot(a, b) / jnp.where(size > 0, size, 1.0), 0.0)
