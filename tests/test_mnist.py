"""MNIST from every source it is read from: the same arrays, or one line that says what is wrong."""

import gzip
import logging
import os
import struct
from urllib.error import URLError

import numpy as np
import pytest

from metapt.data.mnist import mnist

REAL = os.environ.get("METAPT_DATA", "")
IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("METAPT_DATA", raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "home"))


def made_up(train=12, test=5, seed=0):
    rng = np.random.default_rng(seed)
    images = lambda n: rng.integers(0, 256, (n, 28, 28), np.uint8)
    labels = lambda n: rng.integers(0, 10, n, np.uint8)
    return {"x_train": images(train), "y_train": labels(train), "x_test": images(test), "y_test": labels(test)}


def write_idx(folder, arrays, name=lambda file: file, pack=lambda raw: raw):
    for key, array in arrays.items():
        raw = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()
        (folder / name(IDX[key])).write_bytes(pack(raw))


def assert_is(found, arrays):
    for part, name in zip(found, ("train", "test"), strict=True):
        assert part.x.dtype == np.float32 and part.y.dtype == np.int32
        np.testing.assert_allclose(part.x, arrays[f"x_{name}"] / 255 - 0.5, atol=1e-7)
        np.testing.assert_array_equal(part.y, arrays[f"y_{name}"])


def refusal(path=""):
    with pytest.raises(ValueError) as caught:
        mnist(path)
    message = str(caught.value)
    assert message.startswith("mnist: ") and "\n" not in message
    return message


def test_an_npz_file_and_the_folder_that_holds_it_give_its_arrays(tmp_path):
    arrays = made_up()
    np.savez(tmp_path / "mnist.npz", **arrays, id_train=np.arange(12))  # more than is needed
    assert_is(mnist(tmp_path / "mnist.npz"), arrays)
    assert_is(mnist(str(tmp_path)), arrays)


@pytest.mark.parametrize("name", ["{}", "{}.gz", "dot {}", "dot {}.gz"])
def test_idx_files_give_the_same_arrays(tmp_path, name):
    arrays = made_up()
    dot, gz = name.startswith("dot"), name.endswith("gz")
    write_idx(
        tmp_path,
        arrays,
        lambda file: (file.replace("-idx", ".idx") if dot else file) + (".gz" if gz else ""),
        gzip.compress if gz else lambda raw: raw,
    )
    assert_is(mnist(tmp_path), arrays)


def test_the_path_wins_over_the_environment(tmp_path, monkeypatch):
    one, two = made_up(seed=1), made_up(seed=2)
    np.savez(tmp_path / "one.npz", **one)
    np.savez(tmp_path / "two.npz", **two)
    monkeypatch.setenv("METAPT_DATA", str(tmp_path / "one.npz"))
    assert_is(mnist(), one)
    assert_is(mnist(tmp_path / "two.npz"), two)


def test_openml_is_asked_once_and_a_damaged_cache_is_refused(tmp_path, monkeypatch, caplog):
    arrays = made_up()
    asked = []

    def fetch_openml(name, *, version, as_frame, parser, return_X_y):
        asked.append((name, version, as_frame, parser, return_X_y))
        x = np.concatenate([np.zeros((59_988, 28, 28)), arrays["x_train"], arrays["x_test"]]).reshape(-1, 784)
        y = np.concatenate([np.zeros(59_988, int), arrays["y_train"], arrays["y_test"]])
        return x, y.astype(str).astype(object)  # OpenML has the labels as text

    def assert_is_the_end_of_it():
        train, test = mnist()
        assert train.x.shape == (60_000, 28, 28)
        assert_is((train.rows(np.arange(59_988, 60_000)), test), arrays)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    with caplog.at_level(logging.INFO, "metapt"):
        assert_is_the_end_of_it()
    cache = tmp_path / "home" / "metapt" / "mnist.npz"
    assert "a minute or two" in caplog.text and str(cache) in caplog.text
    assert sorted(path.name for path in cache.parent.iterdir()) == ["mnist.npz", "mnist.npz.sha256"]

    assert_is_the_end_of_it()
    assert asked == [("mnist_784", 1, False, "liac-arff", True)]

    raw = bytearray(cache.read_bytes())
    raw[len(raw) // 2] ^= 1
    cache.write_bytes(raw)
    assert f"{cache} is damaged: delete it" in refusal()
    cache.unlink()
    assert_is_the_end_of_it()
    assert len(asked) == 2


@pytest.mark.parametrize(
    "error", [URLError("no route"), TimeoutError("too slow"), ValueError("The md5 checksum\ndoes not match")]
)
def test_a_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch, error):
    def fetch_openml(*args, **kwargs):
        raise error

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    message = refusal()
    assert " ".join(str(error).split()) in message and "--data PATH or METAPT_DATA with mnist.npz" in message
    assert all(file in message for file in IDX.values())
    assert not list((tmp_path / "home").rglob("*.*"))


