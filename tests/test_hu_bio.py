"""The published file as it was written, read without PyTorch: the same arrays, or one line that says what is wrong."""

import io
import logging
import os
import pickle
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest

from metapt.data.hu_bio import convert, hu_bio, species_split

SAVED = "geometric_data_processed.pt"
FORMATS = "old", "zip"


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    monkeypatch.delenv("METAPT_DATA", raising=False)


def made_up(seed=0):
    """Fields and slices as torch-geometric collates them: six graphs, 21 nodes, 28 directed edges."""
    rng = np.random.default_rng(seed)
    nodes, pairs = rng.permutation([3, 2, 5, 4, 3, 4]), rng.permutation([2, 4, 1, 3, 2, 2])
    graphs = len(nodes)
    pair = np.concatenate([rng.integers(0, n, (m, 2)) for n, m in zip(nodes, pairs, strict=True)])
    fields = {
        "x": np.ones((nodes.sum(), 1), np.float32),
        "edge_index": np.stack([pair, pair[:, ::-1]], 1).reshape(-1, 2).T,
        "edge_attr": np.repeat(rng.integers(0, 2, (len(pair), 9)), 2, axis=0).astype(np.float32),
        "species_id": rng.choice([9606, 4932, 511145], graphs),
        "center_node_idx": rng.integers(0, nodes),
        "go_target_pretrain": rng.integers(0, 2, graphs * 12),
        "go_target_downstream": rng.integers(0, 2, graphs * 4),
    }
    start = lambda sizes: np.cumsum([0, *sizes])
    each = lambda n: n * np.arange(graphs + 1)
    slices = {
        "x": start(nodes),
        "edge_index": start(2 * pairs),
        "edge_attr": start(2 * pairs),
        "species_id": each(1),
        "center_node_idx": each(1),
        "go_target_pretrain": each(12),
        "go_target_downstream": each(4),
    }
    return fields, slices


def assert_is(found, fields, slices):
    expected = {
        "nodes": fields["x"],
        "node_start": slices["x"].astype(np.int32),
        "edges": fields["edge_attr"].astype(np.uint8),
        "ends": fields["edge_index"].T.astype(np.int32),
        "edge_start": slices["edge_attr"].astype(np.int32),
        "centre": fields["center_node_idx"].astype(np.int32),
    }
    labels = {
        "y_pretrain": fields["go_target_pretrain"].reshape(-1, 12).astype(np.uint8),
        "y_finetune": fields["go_target_downstream"].reshape(-1, 4).astype(np.uint8),
        "species": fields["species_id"].astype(np.int32),
    }
    for part, arrays in (found.graphs, expected), (found, labels):
        for name, array in arrays.items():
            value = getattr(part, name)
            assert value.dtype == array.dtype
            np.testing.assert_array_equal(value, array)


def named(module, name, **contents):
    """A class that pickles under another module's name."""
    return type(name, (), {"__module__": module, **contents})


STORAGES = {np.dtype(kind): named("torch", f"{name}Storage") for kind, name in {"f4": "Float", "i8": "Long"}.items()}
REBUILD = named("torch._utils", "_rebuild_tensor_v2")
DATA = named("torch_geometric.data.data", "Data")


class Storage:
    def __init__(self, array):
        self.array = array


