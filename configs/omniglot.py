"""From which initialisation do a few steps learn five new characters from one drawing each? Omniglot, 5-way 1-shot.

    metapt run omniglot --data PATH

PATH is `omniglot28.npz` (six alphabets, 160 characters, twenty drawings of each, 14 x 14 pixels here) or its folder. Characters
for meta-learning, for the curves and for the result are disjoint, drawn anew for each seed. Every arm ends with parameters of
one small network (two hidden layers of 64 tanh units), from which new tasks are trained for the same few steps: `scratch`
(random), `joint` (pre-trained to tell all training characters, with a new head), `maml`, `fomaml`, `reptile`, `imaml`,
the last also solved with the Gauss-Newton matrix (`imaml_gauss_newton`) and not at all (`imaml_identity`).

One to two minutes on one CPU core. `scratch` reaches 0.46, `imaml_identity` 0.05 above, `joint`, `reptile` and
`imaml_gauss_newton` 0.08, `imaml` 0.1, `fomaml` 0.16, `maml` 0.19.
"""

from dataclasses import dataclass

import jax
import numpy as np
from _episodes import EpisodeConfig, Problem, encoder, experiment as compare

from metapt import data, objectives, recipes
from metapt.data import Labelled
from metapt.io.experiment import Experiment

METHOD = recipes.maml.METHOD


@dataclass(frozen=True)
class Config(EpisodeConfig):
    """Every field can be set on the command line."""

    data: str = ""
    """The file, or the folder that holds it; by default what METAPT_DATA names."""
    ways: int = 5
    """Classes of a task."""
    monitor_characters: int = 15
    """For the curves."""
    test_characters: int = 35
    """For the result; all others are for meta-learning."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    examples = characters(config)
    _, count, per_class, _ = examples["train"].shape

    def episodes(examples, key, tasks):
        return data.draw_episodes(key, examples, tasks, config.ways, config.shots, config.queries)

    def joint_batch(examples, key, size):
        row = jax.random.randint(key, (size,), 0, count * per_class)
        return Labelled(examples.reshape(-1, 196)[row], row // per_class)

    problem = Problem(
        encoder=encoder(config, 196),
        outputs=config.ways,
        loss=objectives.cross_entropy,
        score=objectives.accuracy,
        metric=f"accuracy on new characters, {config.ways}-way {config.shots}-shot",
        higher_is_better=True,
        episodes=episodes,
        joint_outputs=count,
        joint_batch=joint_batch,
        joint_keeps=("encoder",),
    )
    return compare(config, problem, examples)


def characters(config) -> dict[str, np.ndarray]:
    """`[seeds, characters, drawings, 196]` to `train`, `monitor` and `test`, disjoint for a seed."""
    drawings = data.omniglot(config.data).x
    count, per_class = drawings.shape[:2]
    small = drawings.reshape(count, per_class, 14, 2, 14, 2).mean((3, 5)).reshape(count, per_class, 196)
    sizes = {"test": config.test_characters, "monitor": config.monitor_characters}
    sizes["train"] = max(1, count - sum(sizes.values()))
    splits = [data.split(np.random.default_rng([config.seed, seed]), count, sizes) for seed in range(config.seeds)]
    return {part: np.stack([small[of[part]] for of in splits]) for part in sizes}
