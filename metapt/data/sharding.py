"""Batches over many devices: arrays with a sharding, from which XLA works out who computes and who sends what."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metapt.types import Batches, PyTree


def shard_batches(batches: Batches, mesh: Mesh) -> Batches:
    """The same batches, their examples spread over the devices along the mesh's axis `"data"`.

    Leaves of `pretrain` and `finetune` are cut along axis 1 (`[S, B, ...]`), those of `validation` along axis 0
    (`[B, ...]`); what has no such axis is on every device, as is everything if the mesh has no axis `"data"`. A placement
    changes no value: a loss that couples the batch (`objectives.contrastive`) and batch normalisation still see all of it.
    Inside `jit` or outside; the axes of the mesh must be `AxisType.Auto`, as those of `jax.sharding.Mesh` are.

    Raises:
        ValueError: if the devices do not divide a batch.

    Example:
        >>> mesh = Mesh(jax.devices()[:1], ("data",))
        >>> sharded = shard_batches(Batches(np.zeros((5, 8, 3)), np.zeros((2, 4)), np.zeros(6)), mesh)
        >>> tuple(sharded.pretrain.sharding.spec), tuple(sharded.validation.sharding.spec)
        ((None, 'data'), ('data',))
    """
    _check(mesh)
    return _spread(lax.with_sharding_constraint, batches, mesh, mesh)


def from_hosts(batches: Batches, mesh: Mesh) -> Batches:
    """Global batches from the rows that each process has read: `B / processes` of every batch of B.

    A row of each leaf is on the devices of the process that read it, and nowhere else. On one process the values are those
    of `shard_batches`. A leaf without an axis of examples has to be the same in every process.

    Raises:
        ValueError: if this process's devices do not divide its rows.

    Example:
        >>> mesh = Mesh(jax.devices()[:1], ("data",))
        >>> from_hosts(Batches(np.zeros((5, 8, 3)), np.zeros((2, 4)), np.zeros(6)), mesh).pretrain.shape
        (5, 8, 3)
    """
    _check(mesh)
    place = lambda leaf, sharding: jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
    return _spread(place, batches, mesh, mesh.local_mesh)


def _check(mesh: Mesh) -> None:
    if not isinstance(mesh, (Mesh, jax.sharding.AbstractMesh)):
        raise ValueError(
            f"mesh: found {type(mesh).__name__}, but must be a jax.sharding.Mesh, for example "
            'Mesh(jax.devices(), ("data",))'
        )


def _spread(place: Callable[[Array, NamedSharding], Array], batches: Batches, mesh: Mesh, dividing: Mesh) -> Batches:
    devices = dividing.shape.get("data", 1)

    def spread(name: str, part: PyTree, axis: int) -> PyTree:
        def one(leaf):
            if "data" not in mesh.axis_names or leaf.ndim <= axis:
                return place(leaf, NamedSharding(mesh, PartitionSpec()))
            if leaf.shape[axis] % devices:
                raise ValueError(
                    f"mesh: {devices} devices along data do not divide the {leaf.shape[axis]} examples of a {name} batch; "
                    "take a size that is a multiple of them, or fewer devices"
                )
            return place(leaf, NamedSharding(mesh, PartitionSpec(*[None] * axis, "data")))

        return jax.tree.map(one, part)

    return Batches(*(spread(*part) for part in zip(Batches._fields, batches, (1, 1, 0), strict=True)))
