"""Published methods: each composes pieces of the other folders and adds nothing of its own."""

from metapt.recipes import (
    augmentation,
    bbse,
    cotraining,
    example_weights,
    gradient_cosine,
    gradnorm,
    simclr_augmentation,
    task_weights,
)
from metapt.recipes.method import Method, Pieces

METHODS: tuple[Method, ...] = (
    task_weights.METHOD,
    augmentation.METHOD,
    example_weights.METHOD,
    simclr_augmentation.METHOD,
    cotraining.METHOD,
    gradient_cosine.METHOD,
    bbse.METHOD,
    gradnorm.METHOD,
)

__all__ = [
    "METHODS",
    "Method",
    "Pieces",
    "augmentation",
    "bbse",
    "cotraining",
    "example_weights",
    "gradient_cosine",
    "gradnorm",
    "simclr_augmentation",
    "task_weights",
]
