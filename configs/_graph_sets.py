"""What the experiments on sets of graphs share: whose graphs are in which part, and batches of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _common import stack
from _graphs import GraphConfig, Problem, Run, each_run, plant_tasks

from metapt import data, objectives
from metapt.types import StatefulModel


@dataclass(frozen=True)
class GraphSetConfig(GraphConfig):
    """Fields of every experiment on sets of graphs; each can be set on the command line."""

    batch: int = 64
    """Graphs in a pre-training batch."""
    finetune_batch: int = 256
    """Graphs in a fine-tuning or validation batch."""


class Labelled(NamedTuple):
    """Graphs and their labels."""

    graphs: data.GraphSet
    y: np.ndarray  # [M, T]
    group: np.ndarray  # int [M]: graphs of one number are never parted


def graph_sets(
    config: GraphSetConfig,
    encoder: StatefulModel,
    features: int,
    source: Labelled,
    target: Labelled,
    parts: Callable[[Run], Mapping[str, np.ndarray]],
    expand: Callable[[data.Graph], data.Graph],
    family: np.ndarray,
    family_names: tuple[str, ...],
) -> Problem:
    """Pre-training on graphs of `source`, fine-tuning on graphs of `target`.

    Args:
        parts: rows of `source` in "pretrain", of `target` in "labelled", "monitor" and "test".
        expand: numbers for the network, from a batch as it is stored.
    """
    room = data.slots(source.graphs, config.batch)
    finetune_room = data.slots(target.graphs, config.finetune_batch)

    number, group = np.unique(target.group, return_inverse=True)

    def draw(arrays, part, key, steps, fold):
        if part == "pretrain":
            graph, y = data.draw_graphs(
                key, arrays["source"], arrays[part], arrays["y_pretrain"], steps, config.batch, room
            )
        else:
            wanted = fold[arrays["group"][arrays[part]]]
            chosen = arrays["y_finetune"], steps, config.finetune_batch, finetune_room
            graph, y = data.draw_graphs(key, arrays["target"], arrays[part], *chosen, wanted)
        if part == "pretrain" and config.as_published:
            graph = jax.vmap(data.misplaced_centres)(graph)
        return expand(graph), y

    runs, whole = zip(*_runs(config, source, target, parts), strict=True)
    # Parts differ in size from run to run: those to train on are repeated in turn to one length, the others are padded.
    size = max(len(rows) for three in whole for rows in three)
    padded = [[np.pad(rows, (0, size - len(rows)), constant_values=data.ABSENT) for rows in three] for three in whole]
    # [runs, 3, batches, size]
    index, whole_room = data.in_batches(target.graphs, np.array(padded), config.finetune_batch)
    labelled, monitor, test = jnp.moveaxis(jnp.asarray(index), 1, 0)

    def batch(arrays, index):
        graph = arrays["target"].batch(index, *whole_room)
        return expand(graph), jnp.where(graph.present[:, None], arrays["y_finetune"][index], data.ABSENT)

    def score(logits, y):
        return objectives.auroc(*(a.reshape(-1, a.shape[-1]) for a in (logits, y)))

    # The sets go along as data: as constants of the program, large ones would not compile.
    of_all_runs = lambda tree: jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (len(runs), *a.shape)), tree)
    sources = of_all_runs(source.graphs)
    targets = sources if target.graphs is source.graphs else of_all_runs(target.graphs)
    arrays = stack(list(runs)) | {
        "source": sources,
        "target": targets,
        "y_finetune": of_all_runs(target.y),
        "group": of_all_runs(group),
        "labelled_items": labelled,
        "monitor": monitor,
    }
    return Problem(encoder, features, draw, len(number), batch, score, arrays, test, family, family_names)


def _runs(config: GraphSetConfig, source: Labelled, target: Labelled, parts) -> Iterator[tuple[dict, list[np.ndarray]]]:
    """Of every run: what training needs, and the rows of "labelled", "monitor" and "test"."""
    for run in each_run(config, target.y.shape[1]):
        rows = parts(run)
        yield (
            {
                "pretrain": np.resize(rows["pretrain"], len(source.y)),
                "labelled": np.resize(rows["labelled"], len(target.y)),
                "seen": np.resize(run.seen(rows["labelled"]), len(target.y)),
                "y_pretrain": plant_tasks(config, run, source.y),
                **run.masks,
            },
            [rows["labelled"], rows["monitor"], rows["test"]],
        )
