"""Published methods: each composes pieces of the other folders and adds nothing of its own."""

from metapt.recipes import (
    augmentation,
    bbse,
    byol,
    cotraining,
    example_weights,
    fomaml,
    gradient_cosine,
    gradnorm,
    imaml,
    maml,
    reptile,
    simclr,
    simclr_augmentation,
    task_weights,
)
from metapt.recipes.method import Initialization, Method, Pieces, Pretraining

METHODS: tuple[Method, ...] = (
    task_weights.METHOD,
    augmentation.METHOD,
    example_weights.METHOD,
    simclr_augmentation.METHOD,
    simclr.METHOD,
    byol.METHOD,
    cotraining.METHOD,
    gradient_cosine.METHOD,
    bbse.METHOD,
    gradnorm.METHOD,
    maml.METHOD,
    fomaml.METHOD,
    reptile.METHOD,
    imaml.METHOD,
)

__all__ = [
    "METHODS",
    "Initialization",
    "Method",
    "Pieces",
    "Pretraining",
    "augmentation",
    "bbse",
    "byol",
    "cotraining",
    "example_weights",
    "fomaml",
    "gradient_cosine",
    "gradnorm",
    "imaml",
    "maml",
    "reptile",
    "simclr",
    "simclr_augmentation",
    "task_weights",
]