class Tensor:
    def __init__(self, array):
        array = np.ascontiguousarray(array)
        self.record = Storage(array), 0, array.shape, tuple(step // array.itemsize for step in array.strides)

    def __reduce__(self):
        return REBUILD, (*self.record, False, OrderedDict())


def content(fields, slices):
    data = DATA()
    vars(data).update({"y": None, "pos": None}, **{name: Tensor(array) for name, array in fields.items()})
    return data, {name: Tensor(array) for name, array in slices.items()}


def write(path, value, form="old", view=None, system=True):
    """What `torch.save(value)` writes: the old format by pickles and raw storages, or the new one, a zip archive."""
    storages = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            key = next((key for key, kept in storages.items() if kept is thing), str(len(storages)))
            storages[key] = thing
            of, size = STORAGES[thing.array.dtype], thing.array.size
            return ("storage", of, key, "cpu", size, view) if form == "old" else ("storage", of, key, "cpu", size)

    with pytest.MonkeyPatch.context() as patch:  # the names that the pickle mentions exist while it is written
        for thing in (*STORAGES.values(), REBUILD, DATA):
            parts = thing.__module__.split(".")
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                if not isinstance(sys.modules.get(name), Stub):
                    patch.setitem(sys.modules, name, Stub(name))
            setattr(sys.modules[thing.__module__], thing.__name__, thing)
        file = io.BytesIO()
        Pickler(file, 2).dump(value)

    raw = {key: storage.array.tobytes() for key, storage in storages.items()}
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", file.getvalue())
            archive.writestr("archive/byteorder", "little" if system else "big")
            for key in raw:
                archive.writestr(f"archive/data/{key}", raw[key])
        return
    header = 0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": system, "type_sizes": {}}
    keys = sorted(raw)
    path.write_bytes(
        b"".join(pickle.dumps(part, 2) for part in header)
        + file.getvalue()
        + pickle.dumps(keys, 2)
        + b"".join(struct.pack("<q", storages[key].array.size) + raw[key] for key in keys)
    )


class Stub(ModuleType):
    pass


def refusal(call, *args):
    with pytest.raises(ValueError) as caught:
        call(*args)
    message = str(caught.value)
    assert message.startswith("hu_bio: ") and "\n" not in message
    return message


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("inside", ["", "processed", "supervised/processed", "dataset/supervised/processed"])
def test_the_published_file_gives_its_arrays_wherever_it_lies_in_its_archive(tmp_path, form, inside):
    published = made_up()
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    write(tmp_path / inside / SAVED, content(*published), form)
    assert_is(hu_bio(tmp_path), *published)


def test_it_is_converted_once_and_a_damaged_conversion_is_refused(tmp_path, caplog, monkeypatch):
    published = made_up()
    write(tmp_path / SAVED, content(*published))
    with caplog.at_level(logging.INFO, "metapt"):
        assert_is(hu_bio(str(tmp_path)), *published)
        assert caplog.text.count("converting") == 1 and str(tmp_path / "hu_bio.npz") in caplog.text
        (tmp_path / SAVED).unlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hu_bio.npz", "hu_bio.npz.sha256"]
        monkeypatch.setenv("METAPT_DATA", str(tmp_path))
        assert_is(hu_bio(), *published)
        assert caplog.text.count("converting") == 1
    cache, seal = tmp_path / "hu_bio.npz", tmp_path / "hu_bio.npz.sha256"
    raw = bytearray(cache.read_bytes())
    raw[len(raw) // 2] ^= 1
    cache.write_bytes(raw)
    assert f"{cache} is damaged" in refusal(hu_bio)
    raw[len(raw) // 2] ^= 1
    cache.write_bytes(raw)
    assert_is(hu_bio(), *published)
    seal.unlink()
    assert f"{cache} is damaged" in refusal(hu_bio)


def test_the_path_wins_over_the_environment(tmp_path, monkeypatch):
    for name, seed in ("one", 1), ("two", 2):
        (tmp_path / name).mkdir()
        write(tmp_path / name / SAVED, content(*made_up(seed=seed)))
    monkeypatch.setenv("METAPT_DATA", str(tmp_path / "one"))
    assert_is(hu_bio(), *made_up(seed=1))
    assert_is(hu_bio(tmp_path / "two"), *made_up(seed=2))


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_that_share_a_storage_or_lie_across_it_are_read(tmp_path, form):
    fields, slices = made_up()
    data, starts = content(fields, slices)
    rows = fields["edge_index"].T  # its storage, row by row
    data.edge_index.record = (Storage(rows), 0, rows.T.shape, (1, 2))
    both = Storage(np.concatenate([fields["species_id"], fields["center_node_idx"]]))
    data.species_id.record = both, 0, (6,), (1,)
    data.center_node_idx.record = both, 6, (6,), (1,)
    write(tmp_path / SAVED, (data, starts), form)
    assert_is(hu_bio(tmp_path), fields, slices)


@pytest.mark.parametrize("form", FORMATS)
def test_pytorch_itself_writes_what_is_read(tmp_path, form):
    torch = pytest.importorskip("torch")
    published = made_up()
    data = DATA()
    vars(data).update({name: torch.tensor(array) for name, array in published[0].items()})
    with pytest.MonkeyPatch.context() as patch:
        for name in "torch_geometric", "torch_geometric.data", "torch_geometric.data.data":
            patch.setitem(sys.modules, name, Stub(name))
        vars(sys.modules[DATA.__module__])["Data"] = DATA
        value = data, {name: torch.tensor(array) for name, array in published[1].items()}
        torch.save(value, tmp_path / SAVED, _use_new_zipfile_serialization=form == "zip")
    assert_is(hu_bio(tmp_path), *published)


def test_without_data_the_line_says_what_to_give(tmp_path, monkeypatch):
    assert "no folder is named: give --data FOLDER or METAPT_DATA" in refusal(hu_bio)
    assert f"there is no folder {tmp_path / 'nowhere'}" in refusal(hu_bio, tmp_path / "nowhere")
    assert "no file or folder" in refusal(convert, tmp_path / "nowhere", tmp_path / "hu_bio.npz")
    unlabelled = tmp_path / "dataset" / "unsupervised" / "processed"
    unlabelled.mkdir(parents=True)
    write(unlabelled / SAVED, content(*made_up()))
    assert f"{tmp_path} holds neither hu_bio.npz nor dataset/supervised/processed/{SAVED}" in refusal(hu_bio, tmp_path)


def test_a_target_that_cannot_be_written_is_refused(tmp_path):
    write(tmp_path / SAVED, content(*made_up()))
    assert "there is no folder" in refusal(hu_bio, tmp_path / SAVED)
    for folder in "nowhere", SAVED:
        target = tmp_path / folder / "hu_bio.npz"
        assert f"{target} cannot be written" in refusal(convert, tmp_path / SAVED, target)
    assert [path.name for path in tmp_path.iterdir()] == [SAVED]


class Attack:
    def __init__(self, act, *args):
        self.reduced = act, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", ["all", "field", "slices"])
@pytest.mark.parametrize(("act", "says"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr")])
def test_a_pickle_that_would_act_is_refused_and_does_not(tmp_path, form, place, act, says):
    mark = tmp_path / "mark"
    args = {os.system: (f"touch {mark}",), eval: (f"open({str(mark)!r}, 'w')",), getattr: (mark, "touch")}[act]
    attack = Attack(act, *args)
    data, slices = content(*made_up())
    if place == "field":
        data.extra = attack
    value = {"all": attack, "field": (data, slices), "slices": (data, {**slices, "x": attack})}[place]
    write(tmp_path / SAVED, value, form)
    message = refusal(hu_bio, tmp_path)
    assert f"{tmp_path / SAVED} cannot be read (it asks for " in message and says in message
    assert not mark.exists() and not (tmp_path / "hu_bio.npz").exists()


@pytest.mark.parametrize(
    "name", ["torch_geometric.data.data\nData.__init__.__globals__", "torch\nload", "numpy\nload", "torch._utils\nos"]
)
def test_only_the_exact_names_are_known(tmp_path, name):
    (tmp_path / SAVED).write_bytes(b"c" + name.encode() + b"\n.")
    assert f"it asks for {name.replace(chr(10), '.')}, but only tensors are read" in refusal(hu_bio, tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_cannot_leave_their_storage(tmp_path, form):
    fields, slices = made_up()
    for record in ((6,), 1, (6,), (1,)), ((6,), 0, (7,), (1,)), ((6,), 5, (6,), (-2,)), ((6,), -1, (6,), (1,)):
        data, starts = content(fields, slices)
        data.species_id.record = (Storage(fields["species_id"]), *record[1:])
        write(tmp_path / SAVED, (data, starts), form)
        assert f"{tmp_path / SAVED} cannot be read" in refusal(hu_bio, tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_and_foreign_files_are_refused(tmp_path, form):
    path = tmp_path / SAVED
    write(path, content(*made_up()), form)
    raw = path.read_bytes()
    for broken in b"", b"some text", raw[:10], raw[: len(raw) // 2], raw[:-1], pickle.dumps(made_up()[1]["x"].tolist()):
        path.write_bytes(broken)
        assert f"{path} cannot be read" in refusal(hu_bio, tmp_path)
    for value in None, (), {"x": 1}, (DATA(), {}), (content(*made_up())[0], None):
        write(path, value, form)
        assert f"{path} cannot be read" in refusal(hu_bio, tmp_path)
    write(path, content(*made_up()), form, system=False)
    assert "big-endian" in refusal(hu_bio, tmp_path) or "little-endian" in refusal(hu_bio, tmp_path)
    fields, slices = made_up()
    del fields["go_target_downstream"], slices["go_target_pretrain"]
    write(path, content(fields, slices), form)
    assert "it lacks go_target_pretrain, go_target_downstream" in refusal(hu_bio, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SAVED]


def test_storages_of_another_length_and_views_of_storages_are_refused(tmp_path):
    path = tmp_path / SAVED
    write(path, content(*made_up()))
    raw = path.read_bytes()
    size = struct.pack("<q", 28 * 9)  # of edge_attr
    assert raw.count(size) == 1
    path.write_bytes(raw.replace(size, struct.pack("<q", 28 * 9 - 1)))
    assert "does not have 252 numbers" in refusal(hu_bio, tmp_path)
    write(path, content(*made_up()), view=("1", 0, 6))
    assert "only whole storages" in refusal(hu_bio, tmp_path)


def changed(name, change):
    return lambda fields, slices: fields.update({name: change(fields[name])})


def resliced(name, change):
    return lambda fields, slices: slices.update({name: change(slices[name])})


def entry(index, value):
    def put(array):
        array = array.copy()
        array[index] = value
        return array

    return put


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("x", lambda x: x[:, 0]), "x is float32 [21], but must be [N, 1]"),
        (changed("x", lambda x: x[:-1]), "the slices of x run from 0 to 21, but must rise from 0 to 20"),
        (changed("edge_index", lambda e: e.T), "edge_index is int64 [28, 2], but must be integer [2, N]"),
        (changed("edge_index", lambda e: e.astype(np.float32)), "edge_index is float32 [2, 28], but must be integer"),
        (changed("edge_index", entry((1, 0), 99)), "edge_index has 99, but must stay in 0.."),
        (changed("edge_index", entry((0, -1), -1)), "edge_index has -1, but must stay in 0.."),
        (changed("edge_attr", lambda a: a[:, :8]), "edge_attr is float32 [28, 8], but must be [N, 9]"),
        (changed("edge_attr", entry((3, 2), 0.5)), "edge_attr has values 0.0..1.0, but must have 0 and 1 only"),
        (changed("center_node_idx", entry(2, 5)), "center_node_idx has 5, but must stay in 0.."),
        (changed("center_node_idx", entry(2, -1)), "center_node_idx has -1, but must stay in 0.."),
        (changed("go_target_pretrain", entry(7, 2)), "go_target_pretrain has values 0..2, but must have 0 and 1 only"),
        (changed("go_target_downstream", entry(7, -1)), "go_target_downstream has values -1..1"),
        (resliced("x", entry(0, 1)), "the slices of x run from 1 to 21"),
        (resliced("x", entry(1, 21)), "the slices of x run from 0 to 21, but must rise"),
        (resliced("x", lambda s: s[:-1]), "the slices of x are int64 [6], but must be integer [7]"),
        (resliced("x", lambda s: s.astype(np.float32)), "the slices of x are float32 [7], but must be integer [7]"),
        (resliced("species_id", lambda s: s[:1]), "but must be integer [2]"),
        (resliced("edge_attr", lambda s: entry(1, s[1] - 1)(s)), "slices of edge_attr must be those of edge_index"),
        (resliced("go_target_pretrain", entry(1, 11)), "go_target_pretrain has 11..13 values a graph"),
        (
            lambda fields, slices: (
                fields.update(species_id=np.repeat(fields["species_id"], 2)),
                slices.update(species_id=2 * slices["species_id"]),
            ),
            "species_id has 2..2 values a graph, but must have equally many, an index one",
        ),
    ],
)
def test_other_arrays_are_refused(tmp_path, change, says):
    fields, slices = made_up()
    change(fields, slices)
    write(tmp_path / SAVED, content(fields, slices))
    message = refusal(hu_bio, tmp_path)
    assert f"{tmp_path / SAVED}: " in message and says in message and "unpack bio_dataset.zip again" in message
    assert [path.name for path in tmp_path.iterdir()] == [SAVED]


@pytest.mark.parametrize(("others", "humans"), [(7, 2), (20, 10), (103, 37)])
def test_the_parts_are_disjoint_and_of_the_right_species(others, humans):
    species = np.random.default_rng(0).permutation([9606] * humans + [4932] * (others - 1) + [7227])
    found = species_split(species)
    assert all(part.tolist() == sorted(set(part.tolist())) for part in found.values())
    parts = {name: set(part.tolist()) for name, part in found.items()}
    human = set(np.flatnonzero(species == 9606).tolist())
    easy, hard = parts["test_easy"], parts["test_hard"]
    assert easy | hard <= human and not easy & hard and len(easy) == len(hard) == humans // 2
    assert parts["pretrain"] == set(range(len(species))) - human | easy
    train, validation = parts["finetune_train"], parts["finetune_validation"]
    assert not train & validation and not (train | validation) & human
    assert len(train) == int(0.85 * others) and len(validation) == int(0.15 * others)


def test_the_halves_are_those_of_pythons_shuffle_and_of_the_seed():
    species = np.array([9606] * 12 + [4932] * 20)
    state = random.getstate()
    parts = species_split(species)
    assert random.getstate() == state
    shuffled = [7, 5, 2, 8, 9, 6, 11, 3, 4, 0, 1, 10]  # random.seed(42); random.shuffle(list(range(12)))
    assert parts["test_easy"].tolist() == sorted(shuffled[:6]) and parts["test_hard"].tolist() == sorted(shuffled[6:])
    assert species_split(species, seed=43)["test_easy"].tolist() != parts["test_easy"].tolist()


@pytest.mark.parametrize("species", [[4932] * 20, [9606] * 20, [9606] * 2 + [4932] * 6])
def test_too_few_of_a_kind_are_refused(species):
    with pytest.raises(ValueError, match=r"^species_split: \d+ human proteins \(species 9606\) and \d+ others"):
        species_split(np.array(species))
