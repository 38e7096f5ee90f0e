"""Which of 5,000 protein functions are worth pre-training on? The paper's own experiment, on the data of Hu et al. 2020.

    metapt run hu_bio --data FOLDER

FOLDER holds the unpacked bio_dataset.zip (2 GB, http://snap.stanford.edu/gnn-pretrain/data/bio_dataset.zip), which is
converted once, or the hu_bio.npz made from it. Pre-training: 5,000 coarse functions of the proteins of seven species and
of half of the human ones. Fine-tuning: 40 fine functions of the other species' proteins. Test: the other half of the human
proteins, never seen (`--test easy`: the half that was pre-trained on). Arms as in ppi_tissues.

The paper's settings, for one large GPU: isomorphism network of 5 layers and width 300, 275,000 steps of pre-training. The
paper reports an area of 78.6 for learned and 74.7 for equal weights; with these data nobody has run this config yet.
Each seed keeps its own copy of the data on the device, about 2 GB.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from _common import RuleName
from _graph_sets import GraphSetConfig, Labelled, graph_sets
from _graphs import graph_experiment

from metapt import data, models, recipes
from metapt.io.experiment import Experiment

METHOD = recipes.task_weights.METHOD


@dataclass(frozen=True)
class Config(GraphSetConfig):
    """Every field can be set on the command line."""

    seeds: int = 5
    """Independent runs: initial parameters and batches differ, the split is that of Hu et al."""
    outer_steps: int = 27500
    """Outer steps, warm-up included."""
    warm_up: int = 275
    """Outer steps before learning begins."""
    pretrain_steps: int = 10
    """P, pre-training steps of an outer step."""
    rule: RuleName = "implicit"
    """How pre-training is differentiated: through the P steps of an outer step, or implicitly as in the paper."""
    neumann_terms: int = 1
    """Terms of the inverse-Hessian series beyond the first."""
    pretrain_lr: float = 1e-3
    """Adam's learning rate in pre-training: Hu et al.'s (the paper's code has 1e-4)."""
    finetune_lr: float = 1.0
    """SGD's learning rate in the fine-tuning inside meta-learning, of a loss that is a mean over the tasks."""
    final_steps: int = 10000
    """Steps of the final fine-tuning."""
    final_lr: float = 1e-4
    """Adam's learning rate for the network in the final fine-tuning, if all of it is trained."""
    head_lr: float = 1e-4
    """Adam's learning rate for the head in the final fine-tuning."""
    width: int = 300
    """Of every layer."""
    layers: int = 5
    """Of message passing."""
    batch: int = 32
    """Graphs in a pre-training batch."""
    finetune_batch: int = 32
    """Graphs in a fine-tuning or validation batch."""
    test: Literal["hard", "easy"] = "hard"
    """The human proteins to be judged on: those never seen, or those that were pre-trained on."""
    monitor_share: float = 0.2
    """Share of the validation proteins that is set aside for the curves."""


def experiment(config: Config) -> Experiment:
    """The arms of the comparison."""
    proteins = data.hu_bio(config.data)
    relations = proteins.graphs.edges.shape[1]
    encoder = models.graph_network(
        proteins.graphs.nodes.shape[1],
        relations,
        config.width,
        config.layers,
        config.convolution,
        "mean_and_centre",
        config.dropout,
    )
    split = data.species_split(proteins.species)
    held = np.random.default_rng(0).permutation(split["finetune_validation"])
    cut = max(1, round(config.monitor_share * len(held)))
    rows = {
        "pretrain": split["pretrain"],
        "labelled": np.concatenate([split["finetune_train"], held[cut:]]),
        "monitor": held[:cut],
        "test": split[f"test_{config.test}"],
    }
    proteins_apart = np.arange(len(proteins.species))
    problem = graph_sets(
        config,
        encoder,
        2 * config.width,
        Labelled(proteins.graphs, proteins.y_pretrain, proteins_apart),
        Labelled(proteins.graphs, proteins.y_finetune, proteins_apart),
        parts=lambda run: rows,
        expand=lambda graph: graph._replace(edges=graph.edges.astype(jnp.float32)),
        family=np.zeros(proteins.y_pretrain.shape[1], int),
        family_names=("functions",),
    )
    return graph_experiment(config, problem)
