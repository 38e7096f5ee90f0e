"""Optax-compatible transformations that optax lacks."""

from metapt.optimizers.context import from_context
from metapt.optimizers.group_lasso import group_lasso
from metapt.optimizers.pcgrad import merge, pcgrad, replicate
from metapt.optimizers.reversible import ReversibleState, reversible_sgd

__all__ = ["ReversibleState", "from_context", "group_lasso", "merge", "pcgrad", "replicate", "reversible_sgd"]
