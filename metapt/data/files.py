"""Where data sets lie, and reading them without trusting them."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np


def locate(name: str, path: str | Path, file: str, cure: str) -> Path:
    """`path`, or what METAPT_DATA names: the file itself, or the folder that holds `file`.

    Raises:
        ValueError: if neither is given, or nothing is there.
    """
    given = path or os.environ.get("METAPT_DATA", "")
    if not given:
        raise ValueError(f"{name}: no data given: {cure}")
    found = Path(given, file) if Path(given).is_dir() else Path(given)
    if not found.is_file():
        raise ValueError(f"{name}: there is no file {found}: {cure}")
    return found


def read_npz(name: str, path: Path, keys: Collection[str], cure: str) -> dict[str, np.ndarray]:
    """The arrays `keys` of an .npz archive; nothing in it is unpickled.

    Raises:
        ValueError: if it is damaged, or one of them is missing.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in keys if key in archive}
    except Exception as error:  # damage shows as BadZipFile, zlib.error, EOFError, NotImplementedError, TokenError, ...
        raise ValueError(f"{name}: {path} is no .npz archive, or damaged ({one_line(error)}): {cure}") from error
    if len(arrays) < len(keys):
        raise ValueError(f"{name}: {path} holds of {', '.join(keys)} only {list(arrays)}: {cure}")
    return arrays


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def sha256(path: Path) -> bytes:
    """A file's checksum as text, for the seal beside a cache."""
    return hashlib.sha256(path.read_bytes()).hexdigest().encode()
