"""Omniglot: handwritten characters of many alphabets, twenty drawings of each."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metapt.data.files import locate, read_npz

_FILE = "omniglot28.npz"
_KEYS = "bits", "alphabet", "alphabet_names"
_CURE = f"give --data PATH or METAPT_DATA with {_FILE}"


class Omniglot(NamedTuple):
    """Characters `[C]`, their drawings `[C, M, 28, 28]`."""

    x: np.ndarray  # float32, ink 1, paper 0
    alphabet: np.ndarray  # int [C], into `names`
    names: tuple[str, ...]


def omniglot(path: str | Path = "") -> Omniglot:
    """Black and white drawings of characters, read from `omniglot28.npz` or the folder that holds it.

    The archive has `bits` uint8 `[C, M, 98]`, the 28 x 28 pixels of a drawing packed by `np.packbits` with ink 1, `alphabet`
    `[C]`, and `alphabet_names`.

    Source: Lake, Salakhutdinov and Tenenbaum 2015, "Human-level concept learning through probabilistic program induction"

    Raises:
        ValueError: if nothing is named or there, the file is damaged, or an array is not as said above.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bits = np.packbits(np.ones((3, 20, 784), np.uint8), axis=-1)
        ...     np.savez(f"{folder}/omniglot28.npz", bits=bits, alphabet=[0, 0, 1], alphabet_names=["Greek", "Latin"])
        ...     characters = omniglot(folder)
        >>> characters.x.shape, float(characters.x.min()), characters.names
        ((3, 20, 28, 28), 1.0, ('Greek', 'Latin'))
    """
    file = locate("omniglot", path, _FILE, _CURE)
    bits, alphabet, names = (read_npz("omniglot", file, _KEYS, _CURE)[key] for key in _KEYS)
    if bits.dtype != np.uint8 or bits.ndim != 3 or bits.shape[2] != 98 or not bits.size:
        raise ValueError(f"omniglot: {file}: bits is {bits.dtype} {list(bits.shape)}, but must be uint8 [C, M, 98]")
    if alphabet.dtype.kind not in "iu" or alphabet.shape != bits.shape[:1]:
        raise ValueError(
            f"omniglot: {file}: alphabet is {alphabet.dtype} {list(alphabet.shape)}, but must be integer [{len(bits)}]"
        )
    if names.ndim != 1 or alphabet.min() < 0 or alphabet.max() >= len(names):
        raise ValueError(
            f"omniglot: {file}: alphabet has values {alphabet.min()}..{alphabet.max()}, but must index "
            f"alphabet_names {list(names.shape)}"
        )
    x = np.unpackbits(bits, axis=-1).reshape(*bits.shape[:2], 28, 28).astype(np.float32)
    return Omniglot(x, alphabet.astype(int), tuple(map(str, names)))
