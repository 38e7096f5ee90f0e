"""Which of 400 gene sets are worth pre-training on? Graph networks on protein interactions in tissues of the brain.

    metapt run ppi_tissues --data FOLDER

FOLDER holds ppi_brain_tissues.npz; without it METAPT_DATA is read. Pre-training: 400 gene sets (cellular components,
molecular functions, pathways) of the genes of four tissues. Fine-tuning: 50 rare hallmark gene sets of part of these
genes. Test: genes that were never seen with a label, in tissues that were never seen. Arms: no pre-training (`none`),
equal weights (`equal`), all tasks trained together from the start (`cotrain`, and with gradient surgery
`cotrain_pcgrad`), random weights (`random`), weights from single gradients (`cosine`), weights learned while pre-training
proceeds (`meta`), pre-training afresh with them (`replay`). Curves come from further genes in the tissues of pre-training;
the test genes are read once, at the end.

About half an hour on one CPU core. Expected: none 0.580, equal 0.627, meta 0.638, replay 0.639, cotrain_pcgrad 0.644
(docs/graphs.md).
Planted negative transfer, half of the tasks with shuffled labels: --shuffled 0.5 (equal 0.620, meta 0.630, replay 0.634)
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from _common import stack
from _graphs import GraphConfig, Problem, each_run, graph_experiment, plant_tasks

from metapt import data, models, objectives, recipes
from metapt.io.experiment import Experiment
from metapt.models.graphs import Convolution

METHOD = recipes.task_weights.METHOD


@dataclass(frozen=True)
class Config(GraphConfig):
    """Every field can be set on the command line."""

    convolution: Convolution = "gcn"
    """Kind of message passing."""
    labelled_share: float = 0.36
    """Share of the genes that are labelled for fine-tuning; meta-learning validates on random halves of them."""
    monitor_share: float = 0.1
    """Share of the genes for the curves."""
    test_share: float = 0.3
    """Share of the genes for the test."""
    pretrain_tissues: int = 4
    """Tissues to pre-train and fine-tune on; the test is on the others."""

    def __post_init__(self):
        super().__post_init__()
        if self.pretrain_tissues > 6:
            raise ValueError(f"pretrain_tissues={self.pretrain_tissues} must be at most 6 (of 7)")


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    tissues = data.ppi_tissues(config.data)
    genes = len(tissues.y_pretrain)
    room = genes, int(np.diff(tissues.graphs.edge_start).max())
    graphs = jax.tree.map(jnp.asarray, tissues.graphs)
    expressed = jnp.asarray(tissues.expressed)
    encoder = models.graph_network(
        tissues.graphs.nodes.shape[1], 0, config.width, config.layers, config.convolution, "node", config.dropout
    )
    labels = lambda y, tissue: jnp.where(expressed[tissue][:, None], y, data.ABSENT)
    graph = lambda tissue: graphs.batch(tissue[None], *room)

    def draw(arrays, part, key, steps, fold):
        of = jax.random.choice(key, arrays["tissues"], (steps,))
        y = arrays[part] if part == "pretrain" else jnp.where(fold[:, None], arrays[part], data.ABSENT)
        return jax.vmap(graph)(of), jax.vmap(lambda tissue: labels(y, tissue))(of)

    batch = lambda arrays, item: (graph(item["tissue"]), labels(item["y"], item["tissue"]))
    score = lambda logits, y: jnp.nanmean(jax.vmap(objectives.auroc)(logits, y), axis=0)
    arrays, test = _arrays(config, tissues)
    problem = Problem(
        encoder, config.width, draw, genes, batch, score, arrays, test, tissues.family, tissues.family_names
    )
    return graph_experiment(config, problem)


def _arrays(config: Config, tissues: data.Tissues):
    """One split of genes and tissues a run, stacked; test apart. A gene's labels are absent where it plays no part."""
    genes, classes = tissues.y_finetune.shape
    only = lambda y, kept: np.where(np.isin(np.arange(genes), kept)[:, None], y, data.ABSENT)
    y = tissues.y_finetune
    items = lambda rows, tissues: {"tissue": tissues, "y": np.repeat(only(y, rows)[None], len(tissues), axis=0)}
    runs, tests = [], []
    for run in each_run(config, classes):
        sizes = {name: round(getattr(config, f"{name}_share") * genes) for name in ("labelled", "monitor", "test")}
        rows = data.split(run.splits, genes, sizes)
        seen, unseen = np.split(run.splits.permutation(len(tissues.expressed)), [config.pretrain_tissues])
        y_pretrain = plant_tasks(config, run, tissues.y_pretrain)
        hidden = np.union1d(rows["test"], rows["monitor"])
        runs.append(
            {
                "tissues": seen,
                "pretrain": only(y_pretrain, np.setdiff1d(np.arange(genes), hidden)),
                "labelled": only(y, rows["labelled"]),
                "seen": only(y, run.seen(rows["labelled"])),
                "labelled_items": items(rows["labelled"], seen),
                "monitor": items(rows["monitor"], seen),
                **run.masks,
            }
        )
        tests.append(items(rows["test"], unseen))
    return stack(runs), stack(tests)
