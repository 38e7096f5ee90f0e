"""Published methods: each composes pieces of the other folders and adds nothing of its own."""

from metapt.recipes import (
    augmentation,
    cotraining,
    example_weights,
    fomaml,
    gradient_cosine,
    imaml,
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
    "augmentation",
    "cotraining",
    "example_weights",
    "fomaml",
    "gradient_cosine",
    "imaml",
    "maml",
    "reptile",
    "simclr_augmentation",
    "task_weights",
]
