"""Published methods: each composes pieces of the other folders and adds nothing of its own."""

from metapt.recipes import (
    augmentation,
    bbse,
    cotraining,
    example_weights,
    fomaml,
    gradient_cosine,
    gradnorm,
    imaml,
    l2_sp,
    maml,
    reptile,
    simclr_augmentation,
    task_weights,
)
from metapt.recipes.method import Initialization, Method, Pieces

METHODS: tuple[Method, ...] = (
    task_weights.METHOD,
    augmentation.METHOD,
    example_weights.METHOD,
    simclr_augmentation.METHOD,
    cotraining.METHOD,
    gradient_cosine.METHOD,
    bbse.METHOD,
    gradnorm.METHOD,
    maml.METHOD,
    fomaml.METHOD,
    reptile.METHOD,
    imaml.METHOD,
    l2_sp.METHOD,
)

__all__ = [
    "METHODS",
    "Initialization",
    "Method",
    "Pieces",
    "augmentation",
    "bbse",
    "cotraining",
    "example_weights",
    "fomaml",
    "gradient_cosine",
    "gradnorm",
    "imaml",
    "l2_sp",
    "maml",
    "reptile",
    "simclr_augmentation",
    "task_weights",
]
