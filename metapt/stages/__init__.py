"""4. What it is to train: objective + optimizer -> `Stage`; the training loop, written once; what passes between stages."""

from metapt.stages import loop
from metapt.stages.check import assert_differentiable, assert_responsive, assert_stage, depends
from metapt.stages.features import on_encoded
from metapt.stages.stage import move, start, start_model, stationarity_gap, step, step_keys, trainer
from metapt.stages.tasks import given, over_tasks, untouched
from metapt.stages.transfer import (
    transfer_all,
    transfer_encoder,
    transfer_features,
    transfer_meta,
    with_extra,
    with_start,
)

__all__ = [
    "assert_differentiable",
    "assert_responsive",
    "assert_stage",
    "depends",
    "given",
    "loop",
    "move",
    "on_encoded",
    "over_tasks",
    "start",
    "start_model",
    "stationarity_gap",
    "step",
    "step_keys",
    "trainer",
    "transfer_all",
    "transfer_encoder",
    "transfer_features",
    "transfer_meta",
    "untouched",
    "with_extra",
    "with_start",
]
