"""Proteins of eight species: 88,000 neighbourhoods in protein networks, 5,000 coarse and 40 fine functions to predict."""

import logging
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metapt.data.files import intact, locate_folder, one_line, seal, write_sealed
from metapt.data.graphs import GraphSet
from metapt.data.torch_file import read_collated

HUMAN = 9606  # the NCBI number of the species

_log = logging.getLogger("metapt")
_FILE = "geometric_data_processed.pt"
_INSIDE = "", "processed", "supervised/processed", "dataset/supervised/processed"  # of the archive and of its folders
_CURE = (
    "give --data FOLDER or METAPT_DATA with hu_bio.npz and hu_bio.npz.sha256, "
    "or with the unpacked http://snap.stanford.edu/gnn-pretrain/data/bio_dataset.zip"
)
_LAYOUT = {  # kinds of numbers and shape; -1: the axis along which the graphs follow one another
    "x": ("fiu", (-1, 1)),
    "edge_index": ("iu", (2, -1)),
    "edge_attr": ("fiub", (-1, 9)),
    "species_id": ("iu", (-1,)),
    "center_node_idx": ("iu", (-1,)),
    "go_target_pretrain": ("fiub", (-1,)),
    "go_target_downstream": ("fiub", (-1,)),
}


class HuBio(NamedTuple):
    """M neighbourhoods and the functions of the protein in their centre: 1 has it, 0 has it not or nobody knows.

    Nodes are float32 `[., 1]`, all 1. Edges are uint8 `[., 9]`, 0 or 1: seven relations, self-loop, masked; a relation is there
    in both directions.
    """

    graphs: GraphSet
    y_pretrain: np.ndarray  # uint8 [M, 5000]
    y_finetune: np.ndarray  # uint8 [M, 40]
    species: np.ndarray  # int32 [M]


def hu_bio(path: str | Path = "") -> HuBio:
    """Neighbourhoods of 88,000 proteins, with 5,000 labels to pre-train and 40 to fine-tune on; `species_split` parts them.

    Read from the folder `path`, or if that is empty from the one that the environment variable METAPT_DATA names. It holds
    `hu_bio.npz`, or the unpacked archive of the authors, from which `convert` then writes that file, once.

    Source: Hu et al. 2020, "Strategies for Pre-training Graph Neural Networks".

    Raises:
        ValueError: if the folder holds no such data, or a file is damaged.

    Example:
        >>> hu_bio("nowhere")
        Traceback (most recent call last):
        ValueError: hu_bio: there is no folder nowhere: give --data FOLDER or METAPT_DATA with hu_bio.npz ...
    """
    folder = locate_folder("hu_bio", path, _CURE)
    cache = folder / "hu_bio.npz"
    if not cache.exists():
        convert(folder, cache)
    if not intact(cache):
        raise ValueError(
            f"hu_bio: {cache} is damaged, or {seal(cache).name} is not its own: copy both again, or delete both and convert"
        )
    with np.load(cache, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive}
    labels = {name: arrays.pop(name) for name in ("y_pretrain", "y_finetune", "species")}
    return HuBio(GraphSet(**arrays), **labels)


def convert(source: Path, target: Path) -> None:
    """Writes the authors' `geometric_data_processed.pt`, or that in a folder, as plain arrays: an .npz file and its seal.

    A pickle can run any code, so this one is not trusted: tensors are read, all else is refused and not run. PyTorch is not
    needed; both formats of `torch.save` are understood.

    Raises:
        ValueError: if there is no such file, it is damaged or holds other data, or `target` cannot be written.
    """
    path = _find(source)
    _log.info("hu_bio: converting %s, once; this takes a few minutes (kept in %s)", path, target)
    try:
        fields, starts = read_collated(path, tuple(_LAYOUT))
    except Exception as error:  # damage shows as UnpicklingError, EOFError, BadZipFile, KeyError, TypeError, ...
        raise ValueError(f"hu_bio: {path} cannot be read ({one_line(error)}): {_CURE}") from error
    arrays = _checked(path, fields, starts)
    try:
        write_sealed(target, arrays)
    except OSError as error:
        raise ValueError(
            f"hu_bio: {target} cannot be written ({one_line(error)}): make room, or copy the data elsewhere"
        ) from error


