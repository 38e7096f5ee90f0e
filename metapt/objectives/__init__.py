"""3. What a stage minimises: `(params, context, extra, batch, key) -> (loss, extra)`.

Each is made from `predict(params, context, extra, x, key)`, so that the same loss serves a whole model and a head on
features that come from the context (`whole`, `on_features`), with running averages or without. Wrappers add to it: a
view of the batch, a penalty, a teacher.
"""

from metapt.models.heads import unit
from metapt.objectives.bootstrap import Target, bootstrap, follow
from metapt.objectives.contrastive import contrastive, nt_xent
from metapt.objectives.multitask import (
    auroc,
    balanced_tasks,
    binary_tasks,
    task_losses,
    weighted_squares,
    weighted_tasks,
)
from metapt.objectives.predict import Predict, in_bfloat16, on_features, stateless, whole
from metapt.objectives.start_point import StartPoint, fisher_diagonal, with_start_point
from metapt.objectives.supervised import accuracy, cross_entropy, squared_error, weighted_cross_entropy
from metapt.objectives.wrappers import (
    half_square_from_start,
    mean_over_tasks,
    on_context,
    on_view,
    together,
    with_l2,
    with_penalties,
    with_teacher,
)

__all__ = [
    "Predict",
    "StartPoint",
    "Target",
    "accuracy",
    "auroc",
    "balanced_tasks",
    "binary_tasks",
    "bootstrap",
    "contrastive",
    "cross_entropy",
    "fisher_diagonal",
    "follow",
    "half_square_from_start",
    "in_bfloat16",
    "mean_over_tasks",
    "nt_xent",
    "on_context",
    "on_features",
    "on_view",
    "squared_error",
    "stateless",
    "task_losses",
    "together",
    "unit",
    "weighted_cross_entropy",
    "weighted_squares",
    "weighted_tasks",
    "whole",
    "with_l2",
    "with_penalties",
    "with_start_point",
    "with_teacher",
]
