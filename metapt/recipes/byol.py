"""Pre-training without labels and without other examples: a network predicts an average of its own past."""

import jax
import optax
from jax import Array

from metapt import stages
from metapt.data import View
from metapt.hypergrad import unroll
from metapt.models import projection, with_head
from metapt.objectives import bootstrap, follow, whole
from metapt.recipes.method import Method, Pretraining
from metapt.types import Model, Rule, Stage, StageState, StatefulModel

METHOD = Method(
    name="byol",
    summary="pre-training without labels or other examples, by predicting an average of the network's own past (BYOL)",
    citation="Grill, Strub, Altché, Tallec, Richemond and others. Bootstrap Your Own Latent: A New Approach to "
    "Self-Supervised Learning. NeurIPS 2020",
    slots=("data: two views", "objective: bootstrap, with a target in extra"),
)


def byol(
    encoder: Model | StatefulModel,
    features: int,
    view: View,
    optimizer: optax.GradientTransformation,
    steps: int,
    tau: float = 0.99,
    second_view: View | None = None,
    predictor: Model | None = None,
    rule: Rule = unroll,
) -> Pretraining:
    """Pre-trains `encoder` on batches `(x [B, ...], ...)`, whose labels, if any, play no part.

    Projection and predictor have a hidden layer of `2 features` units, normalised by the batch, and `features // 2` outputs.
    Without that normalisation small networks collapse to a constant.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        view: used twice, with keys of its own, for example `data.simclr_views()`; the context of the fit is the view's.
        steps: K, of the whole pre-training.
        tau: of the target, the share that stays at the first step; along a cosine it comes to 1 after K steps.
        second_view: another for the second one.
        predictor: by default as said above.
        rule: how the end moves with the context. Not `implicit`: training does not rest where the gradient of a loss is zero
            (`objectives.bootstrap`). With the default, an optimizer with a finite derivative (`optax.adam` with eps_root).
    """
    outputs = features // 2
    head = projection(features, 2 * features, outputs, batch_norm=True)
    predictor = predictor or projection(outputs, 2 * features, outputs, batch_norm=True)
    network, rate = with_head(encoder, head), optax.cosine_decay_schedule(1 - tau, steps)
    stage = Stage(bootstrap(whole(network), predictor, view, rate, second_view), optimizer)

    def start(key: Array) -> StageState:
        network_key, predictor_key = jax.random.split(key)
        params, _, extra = stages.start_model(stage, network, network_key)
        trained = {**params, "predictor": predictor.init(predictor_key)}
        return stages.start(stage, trained, follow(params, extra))

    return Pretraining(stage, rule(stage), start, lambda params, features: head.apply(params["head"], features))
