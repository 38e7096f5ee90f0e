"""3. What a stage minimises: `(params, context, extra, batch, key) -> (loss, extra)`.

Each is made from `predict(params, context, x)`, so that the same loss serves a whole model and a head on features
that come from the context (`whole`, `on_features`). Wrappers add to it: a view of the batch, a penalty, a teacher.
"""

from metapt.objectives.multitask import weighted_tasks
from metapt.objectives.predict import Predict, on_features, whole
from metapt.objectives.supervised import accuracy, cross_entropy, weighted_cross_entropy
from metapt.objectives.wrappers import on_view, with_l2, with_teacher

__all__ = [
    "Predict",
    "accuracy",
    "cross_entropy",
    "on_features",
    "on_view",
    "weighted_cross_entropy",
    "weighted_tasks",
    "whole",
    "with_l2",
    "with_teacher",
]
