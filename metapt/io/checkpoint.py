"""Checkpoints by orbax: the arrays of a tree and a small JSON position, sealed by a checksum, the last two kept."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from metapt.data.files import one_line
from metapt.io.errors import UserError
from metapt.types import PyTree

_log = logging.getLogger("metapt")
Leaves = list[np.ndarray]


class Checkpoints:
    """`save(number, tree, position)`, and `newest`, which passes over what is damaged."""

    def __init__(self, path: Path):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(path.absolute(), options=options)

    def save(self, number: int, tree: PyTree, position: dict[str, Any]) -> None:
        """Whole or absent.

        Raises:
            OSError: if it cannot be written.
        """
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
        sealed = {"position": position, "sha256": _digest(leaves, position)}
        arguments = ocp.args.Composite(leaves=ocp.args.StandardSave(_named(leaves)), position=ocp.args.JsonSave(sealed))
        try:
            self._manager.save(number, args=arguments)
        except OSError:
            raise
        except Exception as error:  # tensorstore's: ValueError, XlaRuntimeError, ...
            raise OSError(f"checkpoint {number}: {one_line(error)}") from error

    def newest(self, logged: int) -> tuple[int, dict[str, Any], Leaves] | None:
        """Number, position and arrays of the newest whole checkpoint; damaged ones are named in a warning, and deleted.

        One whose position is beyond the `logged` bytes of metrics is as good as damaged: what it continues is lost.
        """
        damaged: dict[int, str] = {}
        found = None
        for number in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = number, *self._read(number, logged)
                break
            except Exception as error:  # damage shows as ValueError, KeyError, FileNotFoundError, JSONDecodeError, ...
                damaged[number] = one_line(error)
        for number, reason in damaged.items():
            instead = f"going on from checkpoint {found[0]}" if found else "starting over, as there is no other"
            _log.warning("checkpoint %d is damaged (%.120s): %s", number, reason, instead)
            self._manager.delete(number)
        return found

    def _read(self, number: int, logged: int) -> tuple[dict[str, Any], Leaves]:
        arguments = ocp.args.Composite(leaves=ocp.args.StandardRestore(), position=ocp.args.JsonRestore())
        saved = self._manager.restore(number, args=arguments)
        position, leaves = saved["position"]["position"], saved["leaves"] or {}
        arrays = [np.asarray(leaves[str(i)]) for i in range(len(leaves))]
        if _digest(arrays, position) != saved["position"]["sha256"]:
            raise ValueError("its numbers are not what its checksum says")
        if position["metrics_size"] > logged:
            raise ValueError(f"it continues {position['metrics_size']} bytes of metrics, but there are {logged}")
        return position, arrays

    def close(self) -> None:
        self._manager.close()


def as_tree(leaves: Leaves, like: PyTree) -> PyTree:
    """The arrays of a checkpoint, in the structure of `like` (arrays or shapes).

    Raises:
        UserError: if they do not fit.
    """
    wanted, structure = jax.tree.flatten(like)
    layout = lambda arrays: [(tuple(a.shape), np.dtype(a.dtype)) for a in arrays]
    if layout(leaves) != layout(wanted):
        raise UserError(
            "the checkpoint has arrays of other shapes than the config: the code or config.json changed since; "
            "restore them, or start a new run"
        )
    return jax.tree.unflatten(structure, leaves)


def save_sharded(path: Path, tree: PyTree) -> None:
    """Arrays that are spread over devices, of one process or several, each of which writes what it holds.

    All processes call it, with one path that they all see. For states of one's own loops: a run folder has `Checkpoints`,
    whose arrays go through the memory of one host.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), _named(jax.tree.leaves(tree)))


def restore_sharded(path: Path, like: PyTree) -> PyTree:
    """What `save_sharded` wrote, the same bits on whatever devices `like` is placed on, which may be more or fewer.

    Args:
        like: a tree of that structure, of arrays or of `jax.ShapeDtypeStruct` with a sharding.
    """
    leaves, structure = jax.tree.flatten(like)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(path.absolute(), _named(leaves))
    return jax.tree.unflatten(structure, [found[name] for name in _named(leaves)])


def _named(leaves: list[Any]) -> dict[str, Any]:
    """By number: orbax would keep the names of a tree, but not its types."""
    return {str(i): leaf for i, leaf in enumerate(leaves)}


def _digest(leaves: Leaves, position: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(position, sort_keys=True).encode())
    for leaf in leaves:
        digest.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return digest.hexdigest()
