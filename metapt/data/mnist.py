"""MNIST: 70,000 handwritten digits, from files at hand or, once, from OpenML."""

import gzip
import logging
import math
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn import datasets

from metapt.data.digits import Labelled
from metapt.data.files import intact, named, one_line, read_npz, write_sealed

_log = logging.getLogger("metapt")
_IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_CURE = f"give --data PATH or METAPT_DATA with mnist.npz or the four files {', '.join(_IDX.values())}"


class TrainTest(NamedTuple):
    """The two official parts of a data set."""

    train: Labelled
    test: Labelled


def mnist(path: str | Path = "") -> TrainTest:
    """Grey images of 28 x 28 pixels, ink bright: x float32 `[N, 28, 28]` in [-0.5, 0.5], background -0.5; y int32 `[N]` in 0..9.

    Read from `path`; if that is empty, from what the environment variable METAPT_DATA names; if that is empty too, from
    OpenML through scikit-learn: 60,000 + 10,000 examples, kept in scikit-learn's data home (`metapt/mnist.npz`).
    A path is an .npz file with the uint8 images `x_train`, `x_test` `[N, 28, 28]` and the labels `y_train`, `y_test`
    (as Keras has it), or a folder with such a `mnist.npz` or with the four original idx files, plain or .gz.

    Source: LeCun, Cortes and Burges 1998, "The MNIST database of handwritten digits".

    Raises:
        ValueError: if the path holds no MNIST, a file is damaged, or the download fails.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x, y = np.zeros((10, 28, 28), np.uint8), np.arange(10)
        ...     np.savez(f"{folder}/mnist.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
        ...     train, test = mnist(folder)
        >>> train.x.shape, float(train.x.max()), test.y.tolist()
        ((10, 28, 28), -0.5, [0, 1])
    """
    given = named(path)
    arrays = _from_files(Path(given)) if given else _from_openml()

    def part(name: str) -> Labelled:
        x, y = arrays[f"x_{name}"], arrays[f"y_{name}"]
        return Labelled(x.astype(np.float32) / 255 - 0.5, y.astype(np.int32))

    return TrainTest(part("train"), part("test"))


def _from_files(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise ValueError(f"mnist: there is no file or folder {path}: {_CURE}")
    if path.is_dir() and not (path / "mnist.npz").exists():
        arrays = {name: _read_idx(path, file) for name, file in _IDX.items()}
    else:
        arrays = read_npz("mnist", path / "mnist.npz" if path.is_dir() else path, _IDX, _CURE)
    for images, labels in ("x_train", "y_train"), ("x_test", "y_test"):
        x, y = arrays[images], arrays[labels]
        if x.dtype != np.uint8 or x.shape[1:] != (28, 28) or not len(x):
            raise ValueError(f"mnist: {path}: {images} is {x.dtype} {list(x.shape)}, but must be uint8 [N, 28, 28]")
        if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise ValueError(f"mnist: {path}: {labels} is {y.dtype} {list(y.shape)}, but must be integer [{len(x)}]")
        if y.min() < 0 or y.max() > 9:
            raise ValueError(f"mnist: {path}: {labels} has labels {y.min()}..{y.max()}, but must stay in 0..9")
    return arrays


def _read_idx(folder: Path, file: str) -> np.ndarray:
    """A big-endian header (a magic number, then the sizes), then one byte a value."""
    stems = file, file.replace("-idx", ".idx")  # as some mirrors write it
    found = [path for stem in stems for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()]
    if not found:
        raise ValueError(f"mnist: the folder {folder} holds neither mnist.npz nor {file} (plain or .gz): {_CURE}")
    path = found[0]
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"mnist: {path} cannot be read ({one_line(error)}): copy it again") from error
    rank = 3 if "idx3" in file else 1
    start = 4 * (1 + rank)
    magic, *shape = (int.from_bytes(raw[i : i + 4], "big") for i in range(0, start, 4))
    size = start + math.prod(shape)
    if magic != 0x0800 + rank:
        raise ValueError(f"mnist: {path} starts with {magic}, but must with {0x0800 + rank}: it is no {file}")
    if len(raw) != size:
        raise ValueError(f"mnist: {path} has {len(raw)} bytes, but {size} by its header {shape}: copy it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _from_openml() -> dict[str, np.ndarray]:
    try:
        cache = Path(datasets.get_data_home(), "metapt", "mnist.npz")
        if not cache.exists():
            _log.info("mnist: downloading from OpenML, once; this takes a minute or two (kept in %s)", cache)
            _download(cache)
        undamaged = intact(cache)
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"mnist: it cannot be fetched from OpenML ({one_line(error)}): {_CURE}") from error
    if not undamaged:
        raise ValueError(f"mnist: {cache} is damaged: delete it, and it is downloaded again")
    return _from_files(cache)


def _download(cache: Path) -> None:
    # This parser needs no pandas.
    x, y = datasets.fetch_openml("mnist_784", version=1, as_frame=False, parser="liac-arff", return_X_y=True)
    x, y = x.astype(np.uint8).reshape(-1, 28, 28), y.astype(np.uint8)
    n = 60_000  # the official train part comes first
    cache.parent.mkdir(exist_ok=True)
    write_sealed(cache, {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]})
