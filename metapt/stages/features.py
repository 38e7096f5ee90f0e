"""Fine-tuning of a head on an encoder that rests: what the encoder makes of the examples is found once."""

import jax
import jax.numpy as jnp
from jax import Array

from metapt.checks import whole
from metapt.objectives import Predict
from metapt.stages.stage import step_keys
from metapt.types import Fit, PyTree, SolveInfo, StageInfo, StageState


def on_encoded(fit: Fit, encode: Predict, passes: int = 1) -> Fit:
    """`fit` on features: batches `(x, ...)` `[S, B, ...]` go through the encoder together, then `passes` times to `fit`.

    The same values and derivatives as encoding inside each of the `passes * S` steps, at the price of S encodings.

    Args:
        fit: of the head; its batches are `(features, ...)`.
        encode: for example `objectives.whole(encoder, mode="running")`. Its parameters are the fit's context
            (`transfer_features`), its running averages are in `extra`, where they rest.
        passes: how often the batches are trained on.

    Raises:
        ValueError: if `passes < 1`, when built.

    Example:
        >>> from metapt.hypergrad import unroll
        >>> from metapt.objectives import stateless
        >>> from metapt.types import Stage
        >>> import optax
        >>> head = Stage(lambda w, context, extra, batch, key: (((w * batch[0] - batch[1]) ** 2).mean(), extra), optax.sgd(0.01))
        >>> fit = on_encoded(unroll(head), stateless(lambda scale, context, x: scale * x), passes=50)
        >>> state = StageState(jnp.array(0.0), head.optimizer.init(0.0), None)
        >>> one_batch = jnp.array([[1.0, 2.0]]), jnp.array([[6.0, 12.0]])
        >>> state, info = fit(state, 2.0, one_batch, jax.random.key(0))
        >>> round(float(state.params), 3), info.loss.shape
        (3.0, (50,))
    """
    whole("on_encoded: passes", passes, why="how often the batches are trained on")

    def encoded_fit(
        state: StageState, context: PyTree, batches: PyTree, key: Array, report: SolveInfo | None = None
    ) -> tuple[StageState, StageInfo]:
        x, *rest = batches
        encode_key, fit_key = jax.random.split(key)
        encode_batch = lambda x, key: encode(context, None, state.extra, x, key)[0]
        features = jax.vmap(encode_batch)(x, step_keys(encode_key, x))
        again = lambda a: jnp.tile(a, (passes, *[1] * (a.ndim - 1)))
        return fit(state, context, jax.tree.map(again, (features, *rest)), fit_key, report)

    return encoded_fit