def species_split(species: np.ndarray, seed: int = 42) -> dict[str, np.ndarray]:
    """Sorted indices: to fine-tune on 85 % of the other species' proteins, validate on 15 %, test on human ones.

    `pretrain` is all of the other species and `test_easy`, a random half of the human ones; `test_hard` is the other half.
    With Hu et al.'s seed 42 the parts are theirs, as long as the graphs are in their order: the shuffle is that of Python's
    `random`, and where parts are rounded down, one protein is in neither.

    Source: Hu et al. 2020, "Strategies for Pre-training Graph Neural Networks", and their published code.

    Raises:
        ValueError: if a part would be empty.

    Example:
        >>> parts = species_split(np.array([9606] * 4 + [4932] * 20))
        >>> {name: len(part) for name, part in parts.items()}
        {'pretrain': 22, 'finetune_train': 17, 'finetune_validation': 3, 'test_easy': 2, 'test_hard': 2}
    """

    def two(index: np.ndarray, first: float, second: float) -> tuple[np.ndarray, np.ndarray]:
        order = index.tolist()
        random.Random(seed).shuffle(order)
        end, size = int(first * len(order)), int(second * len(order))
        return np.sort(order[:end]), np.sort(order[end : end + size])

    others, humans = np.flatnonzero(species != HUMAN), np.flatnonzero(species == HUMAN)
    if len(others) < 7 or len(humans) < 2:
        raise ValueError(
            f"species_split: {len(humans)} human proteins (species {HUMAN}) and {len(others)} others, "
            "but it takes 2 and 7: give the species of all graphs"
        )
    train, validation = two(others, 0.85, 0.15)
    easy, hard = two(humans, 0.5, 0.5)
    return {
        "pretrain": np.sort(np.concatenate([others, easy])),
        "finetune_train": train,
        "finetune_validation": validation,
        "test_easy": easy,
        "test_hard": hard,
    }


def _find(source: Path) -> Path:
    if not source.exists():
        raise ValueError(f"hu_bio: there is no file or folder {source}: {_CURE}")
    # Never by a search: the archive has an unlabelled file of the same name.
    found = [source] if source.is_file() else [path for part in _INSIDE if (path := source / part / _FILE).is_file()]
    if not found:
        raise ValueError(f"hu_bio: the folder {source} holds neither hu_bio.npz nor {_INSIDE[-1]}/{_FILE}: {_CURE}")
    return found[0]


def _checked(path: Path, fields: dict[str, np.ndarray], starts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    refusal = lambda what: ValueError(f"hu_bio: {path}: {what}: unpack bio_dataset.zip again")
    count = starts["species_id"].size - 1
    for name, (kinds, shape) in _LAYOUT.items():
        field, start = fields[name], starts[name]
        if (
            field.dtype.kind not in kinds
            or len(field.shape) != len(shape)
            or any(want not in (-1, n) for want, n in zip(shape, field.shape, strict=True))
        ):
            allowed = f"{'integer ' * (kinds == 'iu')}[{', '.join('N' if n < 0 else str(n) for n in shape)}]"
            raise refusal(f"{name} is {field.dtype} {list(field.shape)}, but must be {allowed}")
        end = field.shape[shape.index(-1)]
        if start.shape != (count + 1,) or start.dtype.kind != "i" or count < 1:
            raise refusal(
                f"the slices of {name} are {start.dtype} {list(start.shape)}, but must be integer [{max(count, 1) + 1}]"
            )
        sizes = np.diff(start)
        if start[0] != 0 or start[-1] != end or sizes.min() < 0:
            raise refusal(f"the slices of {name} run from {start[0]} to {start[-1]}, but must rise from 0 to {end}")
        if shape == (-1,) and (sizes.min() < 1 or sizes.max() > (1 if kinds == "iu" else sizes.min())):
            raise refusal(
                f"{name} has {sizes.min()}..{sizes.max()} values a graph, but must have equally many, an index one"
            )
    node_start, edge_start = starts["x"], starts["edge_index"]
    if not np.array_equal(edge_start, starts["edge_attr"]):
        raise refusal("the slices of edge_attr must be those of edge_index")

    def inside(name: str, position: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        wrong = np.flatnonzero((position < 0) | (position >= nodes))
        if len(wrong):
            raise refusal(f"{name} has {position[wrong[0]]}, but must stay in 0..{nodes[wrong[0]] - 1} in its graph")
        return position.astype(np.int32)

    def binary(name: str) -> np.ndarray:
        one = fields[name] == 1
        if not (one | (fields[name] == 0)).all():
            raise refusal(f"{name} has values {fields[name].min()}..{fields[name].max()}, but must have 0 and 1 only")
        return one.view(np.uint8)

    nodes = np.diff(node_start)
    of_edges = np.repeat(nodes, np.diff(edge_start))
    return {
        "nodes": fields["x"].astype(np.float32),
        "node_start": node_start.astype(np.int32),
        "edges": binary("edge_attr"),
        "ends": np.stack([inside("edge_index", ends, of_edges) for ends in fields["edge_index"]], axis=1),
        "edge_start": edge_start.astype(np.int32),
        "centre": inside("center_node_idx", fields["center_node_idx"], nodes),
        "y_pretrain": binary("go_target_pretrain").reshape(count, -1),
        "y_finetune": binary("go_target_downstream").reshape(count, -1),
        "species": fields["species_id"].astype(np.int32),
    }
