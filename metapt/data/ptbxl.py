"""PTB-XL: 21,799 clinical electrocardiograms, fetched from PhysioNet file by file and kept as one array on the disk."""

import ast
import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
from rich.console import Console
from rich.progress import track

from metapt.data.ecg import LEADS, SUPERCLASSES, Ecg
from metapt.data.files import intact, locate_folder, one_line, publish, read_npz, seal, sha256, write_sealed

PHYSIONET = "https://physionet.org/files/ptb-xl/1.0.3/"
_CURE = "give --data FOLDER or METAPT_DATA with PTB-XL 1.0.3, or fetch it: metapt.data.download_ptbxl(FOLDER)"
_TABLES = ("ptbxl_database.csv", "scp_statements.csv")
_RECORD = r"records100/[0-9]{5}/[0-9]{5}_lr"  # the one kind of path that is followed
_SHAPE = (1000, len(LEADS))  # ten seconds, 100 samples a second
_CONNECTIONS, _ATTEMPTS = 8, 3  # 43,600 small files: waiting for answers is what takes the time


def ptbxl(path: str | Path = "") -> Ecg:
    """All of PTB-XL at 100 Hz in steps of 0.001 mV: int16 `[21799, 1000, 12]`, memory-mapped.

    Read from the folder `path`, or if that is empty from the one that the environment variable METAPT_DATA names. It holds
    PTB-XL as published (`ptbxl_database.csv`, `scp_statements.csv`, `records100/`), from which `ptbxl_signals.npy` and
    `ptbxl_labels.npz` are written once, with checksums beside them; an interrupted conversion goes on where it was.

    Source: Wagner et al. 2020, "PTB-XL, a large publicly available electrocardiography dataset"; PhysioNet, version 1.0.3.

    Raises:
        ValueError: if the folder holds no such data, a file is damaged, or wfdb is not installed.

    Example:
        >>> ptbxl("nowhere")
        Traceback (most recent call last):
        ValueError: ptbxl: there is no folder nowhere: give --data FOLDER or METAPT_DATA with PTB-XL 1.0.3, ...
    """
    folder = locate_folder("ptbxl", path, _CURE)
    signals, labels = folder / "ptbxl_signals.npy", folder / "ptbxl_labels.npz"
    if not signals.exists():
        _convert(folder, signals, labels)
    for cache in signals, labels:
        if not (cache.exists() and intact(cache)):
            raise ValueError(
                f"ptbxl: {cache} is damaged, or {seal(cache).name} is not its own: "
                "delete ptbxl_signals.npy, and both files are written again"
            )
    arrays = read_npz("ptbxl", labels, ("y", "patient", "fold"), _CURE)
    return Ecg(np.load(signals, mmap_mode="r", allow_pickle=False), 0.001, **arrays)


def superclasses(statements: Collection[str], class_of: Mapping[str, str]) -> np.ndarray:
    """Which of SUPERCLASSES the diagnostic statements among `statements` belong to, likely or not: uint8 `[5]`.

    `class_of` has the superclass of each diagnostic statement; the others (form, rhythm) say nothing here.

    Source: Wagner et al. 2020, and Strodthoff et al. 2020, "Deep learning for ECG analysis: benchmarks and insights from PTB-XL".

    Example:
        >>> superclasses({"IMI": 100.0, "LVH": 0.0, "SR": 0.0}, {"IMI": "MI", "LVH": "HYP", "NORM": "NORM"}).tolist()
        [0, 1, 0, 0, 1]
    """
    found = {class_of[statement] for statement in statements if statement in class_of}
    return np.array([name in found for name in SUPERCLASSES], np.uint8)


def download_ptbxl(folder: str | Path, source: str = PHYSIONET) -> None:
    """Fetches what `ptbxl` reads, 43,600 files, 0.5 GB: the records at 100 Hz and two tables, each checked by its SHA-256.

    Call it again after an interruption: files that are there and right are not fetched again. `source` is where PhysioNet's
    `SHA256SUMS.txt` lies, and the files it lists.

    Raises:
        ValueError: if a file cannot be fetched or kept, is not what its checksum says, or is listed with an unknown path.
    """
    folder, source = Path(folder), source.rstrip("/") + "/"
    wanted = _wanted(_fetch(f"{source}SHA256SUMS.txt").decode(errors="replace"))

    def keep(name: str) -> None:
        target = folder / name
        if target.is_file() and sha256(target) == wanted[name]:
            return
        content = _fetch(source + name)
        if hashlib.sha256(content).hexdigest() != wanted[name]:
            raise ValueError(f"download_ptbxl: {source}{name} is not what its checksum says: call it again, later")
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            os.replace(part, target)
        except OSError as error:
            raise ValueError(f"download_ptbxl: {target} cannot be written ({one_line(error)}): make room") from error

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for _ in _shown(pool.map(keep, wanted), len(wanted), "PTB-XL: files"):
            pass


def _wanted(sums: str) -> dict[str, str]:
    pairs = [line.split(maxsplit=1) for line in sums.splitlines() if line.strip()]
    listed = {pair[1].strip(): pair[0] for pair in pairs if len(pair) == 2}
    wanted = {name: digest for name, digest in listed.items() if name in _TABLES or name.startswith("records100")}
    for name in wanted:
        if name not in _TABLES and not re.fullmatch(rf"{_RECORD}\.(dat|hea)", name):
            raise ValueError(
                f"download_ptbxl: SHA256SUMS.txt lists {name!r}, but records must be records100/00000/00001_lr.dat "
                "or .hea, with any digits: give another source"
            )
    if missing := [name for name in _TABLES if name not in wanted]:
        raise ValueError(f"download_ptbxl: SHA256SUMS.txt does not list {missing[0]}: give the source of PTB-XL")
    return wanted


