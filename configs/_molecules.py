"""What the experiments on molecules share: assays to pre-train on, other assays or side effects to fine-tune on."""

from dataclasses import dataclass

import numpy as np
from _graph_sets import GraphSetConfig, Labelled, graph_sets
from _graphs import Run, graph_experiment

from metapt import data, models
from metapt.data.molecules import ATOM_SIZES, BOND_SIZES, Collection
from metapt.io.experiment import Experiment


@dataclass(frozen=True)
class MoleculeConfig(GraphSetConfig):
    """Fields of every experiment on molecules; each can be set on the command line."""

    outer_steps: int = 100
    """Outer steps, warm-up included."""
    finetune_lr: float = 5.0
    """SGD's learning rate in the fine-tuning inside meta-learning, of a loss that is a mean over the tasks."""
    labelled_share: float = 0.2
    """Share of the molecules that are labelled for fine-tuning; meta-learning validates on random halves of them."""
    monitor_share: float = 0.1
    """Share of the molecules for the curves."""
    test_share: float = 0.3
    """Share of the molecules for the test; no part has a scaffold of another."""

    def __post_init__(self):
        super().__post_init__()
        if (total := sum(self.shares.values())) >= 1:
            raise ValueError(f"labelled_share + monitor_share + test_share = {total} must be below 1")

    @property
    def shares(self) -> dict[str, float]:
        return {name: getattr(self, f"{name}_share") for name in ("labelled", "monitor", "test")}


def molecule_experiment(config: MoleculeConfig, name: Collection) -> Experiment:
    """Pre-training on ToxCast, fine-tuning on the collection `name`."""
    source, target = data.molecules("toxcast", config.data), data.molecules(name, config.data)
    encoder = models.graph_network(
        sum(ATOM_SIZES), sum(BOND_SIZES), config.width, config.layers, config.convolution, "mean", config.dropout
    )
    of_source, of_target = data.molecule_hash(source.graphs), data.molecule_hash(target.graphs)

    def parts(run: Run) -> dict[str, np.ndarray]:
        # First a part for nobody, as the first takes the molecules without rings, a quarter of Tox21.
        shares = {"unlabelled": 1 - sum(config.shares.values())} | config.shares
        rows = data.scaffold_split(run.splits, target.scaffold, shares)
        judged = of_target[np.concatenate([rows["monitor"], rows["test"]])]
        return rows | {"pretrain": np.flatnonzero(~np.isin(of_source, judged))}  # no molecule that is judged

    def expand(graph: data.Graph) -> data.Graph:
        return graph._replace(nodes=data.one_hot(graph.nodes, ATOM_SIZES), edges=data.one_hot(graph.edges, BOND_SIZES))

    family_names, family = np.unique([task.split("_")[0] for task in source.task_names], return_inverse=True)
    problem = graph_sets(
        config,
        encoder,
        config.width,
        Labelled(source.graphs, source.y, source.scaffold),
        Labelled(target.graphs, target.y, target.scaffold),
        parts,
        expand,
        family,
        tuple(map(str, family_names)),
    )
    return graph_experiment(config, problem)
