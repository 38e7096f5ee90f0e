"""Molecules as graphs, with assays as tasks: Tox21, SIDER, ClinTox, ToxCast."""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metapt.data.files import locate, read_npz
from metapt.data.graphs import GraphSet, undirected

Collection = Literal["tox21", "sider", "clintox", "toxcast"]
ATOM_SIZES = (119, 4, 16, 9, 2)  # element, chirality, charge + 8, hydrogens, aromatic
BOND_SIZES = (5, 3)  # type, direction
_KEYS = ("atoms", "atom_offsets", "bonds", "bond_offsets", "y", "scaffold", "task_names")


class Molecules(NamedTuple):
    """M molecules, what was measured of them, and their scaffolds."""

    graphs: GraphSet  # nodes uint8 [atoms, 5] and edges uint8 [bonds, 2], categories: `atom_features`, `bond_features`
    y: np.ndarray  # int8 [M, T]: 1, 0, or -1 where it was not measured
    scaffold: np.ndarray  # int [M]: molecules of one number share their ring system
    task_names: tuple[str, ...]


def molecules(name: Collection, path: str | Path = "") -> Molecules:
    """One collection, as `mol_{name}.npz` has it: `path` is that file or its folder; if empty, METAPT_DATA is read.

    Source: Wu et al. 2018, "MoleculeNet" (Tox21: 12 assays; SIDER: 27 groups of side effects; ClinTox: 2; ToxCast: 617).

    Raises:
        ValueError: if the name is unknown, or the file is missing, damaged or not of this layout.
    """
    if name not in get_args(Collection):
        raise ValueError(f"molecules: name={name!r} is not one of {', '.join(get_args(Collection))}")
    cure = f"give --data PATH or METAPT_DATA with mol_{name}.npz"
    file = locate("molecules", path, f"mol_{name}.npz", cure)
    arrays = read_npz("molecules", file, _KEYS, cure)
    atoms, bonds, y = arrays["atoms"], arrays["bonds"], arrays["y"]
    for key, columns, sizes in (("atoms", atoms, ATOM_SIZES), ("bonds", bonds[:, 2:], BOND_SIZES)):
        if columns.shape[1:] != (len(sizes),) or (len(columns) and (columns.max(0) >= sizes).any()):
            raise ValueError(f"molecules: {file}: the columns of {key} must be categories below {sizes}")
    if y.ndim != 2 or not np.isin(y, (-1, 0, 1)).all():
        raise ValueError(f"molecules: {file}: y is {list(y.shape)}, but must be 1, 0 or -1, [molecules, tasks]")
    for key, total in (("atom_offsets", len(atoms)), ("bond_offsets", len(bonds))):
        offsets = arrays[key]
        if len(offsets) != len(y) + 1 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
            raise ValueError(f"molecules: {file}: {key} must rise from 0 to {total} in {len(y) + 1} numbers")
    nodes = np.split(atoms, arrays["atom_offsets"][1:-1])
    of_bonds = np.split(bonds, arrays["bond_offsets"][1:-1])
    return Molecules(
        graphs=undirected(
            nodes, [b[:, :2].astype(np.int32) for b in of_bonds], [b[:, 2:].astype(np.uint8) for b in of_bonds]
        ),
        y=y.astype(np.int8),
        scaffold=arrays["scaffold"].astype(int),
        task_names=tuple(map(str, arrays["task_names"])),
    )


def one_hot(categories: Array, sizes: tuple[int, ...]) -> Array:
    """Columns of categories as indicators: int `[..., C] -> [..., sum of sizes]`.

    Example:
        >>> one_hot(jnp.array([[1, 0]]), (2, 3)).tolist()
        [[0.0, 1.0, 1.0, 0.0, 0.0]]
    """
    categories = jnp.asarray(categories)
    if not categories.ndim or categories.shape[-1] != len(sizes):
        raise ValueError(
            f"one_hot: categories {list(categories.shape)} must have {len(sizes)} columns, one for each of sizes"
        )
    columns = [jax.nn.one_hot(categories[..., i], size) for i, size in enumerate(sizes)]
    return jnp.concatenate(columns, axis=-1)


def molecule_hash(graphs: GraphSet, rounds: int = 5) -> np.ndarray:
    """A number a molecule, uint64 `[M]`: equal for equal graphs of atoms and bonds, whatever their order; stereochemistry aside.

    It keeps apart what `rounds` of colour refinement keep apart (Weisfeiler and Leman 1968), so a few different molecules
    share a number.

    Example:
        >>> atoms = np.array([[6, 0, 8, 3, 0], [8, 0, 8, 1, 0]], np.uint8)  # methanol, read from both ends
        >>> bond = [np.zeros((1, 2), np.uint8)]
        >>> forth, back = (undirected([nodes], [[[0, 1]]], bond) for nodes in (atoms, atoms[::-1]))
        >>> bool(molecule_hash(forth)[0] == molecule_hash(back)[0])
        True
    """
    nodes, ends = np.asarray(graphs.nodes, np.uint64), np.asarray(graphs.ends, np.int64)
    atoms, bonds = np.diff(graphs.node_start), np.diff(graphs.edge_start)
    senders, receivers = (ends + np.repeat(graphs.node_start[:-1], bonds)[:, None]).T
    bond = _mix(np.asarray(graphs.edges, np.uint64)[:, 0] + np.uint64(1))
    color = np.zeros(len(nodes), np.uint64)
    for column in (0, 2, 3, 4):
        color = _mix(color + nodes[:, column])
    for _ in range(rounds):
        received = np.zeros_like(color)
        np.add.at(received, receivers, _mix(color[senders] + bond))
        color = _mix(color * np.uint64(3) + received)
    total = np.zeros(len(atoms), np.uint64)
    np.add.at(total, np.repeat(np.arange(len(atoms)), atoms), _mix(color))
    return total


def _mix(h: np.ndarray) -> np.ndarray:
    """Scrambles 64 bits (the finaliser of Steele et al. 2014, "Fast splittable pseudorandom number generators")."""
    h = (h + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def scaffold_split(rng: np.random.Generator, scaffold: np.ndarray, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Random parts that share no scaffold, one sorted array of rows a part; what the shares leave over is nobody's.

    Scaffolds are dealt one by one, in random order, the largest (more than a tenth of all molecules) to the first part.

    Example:
        >>> parts = scaffold_split(np.random.default_rng(0), np.arange(10) // 2, {"train": 0.6, "test": 0.4})
        >>> sorted(len(rows) for rows in parts.values())
        [4, 6]
    """
    if min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"scaffold_split: shares={shares} must be above 0 and sum to at most 1")
    names, counts = np.unique(scaffold, return_counts=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(counts[order] <= len(scaffold) / 10, kind="stable")]
    before = np.cumsum(counts[order]) - counts[order]
    ends = len(scaffold) * np.cumsum(list(shares.values()))
    part = np.searchsorted(ends, before + 0.5, side="left")
    return {name: np.flatnonzero(np.isin(scaffold, names[order[part == i]])) for i, name in enumerate(shares)}