def _fetch(url: str, attempts: int = _ATTEMPTS) -> bytes:
    try:
        with urlopen(url, timeout=60) as answer:
            return answer.read()
    except (OSError, HTTPException, ValueError) as error:  # ValueError: what is no address
        if isinstance(error, HTTPError):
            error.close()  # it is the answer, too
        if attempts > 1:
            return _fetch(url, attempts - 1)
        raise ValueError(
            f"download_ptbxl: {url} cannot be fetched ({one_line(error)}): call it again, what is there is kept"
        ) from error


def _convert(folder: Path, signals: Path, labels: Path) -> None:
    read = _reader()
    names, arrays = _tables(folder)
    try:
        write_sealed(labels, arrays)
        _write_signals(signals, names, lambda name: read(folder / name))
    except OSError as error:
        raise ValueError(f"ptbxl: {signals} cannot be written ({one_line(error)}): make room") from error


def _write_signals(target: Path, names: list[str], read: Callable[[str], np.ndarray]) -> None:
    """One .npy file, record after record: what a part of it holds shows by its length, and writing goes on from there."""
    header = io.BytesIO()
    layout = {"descr": "<i2", "fortran_order": False, "shape": (len(names), *_SHAPE)}
    np.lib.format.write_array_header_1_0(header, layout)
    head, size = header.getvalue(), 2 * _SHAPE[0] * _SHAPE[1]
    # Other records have another part, so that none of them is taken for one of these.
    part = target.with_name(f".{target.name}.{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}.part")
    part.touch()
    done = max(part.stat().st_size - len(head), 0) // size
    with part.open("r+b") as file:
        file.write(head)
        file.seek(done * size, io.SEEK_CUR)
        for name in _shown(names[done:], len(names) - done, "PTB-XL: records"):
            file.write(read(name).astype("<i2").tobytes())
    publish(part, target)


def _reader() -> Callable[[Path], np.ndarray]:
    """Path without ending -> int16 `[1000, 12]`."""
    try:
        import wfdb
    except ImportError as error:
        raise ValueError(
            "ptbxl: reading records needs wfdb, which is not installed: pip install 'metapt[ecg]'"
        ) from error
    cure = "copy it again, or call metapt.data.download_ptbxl"
    expected = {
        "leads": [name.upper() for name in LEADS],
        "samples a second": 100,
        "shape": _SHAPE,
        "units a millivolt": {(1000.0, 0, "mV")},
    }

    def read(path: Path) -> np.ndarray:
        try:
            record: Any = wfdb.rdrecord(str(path), physical=False, return_res=16)
            whole = record.checksum == record.calc_checksum()
            found = {
                "leads": [name.upper() for name in record.sig_name],
                "samples a second": record.fs,
                "shape": record.d_signal.shape,
                "units a millivolt": set(zip(record.adc_gain, record.baseline, record.units, strict=True)),
            }
        except Exception as error:  # damage shows as ValueError, TypeError, HeaderSyntaxError, IndexError, ...
            raise ValueError(f"ptbxl: the record {path} cannot be read ({one_line(error)}): {cure}") from error
        for key, value in expected.items():
            if found[key] != value:
                raise ValueError(f"ptbxl: the record {path}: {key}: {found[key]}, but must be {value}: {cure}")
        if not whole:
            raise ValueError(f"ptbxl: the record {path} is damaged, its samples are not what its header says: {cure}")
        return record.d_signal

    return read


def _tables(folder: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The records' paths without ending, and their labels, in the order of the table."""
    for name in _TABLES:
        if not (folder / name).is_file():
            raise ValueError(f"ptbxl: there is no file {folder / name}: {_CURE}")
    try:
        database, statements = (
            list(csv.DictReader(io.StringIO((folder / name).read_text("utf-8"), newline=""))) for name in _TABLES
        )
        class_of = {row[""]: row["diagnostic_class"] for row in statements if float(row["diagnostic"] or 0)}
        names = [row["filename_lr"] for row in database]
        arrays = {
            "y": np.stack([superclasses(ast.literal_eval(row["scp_codes"]), class_of) for row in database]),
            "patient": np.array([float(row["patient_id"]) for row in database]).astype(np.int32),
            "fold": np.array([int(row["strat_fold"]) for row in database], np.uint8),
        }
    except Exception as error:  # damage shows as KeyError, ValueError, SyntaxError, csv.Error, OverflowError, ...
        raise ValueError(f"ptbxl: the tables in {folder} cannot be read ({one_line(error)}): {_CURE}") from error
    if strange := [name for name in names if not re.fullmatch(_RECORD, name)]:
        raise ValueError(
            f"ptbxl: {_TABLES[0]} names the record {strange[0]!r}, but it must be records100/00000/00001_lr, with any digits"
        )
    return names, arrays


def _shown(work: Iterable, total: int, what: str) -> Iterable:
    """A bar with an ETA, on stderr."""
    return track(work, what, total=total, console=Console(stderr=True))