def test_a_home_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file where the folder should be")
    assert "METAPT_DATA" in refusal()


def test_a_path_without_mnist_is_refused(tmp_path, monkeypatch):
    assert f"no file or folder {tmp_path / 'nowhere'}" in refusal(tmp_path / "nowhere")
    message = f"{tmp_path} holds neither mnist.npz nor train-images-idx3-ubyte"
    assert message in refusal(tmp_path)
    monkeypatch.setenv("METAPT_DATA", str(tmp_path))  # no silent download instead
    assert message in refusal()
    write_idx(tmp_path, made_up())
    (tmp_path / IDX["y_test"]).unlink()
    assert f"nor {IDX['y_test']}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x_train": np.zeros((12, 784), np.uint8)}, "x_train is uint8 [12, 784]"),
        ({"x_test": np.zeros((5, 28, 28), np.float32)}, "x_test is float32"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)}, "x_test is uint8 [0, 28, 28]"),
        ({"y_train": np.zeros(11, np.uint8)}, "y_train is uint8 [11], but must be integer [12]"),
        ({"y_train": np.zeros((12, 10), np.uint8)}, "y_train is uint8 [12, 10]"),
        ({"y_test": np.zeros(5)}, "y_test is float64"),
        ({"y_test": np.array([0, 1, 2, 3, 10])}, "y_test has labels 0..10"),
        ({"y_test": np.array([0, 1, 2, 3, -1])}, "y_test has labels -1..3"),
        ({"y_test": np.array([0, None])}, "Object arrays cannot be loaded"),  # a pickle is never opened
    ],
)
def test_other_arrays_are_refused(tmp_path, change, says):
    path = tmp_path / "mnist.npz"
    np.savez(path, **{**made_up(), **change})
    message = refusal(path)
    assert str(path) in message and says in message


def test_archives_that_are_damaged_or_lack_an_array_are_refused(tmp_path):
    path = tmp_path / "mnist.npz"
    arrays = made_up()
    np.savez_compressed(path, **arrays)
    raw = path.read_bytes()
    flipped = raw[:2000] + bytes([raw[2000] ^ 255]) + raw[2001:]
    for broken in b"", b"some text", raw[: len(raw) // 2], flipped:
        path.write_bytes(broken)
        assert f"{path} is no .npz archive, or damaged" in refusal(path)
    np.savez(path, **{name: array for name, array in arrays.items() if name != "y_test"})
    message = refusal(path)
    assert str(path) in message and "only ['x_train', 'y_train', 'x_test']" in message


@pytest.mark.parametrize("file", IDX.values())
def test_idx_files_that_disagree_with_their_header_are_refused(tmp_path, file):
    write_idx(tmp_path, made_up())
    path = tmp_path / file
    raw = path.read_bytes()
    for broken, says in [
        (raw[:-1], f"has {len(raw) - 1} bytes, but {len(raw)} by its header"),
        (raw + b"0", f"has {len(raw) + 1} bytes"),
        (raw[:4], "has 4 bytes"),
        (b"", "starts with 0"),
        (b"\0\0\x08\x02" + raw[4:], "starts with 2050, but must with 20"),
    ]:
        path.write_bytes(broken)
        message = refusal(tmp_path)
        assert str(path) in message and says in message


def test_damaged_gz_files_are_refused(tmp_path):
    write_idx(tmp_path, made_up(), lambda file: f"{file}.gz", gzip.compress)
    path = tmp_path / f"{IDX['x_train']}.gz"
    raw = path.read_bytes()
    no_block = raw[:10] + b"\xff" + raw[11:]  # a kind of block that does not exist
    flipped = raw[:2000] + bytes([raw[2000] ^ 255]) + raw[2001:]
    for broken in b"some text", raw[:-10], no_block, flipped:
        path.write_bytes(broken)
        assert f"{path} cannot be read" in refusal(tmp_path)


@pytest.mark.skipif(
    not REAL, reason="needs MNIST itself: set METAPT_DATA to mnist.npz or to the folder of the idx files"
)
def test_the_real_digits_are_near_their_centroids():
    """A shuffled label or a wrongly ordered pixel would show: the nearest of ten mean images is right for 4 in 5."""
    train, test = mnist(REAL)
    for x, y in (train, test):
        assert x.shape[1:] == (28, 28) and x.min() == -0.5 and x.max() == 0.5 and set(y.tolist()) == set(range(10))
        assert np.median(x) == -0.5 and (x[:, 0] == -0.5).mean() > 0.99  # paper, above all at the border
    centroids = np.stack([train.x[train.y == digit].mean(0) for digit in range(10)]).reshape(10, 784)
    flat = test.x.reshape(-1, 784)
    nearest = ((centroids**2).sum(1) - 2 * flat @ centroids.T).argmin(1)
    assert (nearest == test.y).mean() > 0.75
