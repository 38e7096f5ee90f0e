"""Protein interaction graphs of seven human tissues: many gene-set labels to pre-train on, rare ones to fine-tune on."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metapt.data.files import locate, read_npz
from metapt.data.graphs import GraphSet, undirected

_CURE = "give --data PATH or METAPT_DATA with ppi_brain_tissues.npz"
_KEYS = ("x", "y_pretrain", "y_finetune", "edges", "edge_offsets", "pretrain_group", "pretrain_group_names")


class Tissues(NamedTuple):
    """One graph a tissue over the same N genes, and the genes' labels."""

    graphs: GraphSet  # 7 graphs of N nodes, node features [N, 124]: chromosome, regulatory motifs
    expressed: np.ndarray  # bool [7, N]: the gene has an interaction in the tissue
    y_pretrain: np.ndarray  # int8 [N, 400]: cellular components, molecular functions, pathways; 0 is "no" or "unknown"
    y_finetune: np.ndarray  # int8 [N, 50]: hallmark gene sets, 5 to 76 genes each
    family: np.ndarray  # int [400]: which of `family_names` a pre-training task belongs to
    family_names: tuple[str, ...]


def ppi_tissues(path: str | Path = "") -> Tissues:
    """2,162 genes in seven tissues of the brain, as `ppi_brain_tissues.npz` has them.

    `path` is that file or a folder that holds it; if it is empty, METAPT_DATA is read.

    Source: graphs of OhmNet (Zitnik and Leskovec 2017, "Predicting multicellular function through multi-layer tissue
    networks"), labels of MSigDB 7.0, put together as Hamilton et al. 2017 did for GraphSAGE.

    Raises:
        ValueError: if the file is missing, damaged or not of this layout.
    """
    file = locate("ppi_tissues", path, "ppi_brain_tissues.npz", _CURE)
    arrays = read_npz("ppi_tissues", file, _KEYS, _CURE)
    genes = len(arrays["x"])
    for key in ("y_pretrain", "y_finetune"):
        y = arrays[key]
        if y.ndim != 2 or len(y) != genes or not np.isin(y, (0, 1)).all():
            raise ValueError(f"ppi_tissues: {file}: {key} is {list(y.shape)}, but must be 0 or 1, [{genes}, tasks]")
    offsets = arrays["edge_offsets"]
    if offsets[0] != 0 or offsets[-1] != len(arrays["edges"]) or (np.diff(offsets) < 0).any():
        raise ValueError(f"ppi_tissues: {file}: edge_offsets must rise from 0 to the {len(arrays['edges'])} edges")
    pairs = np.split(arrays["edges"].astype(np.int32), offsets[1:-1])
    x = arrays["x"].astype(np.float32)
    return Tissues(
        graphs=undirected([x] * len(pairs), pairs),
        expressed=np.stack([np.isin(np.arange(genes), p) for p in pairs]),
        y_pretrain=arrays["y_pretrain"].astype(np.int8),
        y_finetune=arrays["y_finetune"].astype(np.int8),
        family=arrays["pretrain_group"].astype(int),
        family_names=tuple(map(str, arrays["pretrain_group_names"])),
    )
