"""Where data sets lie, and reading them without trusting them."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np


def named(path: str | Path) -> str | Path:
    """`path`, or if that is empty what METAPT_DATA names, or nothing."""
    return path or os.environ.get("METAPT_DATA", "")


def locate_folder(name: str, path: str | Path, cure: str) -> Path:
    """The folder `path`, or the one that METAPT_DATA names.

    Raises:
        ValueError: if neither is given, or it is no folder.
    """
    given = named(path)
    if not given:
        raise ValueError(f"{name}: no folder is named: {cure}")
    if not Path(given).is_dir():
        raise ValueError(f"{name}: there is no folder {given}: {cure}")
    return Path(given)


def locate(name: str, path: str | Path, file: str, cure: str) -> Path:
    """`path`, or what METAPT_DATA names: the file itself, or the folder that holds `file`.

    Raises:
        ValueError: if neither is given, or nothing is there.
    """
    given = named(path)
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
            for key, value in arrays.items():
                if not isinstance(value, np.ndarray):  # numpy gives the bytes of what it does not know
                    raise ValueError(f"{key} is no array")
    except Exception as error:  # damage shows as BadZipFile, zlib.error, EOFError, NotImplementedError, TokenError, ...
        raise ValueError(f"{name}: {path} is no .npz archive, or damaged ({one_line(error)}): {cure}") from error
    if len(arrays) < len(keys):
        raise ValueError(f"{name}: {path} holds of {', '.join(keys)} only {list(arrays)}: {cure}")
    return arrays


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())


def write_sealed(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz file and beside it its seal, `<name>.sha256`; whoever reads meanwhile sees the old file or the new one.

    Raises:
        OSError: if it cannot be written; then nothing is left behind.
    """
    part = path.with_name(f".{os.getpid()}.part.npz")  # runs that start together write one file each
    try:
        np.savez_compressed(part, **arrays)  # pyright: ignore[reportArgumentType]
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Gives a finished file its seal and its name."""
    seal(path).write_bytes(sha256(part).encode())
    os.replace(part, path)  # last: a file without its seal counts as damaged


def intact(path: Path) -> bool:
    """Whether a file is the one that was sealed."""
    return seal(path).exists() and seal(path).read_bytes() == sha256(path).encode()


def seal(path: Path) -> Path:
    """Where a file's checksum is kept."""
    return path.with_name(f"{path.name}.sha256")


def sha256(path: Path) -> str:
    """A file's checksum in hexadecimal, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
