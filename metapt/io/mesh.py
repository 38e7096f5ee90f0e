"""An experiment over many devices: seeds along one axis of a mesh, the examples of a batch along the other."""

import functools
import math
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metapt.data import shard_batches
from metapt.io.errors import UserError
from metapt.io.experiment import Draw, Experiment

AXES = ("seeds", "data")


def parse_mesh(text: str) -> Mesh:
    """`seeds=4,data=2`: the first devices of this machine, as a mesh with the axes that are named.

    Raises:
        UserError: in one line, for another text or too few devices.

    Example:
        >>> dict(parse_mesh("seeds=1,data=1").shape)
        {'seeds': 1, 'data': 1}
    """
    parts = [re.fullmatch(r"(\w+)=([1-9]\d*)", part) for part in text.split(",")]
    sizes = {part[1]: int(part[2]) for part in parts if part}
    if not all(parts) or len(sizes) != len(parts) or set(sizes) - set(AXES):
        raise UserError(f"--mesh {text}: give devices along {' or '.join(AXES)}, for example seeds=4 or seeds=4,data=2")
    devices, wanted = jax.devices(), math.prod(sizes.values())
    if wanted > len(devices):
        raise UserError(
            f"--mesh {text} needs {wanted} devices, and there are {len(devices)} ({jax.default_backend()}); processors can "
            f"stand in for them: XLA_FLAGS=--xla_force_host_platform_device_count={wanted} JAX_PLATFORMS=cpu"
        )
    return Mesh(np.array(devices[:wanted]).reshape(*sizes.values()), tuple(sizes))


def seed_sharding(mesh: Mesh | None) -> NamedSharding | None:
    """Of arrays with a leading seed axis: spread over the mesh's axis `"seeds"`, the same along `"data"`."""
    if mesh is None:
        return None
    return NamedSharding(mesh, PartitionSpec(*(axis for axis in mesh.axis_names if axis == "seeds")))


def seed_devices(mesh: Mesh | None) -> int:
    """How many devices the seeds are spread over."""
    return 1 if mesh is None else mesh.shape.get("seeds", 1)


def over_mesh(experiment: Experiment, mesh: Mesh) -> Experiment:
    """The same experiment, its data spread over `mesh` by seed and every batch it draws by example.

    Raises:
        ValueError: if the devices do not divide the seeds, or the examples of a batch.
    """
    seeds, devices = jax.tree.leaves(experiment.data)[0].shape[0], seed_devices(mesh)
    if seeds % devices:
        raise ValueError(f"mesh: {devices} devices along seeds do not divide {seeds} seeds; take a multiple of them")
    one_seed = jax.eval_shape(lambda data: jax.tree.map(lambda x: x[0], data), experiment.data)

    @functools.cache  # one function for all phases of one draw: they share a compiled program
    def sharded(draw: Draw) -> Draw:
        spread = lambda data, key: shard_batches(draw(data, key), mesh)
        jax.eval_shape(spread, one_seed, jax.random.key(0))  # refuses what cannot be cut, before anything runs
        return spread

    over = lambda phase: phase._replace(draw=phase.draw and sharded(phase.draw))
    arms = tuple(arm._replace(phases=tuple(map(over, arm.phases))) for arm in experiment.arms)
    draw = sharded(experiment.draw)
    data, test = jax.device_put((experiment.data, experiment.test), seed_sharding(mesh))
    return experiment._replace(data=data, test=test, draw=draw, arms=arms, mesh=mesh)
