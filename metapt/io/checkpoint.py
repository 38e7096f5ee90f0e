"""Checkpoints by orbax: the arrays of a tree and a small JSON position, whole or absent, the last two kept."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from metapt.types import PyTree


class Checkpoints:
    """`save(number, tree, position)`, `latest()`, `restore(number, like)`."""

    def __init__(self, path: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(path.absolute(), options=options)

    def save(self, number: int, tree: PyTree, position: dict[str, Any]) -> None:
        leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
        arguments = ocp.args.Composite(leaves=ocp.args.StandardSave(leaves), position=ocp.args.JsonSave(position))
        self._manager.save(number, args=arguments)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def position(self, number: int) -> dict[str, Any]:
        return self._manager.restore(number, args=ocp.args.Composite(position=ocp.args.JsonRestore()))["position"]

    def restore(self, number: int, like: PyTree) -> PyTree:
        """The tree, in the structure of `like` (arrays or shapes)."""
        shapes, structure = jax.tree.flatten(like)
        leaves = {str(i): np.empty(leaf.shape, leaf.dtype) for i, leaf in enumerate(shapes)}
        restored = self._manager.restore(number, args=ocp.args.Composite(leaves=ocp.args.StandardRestore(leaves)))[
            "leaves"
        ]
        return jax.tree.unflatten(structure, [restored[str(i)] for i in range(len(shapes))])

    def close(self) -> None:
        self._manager.close()
