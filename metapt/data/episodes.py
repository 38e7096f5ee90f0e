"""Few-shot tasks, drawn inside jit: N classes of K examples to train on, more of the same classes to judge by; sinusoids."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from metapt.data.digits import Labelled


class Episodes(NamedTuple):
    """T tasks. Support and query share the task's function or classes, and no example."""

    support: Labelled  # [T, B, ...] to train on
    query: Labelled  # [T, Q, ...] to judge by


def draw_episodes(key: Array, examples: Array, tasks: int, ways: int, shots: int, queries: int) -> Episodes:
    """Tasks of `ways` classes out of C, named 0 .. ways - 1 in random order, by `shots` + `queries` drawings of each.

    `examples` are `[C, M, ...]`, M of each class; support is `[T, ways * shots, ...]`, query `[T, ways * queries, ...]`.
    Everything is drawn without replacement. Class splits: give disjoint rows of the examples.

    Raises:
        ValueError: if a number is below 1, C < ways, or M < shots + queries.

    Source: Vinyals et al. 2016, "Matching Networks for One Shot Learning", section 2.2.

    Example:
        >>> support, query = draw_episodes(jax.random.key(0), jnp.zeros((30, 20, 28, 28)), tasks=8, ways=5, shots=1, queries=3)
        >>> support.x.shape, query.y.shape, support.y[0].tolist()
        ((8, 5, 28, 28), (8, 15), [0, 1, 2, 3, 4])
    """
    numbers = {"tasks": tasks, "ways": ways, "shots": shots, "queries": queries}
    small = {name: number for name, number in numbers.items() if number < 1}
    if small:
        raise ValueError(f"draw_episodes: {small} must be at least 1")
    examples = jnp.asarray(examples)
    classes, of_each = examples.shape[:2]
    if classes < ways:
        raise ValueError(f"draw_episodes: ways={ways} must be at most the {classes} classes of the examples")
    if of_each < shots + queries:
        raise ValueError(
            f"draw_episodes: shots={shots} and queries={queries} sum to {shots + queries}, but must to at most the "
            f"{of_each} examples of a class"
        )

    class_key, example_key = jax.random.split(key)
    chosen = _pick(class_key, (tasks, classes), ways)[..., None]
    index = _pick(example_key, (tasks, ways, of_each), shots + queries)

    def part(index: Array) -> Labelled:
        x = examples[chosen, index].reshape(tasks, -1, *examples.shape[2:])
        return Labelled(x, jnp.broadcast_to(jnp.repeat(jnp.arange(ways), index.shape[2]), x.shape[:2]))

    return Episodes(part(index[..., :shots]), part(index[..., shots:]))


def _pick(key: Array, shape: tuple[int, ...], n: int) -> Array:
    """`n` different indices into the last axis, in random order; maps and compiles better than many permutations."""
    return jax.lax.top_k(jax.random.uniform(key, shape), n)[1]


def draw_sinusoids(key: Array, tasks: int, shots: int, queries: int) -> Episodes:
    """Regression of `y = a sin(x - b)`: a in [0.1, 5] and b in [0, pi] of a task, x in [-5, 5], all uniform; x, y `[T, B, 1]`.

    Raises:
        ValueError: if a number is below 1.

    Source: Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", section 5.1

    Example:
        >>> support, query = draw_sinusoids(jax.random.key(0), tasks=3, shots=10, queries=5)
        >>> support.x.shape, query.y.shape
        ((3, 10, 1), (3, 5, 1))
    """
    if min(tasks, shots, queries) < 1:
        raise ValueError(f"draw_sinusoids: tasks={tasks}, shots={shots}, queries={queries} must be at least 1")
    height_key, phase_key, x_key = jax.random.split(key, 3)
    height = jax.random.uniform(height_key, (tasks, 1, 1), minval=0.1, maxval=5.0)
    phase = jax.random.uniform(phase_key, (tasks, 1, 1), maxval=jnp.pi)
    x = jax.random.uniform(x_key, (tasks, shots + queries, 1), minval=-5.0, maxval=5.0)
    whole = Labelled(x, height * jnp.sin(x - phase))
    return Episodes(Labelled(*(a[:, :shots] for a in whole)), Labelled(*(a[:, shots:] for a in whole)))
