"""What a config hands to the runner: arms that start, step and end with an encoder, and two ways to judge that encoder."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from matplotlib.figure import Figure

from metapt.algorithm import Algorithm
from metapt.io.errors import UserError
from metapt.types import Batches, PyTree, Rule

Step = Callable[[PyTree, Batches, Array], tuple[PyTree, PyTree]]
Draw = Callable[[PyTree, Array], Batches]  # (data, key) -> the batches of one outer step


class Phase(NamedTuple):
    """A number of outer steps by one step function."""

    steps: int
    step: Step
    cost: int = 0  # gradient evaluations of one outer step (`io.cost`)
    draw: Draw | None = None  # if other batches than the experiment's


class Arm(NamedTuple):
    """One row of the result, written for one seed; the runner maps it over seeds."""

    name: str
    init: Callable[[Array, PyTree, Mapping[str, PyTree]], PyTree]  # (key, data, exports of earlier arms) -> state
    phases: tuple[Phase, ...]
    export: Callable[[PyTree], dict[str, PyTree]]  # state -> {"encoder": ..., and what later arms or plots need}
    compose: Callable[[Rule], Algorithm] | None = None  # the arm's algorithm by another rule, for `metapt doctor`


class Experiment(NamedTuple):
    """Everything the runner needs. Leaves of `data` and `test` have a leading seed axis."""

    metric: str
    higher_is_better: bool
    data: PyTree  # all but the test set
    test: PyTree  # read once, by the final evaluation
    draw: Draw
    arms: tuple[Arm, ...]
    monitor: Callable[
        [PyTree, PyTree, Array], Array
    ]  # (encoder, data, key) -> metric, on held-out data that is not the test set
    evaluate: Callable[[PyTree, PyTree, PyTree, Array], Array]  # (encoder, data, test, key) -> metric
    # A metric is a number, or one a part (a task) `[parts]`: their mean counts, NaN where a part cannot be judged.
    baseline: str  # the arm that every other is compared with
    summarize: Callable[["Outcome"], dict[str, Any]]  # the recipe's own figures, for result.json's "meta"
    plots: Callable[["Outcome"], dict[str, Figure]]
    seeds_together: bool = True  # False: one after the other, where memory traffic makes them slower side by side
    mesh: Mesh | None = None  # the devices that data and batches are spread over (`io.mesh.over_mesh`)


class Outcome(NamedTuple):
    """What a finished run knows, as numpy arrays with a leading seed axis."""

    scores: dict[str, Any]  # arm -> [seeds], on the test set
    exports: dict[str, Any]  # arm -> what `Arm.export` gave
    curves: dict[str, list[tuple[int, list[float]]]]  # arm -> [(outer steps done, metric by seed)]
    infos: dict[str, dict[str, list]]  # arm -> name of a logged figure -> [outer steps][seeds]
    parts: dict[str, Any]  # arm -> [seeds, parts], the metric by part


def check_data(data: PyTree) -> None:
    """Refuses data without one common seed axis, empty data, and numbers that are not finite. The test set is not looked at.

    Raises:
        UserError: with the name of the array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(data)
    seeds = {leaf.shape[0] if leaf.ndim else None for _, leaf in leaves}
    if len(seeds) != 1 or None in seeds:
        raise UserError(f"data: every array must have the same leading seed axis, found {sorted(map(str, seeds))}")
    for path, leaf in leaves:
        name = f"data: {jax.tree_util.keystr(path, simple=True, separator='.')}"
        if not leaf.size:
            raise UserError(f"{name} is empty, {list(leaf.shape)}: give it examples, or leave it out")
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all()):
            wrong = int((~jnp.isfinite(leaf)).sum())
            raise UserError(
                f"{name} has {wrong} values of {leaf.size} that are NaN or infinite: drop or mend those examples"
            )
