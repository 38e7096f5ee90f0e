"""An initialisation that tasks are held near, learned by the implicit function theorem."""

from collections.abc import Callable

import optax

from metapt.hypergrad import proximal
from metapt.objectives import Predict, cross_entropy
from metapt.recipes.method import Initialization, Method, initialization
from metapt.solvers import cg
from metapt.types import Model, Objective, Solve

METHOD = Method(
    name="imaml",
    summary="an initialisation that few-shot tasks are held near, learned without remembering their training",
    citation="Rajeswaran, Finn, Kakade, Levine. Meta-Learning with Implicit Gradients. NeurIPS 2019",
    slots=("data: episodes", "objective: proximal", "meta: the initialisation", "rule: proximal", "update: gradient"),
)


def imaml(
    model: Model,
    optimizer: optax.GradientTransformation,
    meta_optimizer: optax.GradientTransformation,
    strength: float,
    solve: Solve = cg(max_steps=5),
    loss: Callable[[Predict], Objective] = cross_entropy,
    curvature: Objective | None = None,
) -> Initialization:
    """`phi <- phi - step * mean_i (I + H_i / strength)^-1 grad L_i(query, theta_i)`, `theta_i` where training comes to rest.

    Args:
        model: of one task, smooth: at a kink of ReLU nothing comes to rest, and negative curvature beyond the strength
            makes the system indefinite (the report tells).
        optimizer: of a task, trained on `L_i + strength / 2 |theta - phi|^2`; any will do that comes to rest in K steps.
        strength: of the pull to the start.
        solve: of systems with `H_i + strength I`.
        loss: of a task, as in `method.initialization`.
        curvature: the objective whose Hessian stands for `H_i`, by default the task's own;
            `loss(linearized(whole(model)))` gives the Gauss-Newton matrix, which is never indefinite.
    """
    rule = lambda stage: proximal(stage, strength, solve, curvature=curvature)
    return initialization(model, loss, optimizer, meta_optimizer, rule)
