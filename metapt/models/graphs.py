"""Graph networks on padded batches (`data.Graph`): isomorphism networks, graph convolutions, GraphSAGE."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen
from jax import Array

from metapt.data.graphs import Graph
from metapt.models.adapters import from_linen_stateful
from metapt.types import StatefulModel

Convolution = Literal["gin", "gcn", "sage"]
Readout = Literal["node", "mean", "mean_and_centre"]


def graph_network(
    inputs: int,
    edge_inputs: int,
    width: int = 300,
    layers: int = 5,
    convolution: Convolution = "gin",
    readout: Readout = "mean_and_centre",
    dropout: float = 0.2,
) -> StatefulModel:
    """Layers of message passing with batch normalisation; ReLU and dropout between layers, none after the last.

    With x_i the nodes, e_ij the edges' features, N(i) the neighbours, a self-loop counted among them, and E linear:

    - `gin`: `MLP(sum_j [x_j, E e_ij])`, with 2 width hidden units, normalised (Xu et al. 2019; Hu et al. 2020, appendix A)
    - `gcn`: `sum_j (W x_j + E e_ij) / sqrt(d_i d_j)` (Kipf and Welling 2017)
    - `sage`: `z / |z|`, `z = W [x_i, mean_j (x_j + E e_ij)]`, no self-loop (Hamilton et al. 2017)

    The node's features enter through a linear layer; padding takes no part in any statistic.

    Args:
        inputs: features of a node, F.
        edge_inputs: features of an edge, H; may be 0.
        readout: `"node"` gives `[N, width]`; `"mean"` over the nodes of a graph, `[G, width]`; `"mean_and_centre"`
            adds the vector of the graph's central node, `[G, 2 width]`.
        dropout: share of the units dropped between layers, in modes `"batch"` and `"frozen"`.

    Raises:
        ValueError: if a number or a name is not allowed.

    Example:
        >>> from metapt.data import undirected
        >>> pair = undirected([jnp.ones((2, 1))], [[[0, 1]]]).batch(jnp.array([0]), nodes=4, edges=2)
        >>> model = graph_network(inputs=1, edge_inputs=0, width=8, layers=2)
        >>> params, extra = model.init(jax.random.key(0))
        >>> model.apply(params, extra, pair, jax.random.key(1), "batch")[0].shape
        (1, 16)
    """
    if min(inputs, width, layers) < 1 or edge_inputs < 0 or not 0 <= dropout < 1:
        raise ValueError(
            f"graph_network: inputs={inputs}, width={width}, layers={layers} must be at least 1, "
            f"edge_inputs={edge_inputs} at least 0, dropout={dropout} from 0 to below 1"
        )
    for name, value, allowed in (("convolution", convolution, Convolution), ("readout", readout, Readout)):
        if value not in get_args(allowed):
            raise ValueError(f"graph_network: {name}={value!r} is not one of {', '.join(map(repr, get_args(allowed)))}")
    zeros = lambda *shape: jnp.zeros(shape, int)
    example = Graph(jnp.zeros((1, inputs)), jnp.zeros((1, edge_inputs)), *[zeros(1)] * 4, present=jnp.ones(1, bool))
    return from_linen_stateful(_GraphNetwork(width, layers, convolution, readout, dropout), example)


class _GraphNetwork(linen.Module):
    width: int
    layers: int
    convolution: Convolution
    readout: Readout
    dropout: float

    @linen.compact
    def __call__(self, graph: Graph, mode: str) -> Array:
        norm = lambda x: linen.BatchNorm(mode != "batch", momentum=0.9, epsilon=1e-5)(x, mask=graph.real[:, None])
        convolve = {"gin": self._gin, "gcn": self._gcn, "sage": self._sage}[self.convolution]
        x = linen.Dense(self.width)(graph.nodes)
        for layer in range(self.layers):
            x = norm(convolve(graph, x, norm))
            if layer < self.layers - 1:
                x = linen.Dropout(self.dropout, deterministic=mode == "running")(linen.relu(x))
        if self.readout == "node":
            return x
        members = _sum(jnp.ones((len(x), 1)), graph.graph, len(graph.centre))
        mean = _sum(x, graph.graph, len(graph.centre)) / jnp.maximum(members, 1)
        return mean if self.readout == "mean" else jnp.concatenate([mean, x[graph.centre]], axis=1)

    def _gin(self, graph: Graph, x: Array, norm) -> Array:
        # The self-loop is an edge with the features 0: a bias is its embedding.
        edges = linen.Dense(self.width)(_receive(graph, _with_one(graph.edges)))
        received = jnp.concatenate([x + _receive(graph, x[graph.senders]), edges], axis=1)
        hidden = linen.relu(norm(linen.Dense(2 * self.width)(received)))
        return linen.Dense(self.width)(hidden)

    def _gcn(self, graph: Graph, x: Array, norm) -> Array:
        degree = 1 + _degree(graph)
        weight = jax.lax.rsqrt(degree[graph.senders] * degree[graph.receivers])
        x = linen.Dense(self.width)(x)
        return x / degree + _receive(graph, weight * x[graph.senders]) + self._edges(graph, weight)

    def _sage(self, graph: Graph, x: Array, norm) -> Array:
        mean = (_receive(graph, x[graph.senders]) + self._edges(graph, 1.0)) / jnp.maximum(_degree(graph), 1)
        z = linen.Dense(self.width)(jnp.concatenate([x, mean], axis=1))
        return z * jax.lax.rsqrt(jnp.sum(z**2, axis=1, keepdims=True) + 1e-12)

    def _edges(self, graph: Graph, weight: Array | float) -> Array:
        """The sum over incoming edges of weight * (linear layer of the edge's features): the layer comes after the sum."""
        return linen.Dense(self.width, use_bias=False)(_receive(graph, weight * _with_one(graph.edges)))


def _sum(values: Array, owner: Array, owners: int) -> Array:
    return jax.ops.segment_sum(values, owner, owners)  # what belongs to nobody (an index out of range) is left out


def _with_one(edges: Array) -> Array:
    return jnp.concatenate([edges, jnp.ones((len(edges), 1))], axis=1)


def _receive(graph: Graph, messages: Array) -> Array:
    return _sum(messages, graph.receivers, len(graph.nodes))


def _degree(graph: Graph) -> Array:
    return _receive(graph, jnp.ones((len(graph.senders), 1)))
