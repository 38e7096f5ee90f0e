"""From which initialisation do a few steps learn a new sinusoid from ten points? Needs no data.

    metapt run sinusoids

A task is `y = a sin(x - b)`, a in [0.1, 5] and b in [0, pi], x in [-5, 5]. Every arm ends with parameters of one small network
(two hidden layers of 40 tanh units), from which new tasks are trained for the same few steps: `scratch` (random), `joint`
(trained on points of all tasks at once, which are nearly 0 on average), `maml`, `fomaml`, `reptile`, `imaml`,
the last also solved with the Gauss-Newton matrix (`imaml_gauss_newton`) and not at all (`imaml_identity`).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from _episodes import EpisodeConfig, Problem, encoder, experiment as compare

from metapt import data, objectives, recipes
from metapt.data import Labelled
from metapt.io.experiment import Experiment

METHOD = recipes.maml.METHOD


@dataclass(frozen=True)
class Config(EpisodeConfig):
    """Every field can be set on the command line."""

    shots: int = 10
    """Points that a task is trained on."""
    queries: int = 10
    """Further points that it is judged by."""
    hidden: int = 40
    """Width of both hidden layers."""
    task_lr: float = 0.02
    """Learning rate in a task's training (SGD)."""
    proximal_lr: float = 0.02
    """Learning rate in the training of a task that is held near the initialisation."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""

    def episodes(_, key, tasks):
        return data.draw_sinusoids(key, tasks, config.shots, config.queries)

    def joint_batch(_, key, size):
        return Labelled(*(a[:, 0] for a in data.draw_sinusoids(key, size, 1, 1).support))

    problem = Problem(
        encoder=encoder(config, 1),
        outputs=1,
        loss=objectives.squared_error,
        score=lambda outputs, y: jnp.mean((outputs - y) ** 2),
        metric=f"squared error on new sinusoids, {config.shots} points each",
        higher_is_better=False,
        episodes=episodes,
        joint_outputs=1,
        joint_batch=joint_batch,
        joint_keeps=("encoder", "head"),
    )
    return compare(config, problem, dict.fromkeys(("train", "monitor", "test"), np.zeros((config.seeds, 1))))
