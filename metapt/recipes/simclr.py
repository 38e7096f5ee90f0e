"""Pre-training without labels: examples are told by two views of each."""

import optax

from metapt import stages
from metapt.data import View
from metapt.hypergrad import implicit
from metapt.models import projection, with_head
from metapt.objectives import contrastive, whole
from metapt.recipes.method import Method, Pretraining
from metapt.types import Model, Rule, Stage, StatefulModel

METHOD = Method(
    name="simclr",
    summary="pre-training without labels, by telling examples by two views of each (SimCLR)",
    citation="Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual Representations. "
    "ICML 2020",
    slots=("data: two views", "objective: contrastive"),
)


def simclr(
    encoder: Model | StatefulModel,
    features: int,
    view: View,
    optimizer: optax.GradientTransformation,
    temperature: float = 0.5,
    second_view: View | None = None,
    head: Model | None = None,
    rule: Rule = implicit,
) -> Pretraining:
    """Pre-trains `encoder` on batches `(x [B, ...], ...)`, whose labels, if any, play no part.

    The loss is a mean over the 2B views. The authors' code adds the means over the first and over the second views, so that
    its loss and gradients are twice as large: with SGD or LARS, double a learning rate of theirs.

    Args:
        encoder: `[B, ...] -> [B, features]`.
        view: used twice, with keys of its own, for example `data.simclr_views()`; the context of the fit is the view's.
        second_view: another for the second one.
        head: between the encoder and the loss, dropped afterwards; by default one hidden layer of `features` units and
            `features // 2` outputs.
        rule: how the end moves with the context, for whoever learns that.
    """
    head = head or projection(features, features, features // 2)
    network = with_head(encoder, head)
    stage = Stage(contrastive(whole(network), view, second_view, temperature), optimizer)
    start = lambda key: stages.start_model(stage, network, key)
    return Pretraining(stage, rule(stage), start, lambda params, features: head.apply(params["head"], features))
