"""metapt: learn the knobs of pre-training by gradient.

The flow, folder by folder:

    data -> models -> objectives -> stages -> (pre-train -> transfer -> fine-tune -> validate) -> hypergrad -> updates

A `Stage` (objective and optimizer) becomes, by a rule of `hypergrad`, a `fit` whose derivative is stated. Fits compose
as ordinary JAX functions, so `jax.grad` of "pre-train, then fine-tune, then validate" is the hypergradient.
"""

from metapt import data, hypergrad, meta, models, objectives, solvers, stages, updates
from metapt.algorithm import Algorithm, AlgorithmInfo, AlgorithmState, meta_pretraining, run
from metapt.doctor import HypergradientCheck, RuleCheck, check_hypergradient
from metapt.types import Batches, Meta, Model, SolveInfo, Stage, StageInfo, StageState, Update

__all__ = [
    "Algorithm",
    "AlgorithmInfo",
    "AlgorithmState",
    "Batches",
    "HypergradientCheck",
    "Meta",
    "Model",
    "RuleCheck",
    "SolveInfo",
    "Stage",
    "StageInfo",
    "StageState",
    "Update",
    "check_hypergradient",
    "data",
    "hypergrad",
    "meta",
    "meta_pretraining",
    "models",
    "objectives",
    "run",
    "solvers",
    "stages",
    "updates",
]
