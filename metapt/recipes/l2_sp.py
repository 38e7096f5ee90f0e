"""Fine-tuning that is held near the pre-trained network, as strongly as held-out labels ask for."""

from collections.abc import Callable
from typing import NamedTuple

import optax

from metapt import stages
from metapt.algorithm import Algorithm, AlgorithmState, meta_pretraining
from metapt.hypergrad import unroll
from metapt.objectives import Predict, StartPoint, cross_entropy, whole, with_start_point
from metapt.optimizers import group_lasso
from metapt.recipes.method import Method
from metapt.types import Fit, Model, Objective, PyTree, Rule, Stage, StageState
from metapt.updates import by_gradient

METHOD = Method(
    name="l2_sp",
    summary="how strongly fine-tuning is held near the pre-trained parameters (L2-SP, L2-SP-Fisher, Group-Lasso-SP)",
    citation="Li, Grandvalet, Davoine. Explicit Inductive Bias for Transfer Learning with Convolutional Networks. ICML 2018",
    slots=("objective: pulled to the start", "meta: the strengths", "rule: unroll", "update: gradient"),
)


class Held(NamedTuple):
    """Fine-tuning at given strengths, and the algorithm that learns them.

    `params` are the pre-trained encoder and a new head, `unit` is what holds them at strength 1.
    """

    algorithm: Algorithm
    fit: Fit
    begin: Callable[[PyTree, StartPoint, PyTree], tuple[StageState, StartPoint]]  # (params, unit, strength): for `fit`
    start: Callable[[PyTree, StartPoint, PyTree], AlgorithmState]  # (params, unit, phi)


def l2_sp(
    model: Model,
    optimizer: optax.GradientTransformation,
    step: float,
    meta_optimizer: optax.GradientTransformation,
    constrain: Callable[[PyTree], PyTree],
    loss: Callable[[Predict], Objective] = cross_entropy,
    rule: Rule = unroll,
) -> Held:
    """Fine-tunes `model` from parameters at hand, and learns how strongly to hold them; the validation loss is plain.

    With `w0 = {"encoder": pre-trained, "head": zeros}`, the family is, as `unit`:

        L2-SP           StartPoint(w0, squares=1.0)              decay   StartPoint(zeros, squares=1.0)
        L2-SP-Fisher    StartPoint(w0, squares={"encoder": fisher_diagonal(...), "head": 1.0})
        Group-Lasso-SP  StartPoint(w0, squares={"encoder": 0.0, "head": 1.0}, groups={"encoder": 1.0, "head": 0.0})

    Args:
        model: for example `with_head(encoder, head)`.
        optimizer: of fine-tuning, without decay of its own.
        step: the optimizer's per gradient, as `optimizers.group_lasso` wants it.
        constrain: from phi to the strengths, a prefix of the parameters; `meta.named(encoder=meta.positive(0.1), ...)` has one.
        loss: of fine-tuning, and of validation.
        rule: how fine-tuning is differentiated; `implicit` sees the squares, not the groups.
    """
    plain = loss(whole(model))
    stage = Stage(with_start_point(plain), optax.chain(optimizer, group_lasso(step)))
    fit = rule(stage)

    def transfer(pretrained: StageState, finetune: StageState, meta: PyTree) -> tuple[StageState, StartPoint]:
        start, _ = stages.transfer_all(pretrained, finetune, meta)
        return start, pretrained.extra.scaled(meta)

    given = lambda params, unit: (StageState(params, None, unit), stages.start(stage, params))
    learn = by_gradient(meta_optimizer)
    algorithm = meta_pretraining(stages.untouched, fit, plain, learn, constrain, transfer, warm_start=False)
    return Held(
        algorithm,
        fit,
        lambda params, unit, strength: transfer(*given(params, unit), strength),
        lambda params, unit, phi: algorithm.init(phi, *given(params, unit)),
    )
