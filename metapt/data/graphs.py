"""Graphs: a ragged collection on the device, and padded batches of one static shape gathered from it inside jit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metapt.checks import axes, whole

ABSENT = -1  # a label that was not measured, or whose example is padding


class Graph(NamedTuple):
    """A padded batch: N node slots, E directed edge slots, G graphs.

    A padding node belongs to graph G, a padding edge points to node N: sums over segments leave both out.
    """

    nodes: Array  # [N, F]
    edges: Array  # [E, H]
    senders: Array  # int [E]
    receivers: Array  # int [E]
    graph: Array  # int [N]: whose node it is
    centre: Array  # int [G]: the node that the graph is about
    present: Array  # bool [G]: False if the graph did not fit

    @property
    def real(self) -> Array:
        """`[..., N]`: False for padding."""
        return self.graph < self.centre.shape[-1]


class GraphSet(NamedTuple):
    """M graphs of different sizes, their nodes and directed edges one after the other."""

    nodes: np.ndarray | Array  # [sum of nodes, F]
    node_start: np.ndarray | Array  # int [M + 1]: graph m has the nodes node_start[m] : node_start[m + 1]
    edges: np.ndarray | Array  # [sum of edges, H]
    ends: np.ndarray | Array  # int [sum of edges, 2]: sender and receiver, counted inside the graph
    edge_start: np.ndarray | Array  # int [M + 1]
    centre: np.ndarray | Array  # int [M], counted inside the graph

    def batch(self, index: Array, nodes: int, edges: int) -> Graph:
        """The graphs `index` `[G]` in `nodes` and `edges` slots. Those that no longer fit are left out, the last first.

        An index below 0 is a graph that is not there. Nothing returns to the host and all batches have one shape, so
        nothing is compiled twice.

        Example:
            >>> two = undirected([np.eye(2), np.eye(3)[:, :2]], [[[0, 1]], [[0, 1], [1, 2]]])
            >>> graph = two.batch(jnp.array([1, 0]), nodes=6, edges=8)
            >>> graph.graph.tolist(), graph.receivers.tolist()
            ([0, 0, 0, 1, 1, 2], [1, 0, 2, 1, 4, 3, 6, 6])
        """
        node_of, node_row, node_first, node_fits = _slots(self.node_start, index, nodes)
        edge_of, edge_row, _, edge_fits = _slots(self.edge_start, index, edges)
        present = node_fits & edge_fits & (index >= 0)
        kept = jnp.append(present, False)  # and padding
        shift = jnp.append(node_first, 0)[edge_of]
        senders, receivers = (jnp.asarray(self.ends)[edge_row] + shift[:, None]).T
        return Graph(
            nodes=jnp.asarray(self.nodes)[node_row],
            edges=jnp.asarray(self.edges)[edge_row],
            senders=jnp.where(kept[edge_of], senders, 0),
            receivers=jnp.where(kept[edge_of], receivers, nodes),
            graph=jnp.where(kept[node_of], node_of, len(index)),
            centre=jnp.where(present, node_first + jnp.asarray(self.centre)[index], 0),
            present=present,
        )


def undirected(nodes, pairs, features=None, centre=None) -> GraphSet:
    """A set from lists, one entry a graph: nodes `[n, F]`, pairs `[m, 2]` (each once), their features `[m, H]` (default: none).

    Both directions of a pair become edges, one after the other.

    Raises:
        ValueError: if a pair names a node that is not there.

    Example:
        >>> graphs = undirected(nodes=[np.ones((2, 1)), np.ones((3, 1))], pairs=[[[0, 1]], [[0, 1], [1, 2]]])
        >>> graphs.node_start.tolist(), graphs.ends.tolist()
        ([0, 2, 5], [[0, 1], [1, 0], [0, 1], [1, 0], [1, 2], [2, 1]])
    """
    pairs = [np.asarray(p, np.int32).reshape(-1, 2) for p in pairs]
    for number, (x, p) in enumerate(zip(nodes, pairs, strict=True)):
        if p.size and not 0 <= p.min() <= p.max() < len(x):
            raise ValueError(f"graph {number}: edges name nodes {p.min()}..{p.max()}, but must stay in 0..{len(x) - 1}")
    features = [np.zeros((len(p), 0), np.float32) for p in pairs] if features is None else features
    start = lambda parts, times: np.cumsum([0, *(times * len(part) for part in parts)], dtype=np.int32)
    return GraphSet(
        nodes=np.concatenate(nodes),
        node_start=start(nodes, 1),
        edges=np.repeat(np.concatenate(features), 2, axis=0),
        ends=np.stack([both := np.concatenate(pairs), both[:, ::-1]], axis=1).reshape(-1, 2),
        edge_start=start(pairs, 2),
        centre=np.zeros(len(pairs), np.int32) if centre is None else np.asarray(centre, np.int32),
    )


def slots(graphs: GraphSet, size: int, slack: float = 1.2) -> tuple[int, int]:
    """Node and edge slots for batches of `size` random graphs: `slack` times what they need on average, and room for the largest.

    Example:
        >>> slots(undirected([np.ones((2, 1)), np.ones((4, 1))], [[[0, 1]], [[0, 1]]]), size=10)
        (36, 24)
    """
    counts = np.diff(np.asarray(graphs.node_start)), np.diff(np.asarray(graphs.edge_start))
    nodes, edges = (max(int(np.ceil(slack * size * n.mean())), int(n.max()), 1) for n in counts)
    return nodes, edges


def misplaced_centres(graph: Graph) -> Graph:
    """The central nodes counted in their own graph but looked up in the batch: they point into its first graphs.

    So pre-trained the paper's code, and Hu et al.'s before it; to measure what that costs.

    Example:
        >>> two = undirected([np.ones((2, 1))] * 2, [[[0, 1]]] * 2, centre=[1, 1]).batch(jnp.array([0, 1]), nodes=4, edges=4)
        >>> two.centre.tolist(), misplaced_centres(two).centre.tolist()
        ([1, 3], [1, 1])
    """
    first = jnp.searchsorted(graph.graph, jnp.arange(len(graph.centre)))
    return graph._replace(centre=jnp.where(graph.present, graph.centre - first, 0))


def in_batches(graphs: GraphSet, rows: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """All of `rows`, in order, as batches of `size` (-1 where the last is not full), and the slots that the largest takes.

    Args:
        rows: int `[..., R]`; an entry below 0 is a graph that is not there.

    Returns:
        Indices `[..., batches, size]`, and room for `GraphSet.batch`: no graph is left out.

    Example:
        >>> index, room = in_batches(undirected([np.ones((2, 1)), np.ones((4, 1))], [[[0, 1]], []]), np.array([1, 0, 1]), 2)
        >>> index.tolist(), room
        ([[1, 0], [1, -1]], (6, 2))
    """
    rows, size = np.asarray(rows), whole("in_batches: size", size)
    axes("in_batches: rows", rows, max(rows.ndim, 1), integer=True)
    missing = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % size)]
    index = np.pad(rows, missing, constant_values=ABSENT).reshape(*rows.shape[:-1], -1, size)
    needed = lambda start: int(np.where(index < 0, 0, np.diff(np.asarray(start))[index]).sum(-1).max())
    return index, (max(needed(graphs.node_start), 1), max(needed(graphs.edge_start), 1))


def draw_graphs(
    key: Array,
    graphs: GraphSet,
    rows: Array,
    y: Array,
    steps: int,
    size: int,
    room: tuple[int, int],
    wanted: Array | None = None,
):
    """`steps` batches of `size` random graphs among `rows`: `(Graph, y)` with leaves `[steps, ...]`, y `[steps, size, T]`.

    Labels of graphs that did not fit into the slots (`room`) are `ABSENT`.

    Args:
        rows: int `[R]`, at least one.
        wanted: bool, one a row: only these are drawn. If there are none, all labels are `ABSENT`.

    Example:
        >>> graphs = undirected([np.ones((2, 1)), np.ones((3, 1))], [[[0, 1]], [[0, 1], [1, 2]]])
        >>> rows, y, room = jnp.array([0, 1]), jnp.array([[0], [1]]), slots(graphs, 4)
        >>> batches, labels = draw_graphs(jax.random.key(0), graphs, rows, y, steps=10, size=4, room=room)
        >>> batches.present.shape, labels.shape
        ((10, 4), (10, 4, 1))
    """
    axes("draw_graphs: rows", rows, 1, integer=True)
    axes("draw_graphs: y", y, 2)
    if not len(rows) or not len(y):
        raise ValueError(f"draw_graphs: {len(rows)} rows, {len(y)} rows of labels; there must be at least one of both")
    if wanted is None:
        chosen = jax.random.randint(key, (steps, size), 0, len(rows))
        usable = jnp.array(True)
    else:
        chosen = jax.random.choice(key, len(rows), (steps, size), p=wanted / jnp.maximum(wanted.sum(), 1))
        usable = wanted[chosen]
    graph = jax.vmap(lambda i: graphs.batch(i, *room))(rows[chosen])
    return graph, jnp.where((graph.present & usable)[..., None], y[rows[chosen]], ABSENT)


def _slots(start, index: Array, size: int):
    """For every slot: whose it is (`len(index)`: nobody's) and its row; for every graph: its first slot, and whether it fits."""
    start = jnp.asarray(start)
    ends = jnp.cumsum(jnp.where(index < 0, 0, start[index + 1] - start[index]))
    first = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    slot = jnp.arange(size)
    owner = jnp.searchsorted(ends, slot, side="right")
    taken = jnp.minimum(owner, len(index) - 1)
    row = jnp.where(owner < len(index), start[index][taken] + slot - first[taken], 0)
    return owner, row, first, ends <= size
