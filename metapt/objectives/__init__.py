"""3. What a stage minimises: `(params, context, extra, batch, key) -> (loss, extra)`.

Each is made from `predict(params, context, x)`, so that the same loss serves a whole model and a head on features
that come from the context (`whole`, `on_features`).
"""

from metapt.objectives.multitask import weighted_tasks
from metapt.objectives.predict import Predict, on_features, whole
from metapt.objectives.supervised import accuracy, cross_entropy, weighted_cross_entropy

__all__ = [
    "Predict",
    "accuracy",
    "cross_entropy",
    "on_features",
    "weighted_cross_entropy",
    "weighted_tasks",
    "whole",
]
