"""Tensors from a file of `torch.save`, without PyTorch and without trusting the file."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_INERT = {  # what stands in for the only names that the file needs: none of it acts, whatever it is called with
    "collections.OrderedDict": OrderedDict,
    "torch_geometric.data.data.Data": SimpleNamespace,
    "torch._utils._rebuild_tensor_v2": lambda *record: record,
}
_MAGIC = 0x1950A86A20F9469CFC6C, 1001  # how torch.save's old format starts


class _Unpickler(pickle.Unpickler):
    """Numbers, texts, lists, dicts and records of tensors; at the name of any other class or function it stops."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module: str, name: str):
        if module == "torch" and name in _STORAGES:
            return name
        if f"{module}.{name}" in _INERT:
            return _INERT[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, but only tensors are read")

    def persistent_load(self, pid):
        kind, storage, key, _, size, *view = pid
        if kind != "storage" or any(view):
            raise pickle.UnpicklingError(f"it holds a {kind}, but only whole storages of tensors are read")
        self.storages[key] = np.dtype(_STORAGES[storage]), size
        return key


def read_collated(path: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The fields `names` of a `torch.save`d `(data, slices)`: all examples in one array each, and where they start in it.

    A pickle can run any code, so this one is not trusted: tensors are read, all else is refused and not run. Both formats of
    `torch.save` are understood; PyTorch is not needed.

    Raises:
        Exception: of many kinds (`UnpicklingError`, `EOFError`, `BadZipFile`, `KeyError`, ...) if the file is something else.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"
        file.seek(0)
        (data, slices), flat = _from_zip(file) if zipped else _from_old(file, path)

    def array(record):
        key, offset, shape, steps = record[:4]
        base = flat[key]
        size = base.dtype.itemsize
        # This, unlike as_strided, refuses to leave its base.
        return np.ndarray(shape, base.dtype, base, offset * size, [step * size for step in steps])

    lacking = [name for name in names if not hasattr(data, name) or name not in slices]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return {name: array(getattr(data, name)) for name in names}, {name: array(slices[name]) for name in names}


def _from_zip(file: BinaryIO):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith("/data.pkl"))
        root = record.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        with archive.open(record) as table:
            reader = _Unpickler(table)
            value = reader.load()
        read = lambda key, dtype: np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
        return value, {key: read(key, dtype) for key, (dtype, _) in reader.storages.items()}


def _from_old(file: BinaryIO, path: Path):
    """Pickles of a header, the value and the storages' order; then of each storage its length and its bytes."""
    magic, version, system = (_Unpickler(file).load() for _ in range(3))
    if (magic, version) != _MAGIC or not system["little_endian"]:
        raise ValueError("it is no file of torch.save from a little-endian machine")
    reader = _Unpickler(file)
    value = reader.load()
    flat = {}
    for key in _Unpickler(file).load():
        dtype, size = reader.storages[key]
        if int.from_bytes(file.read(8), "little") != size:
            raise ValueError(f"its storage {key} does not have {size} numbers")
        flat[key] = np.memmap(path, dtype, "r", file.tell(), size)  # mapped: the labels are int64, 3.5 GB
        file.seek(flat[key].nbytes, os.SEEK_CUR)
    return value, flat
