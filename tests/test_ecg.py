"""Electrocardiograms: records and labels come back as they were written, patients stay apart, the model obeys its equation."""

import csv
import hashlib
import runpy
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.signal import find_peaks
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metapt.data import (
    LEADS,
    SUPERCLASSES,
    Beat,
    Ecg,
    Scale,
    download_ptbxl,
    ecgsyn,
    finetune_split,
    fold_split,
    generated_ecg,
    global_scale,
    normalise,
    ptbxl,
    ptbxl_subset,
    superclasses,
    tachogram,
    twelve_leads,
)

LEAD = {name: i for i, name in enumerate(LEADS)}
STATEMENTS = {"NORM": "NORM", "IMI": "MI", "ASMI": "MI", "NST_": "STTC", "CLBBB": "CD", "LVH": "HYP"}
CODES = (
    {"NORM": 100.0, "SR": 0.0, "LVOLT": 0.0},
    {"IMI": 15.0, "LVH": 0.0},
    {"SR": 0.0},
    {"ASMI": 100.0, "IMI": 0.0, "CLBBB": 100.0},
    {"NST_": 35.0},
)
LABELS = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0]]
NAMES = [f"records100/{1000 * (i // 3):05d}/{i + 1:05d}_lr" for i in range(5)]
CACHE = ["ptbxl_labels.npz", "ptbxl_labels.npz.sha256", "ptbxl_signals.npy", "ptbxl_signals.npy.sha256"]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    monkeypatch.delenv("METAPT_DATA", raising=False)


def refusal(call, *args):
    with pytest.raises(ValueError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{call.__name__}: ")
    return message


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_database(folder, names=NAMES):
    rows = [
        [i + 1, f"{70 + i // 2}.0", "a report, with\n'quotes' and \"lines\"", str(codes), 1 + i, name]
        for i, (name, codes) in enumerate(zip(names, CODES, strict=True))
    ]
    write_table(
        folder / "ptbxl_database.csv",
        [["ecg_id", "patient_id", "report", "scp_codes", "strat_fold", "filename_lr"], *rows],
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder like PhysioNet's, and the samples of its five records."""
    wfdb = pytest.importorskip("wfdb", reason="writes records with wfdb: pip install 'metapt[ecg]'")
    folder = tmp_path_factory.mktemp("published")
    samples = np.random.default_rng(0).integers(-32767, 32768, (5, 1000, 12), np.int16)
    for name, x in zip(NAMES, samples, strict=True):
        write_record(wfdb, folder / name, x)
    write_database(folder)
    diagnostic = [[name, "1.0", "", kind] for name, kind in STATEMENTS.items()]
    other = [["SR", "", "", ""], ["LVOLT", "", "1.0", "MI"]]  # a class says nothing of what is no diagnosis
    write_table(folder / "scp_statements.csv", [["", "diagnostic", "form", "diagnostic_class"], *diagnostic, *other])
    return folder, samples


def write_record(wfdb, path, samples, rate=100, leads=LEADS, gain=1000.0, baseline=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(leads)
    wfdb.wrsamp(
        path.name,
        fs=rate,
        units=["mV"] * n,
        sig_name=[name.upper() for name in leads],
        d_signal=samples,
        fmt=["16"] * n,
        adc_gain=[gain] * n,
        baseline=[baseline] * n,
        write_dir=str(path.parent),
    )


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published[0], tmp_path / "ptbxl"), published[1]


def cached(folder):
    return sorted(path.name for path in folder.iterdir() if "ptbxl_" in path.name and path.suffix != ".csv")


def test_twelve_leads_obey_einthoven_and_goldberger_exactly():
    eight = np.random.default_rng(0).integers(-8191, 8192, (50, 8), np.int16)
    of = dict(zip(LEADS, twelve_leads(eight).astype(float).T, strict=True))  # in half units
    i, ii = eight[:, 0].astype(float), eight[:, 1].astype(float)
    np.testing.assert_array_equal(of["I"], 2 * i)
    np.testing.assert_array_equal(of["II"], 2 * ii)
    np.testing.assert_array_equal(of["III"], 2 * (ii - i))
    np.testing.assert_array_equal(of["aVR"], -(i + ii))
    np.testing.assert_array_equal(of["aVL"], 2 * (i - ii / 2))
    np.testing.assert_array_equal(of["aVF"], 2 * (ii - i / 2))
    for k in range(6):
        np.testing.assert_array_equal(of[f"V{k + 1}"], 2.0 * eight[:, 2 + k])
    assert "a lead comes to 65536" in refusal(twelve_leads, np.array([-16384, 0, 0, 0, 0, 0, 0, 0], np.int16) * 2)


def test_any_diagnostic_statement_gives_its_superclass():
    for codes, label in zip(CODES, LABELS, strict=True):
        assert superclasses(codes, STATEMENTS).tolist() == label
    assert SUPERCLASSES == ("NORM", "MI", "STTC", "CD", "HYP")


def test_parts_share_no_patient_and_a_shared_one_is_refused():
    rng = np.random.default_rng(0)
    patient = rng.integers(0, 400, 1000)
    fold = 1 + patient % 10
    parts = fold_split(fold, patient)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1000)) and set(fold[parts["test"]]) == {10}
    fine = finetune_split(rng, parts["pretrain"], patient, 250)
    assert set(fine["train"]) | set(fine["validation"]) <= set(parts["pretrain"])
    assert len(set(fine["train"])) == 200 and len(set(fine["validation"])) == 50
    assert not set(patient[fine["train"]]) & set(patient[fine["validation"]])
    fold[np.flatnonzero(patient == 9)[0]] = 3
    assert "patient 9 has records in fold 10 and in another" in refusal(fold_split, fold, patient)
    assert "fold has 0..9" in refusal(fold_split, fold - 1, patient)
    assert "no record is in test" in refusal(fold_split, np.minimum(fold, 9), patient)


@pytest.mark.parametrize(
    ("size", "validation"), [(2, 1), (3, 1), (10, 5), (25, 10), (49, 10), (50, 10), (100, 20), (2500, 500)]
)
def test_fine_tuning_sizes_are_those_of_the_paper(size, validation):
    rows = np.arange(7, 3007)
    parts = finetune_split(np.random.default_rng(1), rows, np.arange(4000), size)
    first = np.random.default_rng(1).permutation(rows)[:size]  # no patient twice: the first of the shuffled pool
    assert parts["validation"].tolist() == sorted(first[size - validation :])
    assert parts["train"].tolist() == sorted(first[: size - validation])


def test_impossible_fine_tuning_sets_are_refused():
    rng, rows = np.random.default_rng(0), np.arange(40)
    for size in 1, 41:
        assert f"size={size} must be at least 2, and at most the 40 rows" in refusal(
            finetune_split, rng, rows, rows, size
        )
    message = refusal(finetune_split, rng, rows, np.zeros(40, int), 10)
    assert "needs 5 records of patients that are not in train, but there are 0" in message


def test_one_scale_for_all_leads_and_zeros_at_the_end(tmp_path):
    rng = np.random.default_rng(0)
    stored = rng.integers(-32768, 32768, (600, 20, 12), np.int16)
    np.save(tmp_path / "signals.npy", stored)
    ecg = Ecg(np.load(tmp_path / "signals.npy", mmap_mode="r"), 0.001, *(np.zeros(600, np.uint8),) * 3)
    rows = rng.permutation(600)[:550]  # more than are read at a time
    millivolts = stored[rows] * 0.001
    scale = global_scale(ecg, rows)
    np.testing.assert_allclose(scale, (millivolts.mean(), millivolts.std()), rtol=1e-12)
    x = normalise(ecg, rows, scale, length=24)
    assert x.dtype == np.float32 and x.shape == (550, 24, 12) and not x[:, 20:].any()
    np.testing.assert_allclose(x[:, :20], (millivolts - scale.mean) / scale.sd, atol=1e-5)
    assert "length=19 must be at least the 20 samples" in refusal(normalise, ecg, rows, scale, 19)
    assert "have no scale" in refusal(global_scale, ecg._replace(signals=np.ones((600, 20, 12), np.int16)), rows)


def test_published_records_come_back_exactly_and_stay_on_the_disk(copy, monkeypatch):
    folder, samples = copy
    found = ptbxl(folder)
    assert isinstance(found.signals, np.memmap) and found.signals.dtype == np.int16 and found.unit == 0.001
    np.testing.assert_array_equal(found.signals, samples)
    assert found.y.tolist() == LABELS and found.y.dtype == np.uint8
    assert found.patient.tolist() == [70, 70, 71, 71, 72] and found.fold.tolist() == [1, 2, 3, 4, 5]
    assert cached(folder) == CACHE
    shutil.rmtree(folder / "records100")  # read once
    monkeypatch.setenv("METAPT_DATA", str(folder))
    np.testing.assert_array_equal(ptbxl().signals, samples)


@pytest.mark.parametrize("lost", [0, 1, 24_000, 24_001])
def test_an_interrupted_conversion_goes_on_where_it_was(copy, monkeypatch, lost):
    import wfdb

    folder, _ = copy
    whole = shutil.copytree(folder, folder.with_name("whole"))
    ptbxl(whole)
    rdrecord, read = wfdb.rdrecord, []

    def interrupted(path, **options):
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(path)
        return rdrecord(path, **options)

    monkeypatch.setattr(wfdb, "rdrecord", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ptbxl(folder)
    (part,) = folder.glob(".*.part")
    part.write_bytes(part.read_bytes()[: -lost or None])  # not all of it came to the disk
    again = []
    monkeypatch.setattr(wfdb, "rdrecord", lambda path, **options: again.append(path) or rdrecord(path, **options))
    ptbxl(folder)
    assert len(again) == 2 + -(-lost // 24_000)
    assert cached(folder) == CACHE
    assert same(folder / CACHE[2], whole / CACHE[2]) and same(folder / CACHE[3], whole / CACHE[3])


def same(one, other):
    return one.read_bytes() == other.read_bytes()


def test_what_was_begun_for_other_records_is_not_gone_on_with(copy, monkeypatch):
    folder, samples = copy
    (folder / f"{NAMES[4]}.dat").rename(folder / "aside")
    assert "05_lr cannot be read" in refusal(ptbxl, folder)
    (folder / "aside").rename(folder / f"{NAMES[4]}.dat")
    write_database(folder, NAMES[::-1])
    np.testing.assert_array_equal(ptbxl(folder).signals, samples[::-1])


def test_a_damaged_cache_is_refused_and_named(copy):
    folder, samples = copy
    ptbxl(folder)
    for name in "ptbxl_signals.npy", "ptbxl_labels.npz":
        cache = folder / name
        good = cache.read_bytes()
        middle = len(good) // 2
        for bad in good[:-1], good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :], b"":
            cache.write_bytes(bad)
            assert f"{cache} is damaged" in refusal(ptbxl, folder)
        cache.write_bytes(good)
        seal = folder / f"{name}.sha256"
        seal.rename(folder / "aside")
        assert f"{cache} is damaged" in refusal(ptbxl, folder)
        (folder / "aside").rename(seal)
    (folder / "ptbxl_labels.npz").unlink()
    message = refusal(ptbxl, folder)
    assert "ptbxl_labels.npz is damaged" in message and "delete ptbxl_signals.npy" in message
    (folder / "ptbxl_signals.npy").unlink()
    np.testing.assert_array_equal(ptbxl(folder).signals, samples)


def test_damaged_and_foreign_records_are_refused(copy):
    import wfdb

    folder, samples = copy
    path = folder / NAMES[2]
    data = path.with_suffix(".dat")
    good = data.read_bytes()
    for bad, says in [
        (good[:-2], "cannot be read"),
        (b"", "cannot be read"),
        (good[:99] + bytes([good[99] ^ 1]) + good[100:], "its samples are not what its header says"),
    ]:
        data.write_bytes(bad)
        message = refusal(ptbxl, folder)
        assert str(path) in message and says in message
    for options, says in [
        ({"rate": 500}, "samples a second: 500, but must be 100"),
        ({"leads": LEADS[::-1]}, "leads: ['V6', 'V5'"),
        ({"gain": 200.0}, "units a millivolt: {(200.0, 0, 'mV')}"),
        ({"baseline": 3}, "units a millivolt: {(1000.0, 3, 'mV')}"),
    ]:
        write_record(wfdb, path, samples[2], **options)
        assert says in refusal(ptbxl, folder)
    write_record(wfdb, path, samples[2][:999])
    assert "shape: (999, 12), but must be (1000, 12)" in refusal(ptbxl, folder)
    path.with_suffix(".hea").write_text("no header")
    assert f"{path} cannot be read" in refusal(ptbxl, folder)
    assert "ptbxl_signals.npy" not in cached(folder)


@pytest.mark.parametrize("name", ["../records100/00000/00001_lr", "/etc/hosts", "records100/../00001_lr", ""])
def test_tables_cannot_lead_out_of_the_folder(copy, name):
    folder, _ = copy
    write_database(folder, [*NAMES[:4], name])
    assert f"names the record {name!r}, but it must be records100/" in refusal(ptbxl, folder)


def test_tables_that_are_missing_or_no_tables_are_refused(copy, tmp_path):
    folder, _ = copy
    assert "no folder is named" in refusal(ptbxl)
    assert "there is no folder" in refusal(ptbxl, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert f"no file {tmp_path / 'empty' / 'ptbxl_database.csv'}" in refusal(ptbxl, tmp_path / "empty")
    table = (folder / "ptbxl_database.csv").read_text()
    attack = f"open({str(tmp_path / 'mark')!r}, 'w')"
    for bad in (
        "",
        "a,b\n1,2\n",
        table.replace("100.0", attack),
        table.replace("70.0", "nobody"),
        table + "\0",
        table[:-40],
    ):
        (folder / "ptbxl_database.csv").write_text(bad)
        assert f"the tables in {folder} cannot be read" in refusal(ptbxl, folder)
    (folder / "ptbxl_database.csv").write_bytes(b"\xff\xfe")
    assert f"the tables in {folder} cannot be read" in refusal(ptbxl, folder)
    assert not (tmp_path / "mark").exists()


def test_a_missing_extra_is_named_and_nothing_else_needs_it(copy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wfdb", None)
        assert "pip install 'metapt[ecg]'" in refusal(ptbxl, copy[0])
    assert cached(copy[0]) == []
    ptbxl(copy[0])
    monkeypatch.setitem(sys.modules, "wfdb", None)
    assert runpy.run_path(sys.modules[ptbxl.__module__].__file__)["ptbxl"](copy[0]).y.tolist() == LABELS


class Server:
    """PhysioNet as the test wants it: `files` by path, the answer to each cut by `cut` bytes; what was asked is in `asked`."""

    def __init__(self, folder):
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
        self.files["SHA256SUMS.txt"] = self.sums()
        self.cut, self.asked = {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix("/ptb-xl/")
                server.asked.append(name)
                if name not in server.files:
                    return self.send_error(404)
                content = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) - server.cut.get(name, 0)])

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/ptb-xl"

    def sums(self):
        return "".join(f"{hashlib.sha256(x).hexdigest()} {name}\n" for name, x in self.files.items()).encode()


@pytest.fixture
def physionet(published):
    server = Server(published[0])
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def test_a_download_is_checked_kept_and_taken_up_again(physionet, published, tmp_path):
    folder, name = tmp_path / "new", f"{NAMES[1]}.dat"
    physionet.files["LICENSE.txt"] = b"not needed"
    physionet.files["SHA256SUMS.txt"] = physionet.sums()
    physionet.cut[name] = 1
    message = refusal(download_ptbxl, folder, physionet.url)
    assert f"{physionet.url}/{name} cannot be fetched" in message and physionet.asked.count(name) == 3
    assert not (folder / name).exists()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(physionet.files[name][:100])  # as another program may have left it
    physionet.cut.clear()
    download_ptbxl(str(folder), physionet.url + "/")
    for path in (path for path in published[0].rglob("*.*")):
        assert same(path, folder / path.relative_to(published[0]))
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 12
    physionet.asked.clear()
    (folder / name).write_bytes(physionet.files[name][:-1] + b"!")
    download_ptbxl(folder, physionet.url)
    assert sorted(physionet.asked) == sorted(["SHA256SUMS.txt", name])
    np.testing.assert_array_equal(ptbxl(folder).signals, published[1])


def test_files_that_are_not_what_their_checksum_says_are_not_kept(physionet, tmp_path):
    name = f"{NAMES[3]}.hea"
    physionet.files[name] += b"\n"
    message = refusal(download_ptbxl, tmp_path, physionet.url)
    assert f"{physionet.url}/{name} is not what its checksum says" in message
    assert not (tmp_path / name).exists() and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    "name", ["records100/../../evil_lr.dat", "records100/00000/../../../00001_lr.dat", "records100/00000/00001_lr.exe"]
)
def test_lists_cannot_lead_out_of_the_folder(physionet, tmp_path, name):
    physionet.files["SHA256SUMS.txt"] += f"{'0' * 64}  {name}\n".encode()
    assert f"lists {name!r}, but records must be" in refusal(download_ptbxl, tmp_path / "new", physionet.url)
    assert not (tmp_path / "new").exists() and physionet.asked == ["SHA256SUMS.txt"]


def test_other_paths_of_a_list_are_not_followed(physionet, tmp_path):
    for name in "../ptbxl_database.csv", "/tmp/scp_statements.csv", "records500/00000/00001_hr.dat":
        physionet.files["SHA256SUMS.txt"] += f"{'0' * 64}  {name}\n".encode()
    download_ptbxl(tmp_path / "new", physionet.url)
    assert len(physionet.asked) == 13 and [path.name for path in tmp_path.iterdir()] == ["new"]


def test_sources_without_ptbxl_are_refused(physionet, tmp_path):
    assert "SHA256SUMS.txt cannot be fetched" in refusal(download_ptbxl, tmp_path, f"{physionet.url}/nowhere")
    assert "cannot be fetched (unknown url type" in refusal(download_ptbxl, tmp_path, "nowhere")
    for sums in b"", b"<html>", b"\xff":
        physionet.files["SHA256SUMS.txt"] = sums
        assert "does not list ptbxl_database.csv" in refusal(download_ptbxl, tmp_path, physionet.url)
    (tmp_path / "file").touch()
    physionet.files["SHA256SUMS.txt"] = physionet.sums()
    assert "cannot be written" in refusal(download_ptbxl, tmp_path / "file", physionet.url)


def two_leads(rng, n=3, events=5):
    """Records of a normal beat of McSharry et al., table I, with events of their own in a second lead."""
    angle = np.deg2rad([-70, -15, 0, 15, 100]) * rng.uniform(0.8, 1.2, (n, 1))
    a = np.stack([np.tile([1.2, -5, 30, -7.5, 0.75], (n, 1)), rng.normal(0, 10, (n, events))], axis=-1)
    return Beat(
        angle, np.tile([0.25, 0.1, 0.1, 0.1, 0.4], (n, 1)), a, rng.normal(0, 0.15, (n, 2)), rng.uniform(0.2, 0.3, n)
    )


def test_the_model_solves_the_published_equations():
    """All three of them, x and y too, by a general method in small steps."""
    rng = np.random.default_rng(0)
    beat, samples = two_leads(rng), 301
    rr = tachogram(rng, mean=np.array([1.0, 0.7, 0.5]), sd=np.array([0.0, 0.03, 0.02]), samples=samples)
    start = np.array([-2.0, 0.5, 3.0])
    times = np.arange(rr.shape[1]) / 400
    found = ecgsyn(rr, start, beat)
    assert found.shape == (3, samples, 2)
    for i in range(3):

        def slope(t, state, i=i):
            x, y, *z = state
            alpha, omega = 1 - np.hypot(x, y), 2 * np.pi / np.interp(t, times, rr[i])
            d = np.mod(np.arctan2(y, x) - beat.angle[i] + np.pi, 2 * np.pi) - np.pi
            baseline = beat.wander[i] * np.sin(2 * np.pi * beat.breath[i] * t)
            drive = (beat.a[i] * (d * np.exp(-(d**2) / (2 * beat.width[i] ** 2)))[:, None]).sum(0)
            return [alpha * x - omega * y, alpha * y + omega * x, *(-drive - (z - baseline))]

        solved = solve_ivp(
            slope,
            (0, 3),
            [np.cos(start[i]), np.sin(start[i]), 0, 0],
            t_eval=times[::4],
            max_step=2e-3,
            rtol=1e-8,
            atol=1e-10,
        )
        np.testing.assert_allclose(found[i], solved.y[2:].T, rtol=0, atol=1e-4 * np.abs(found[i]).max())


def test_heart_rate_and_heights_are_as_asked():
    rate = np.array([50.0, 75.0, 120.0])
    omega, width, height = 2 * np.pi * rate / 60, 0.1, 1.5
    one = lambda value: np.full((3, 1), value)
    a = (height * omega / width**2)[:, None, None]
    beat = Beat(one(0.0), one(width), a, one(0.0), np.zeros(3))
    z = ecgsyn(np.tile(60 / rate[:, None], 4 * 5999 + 1), np.full(3, -np.pi), beat)[..., 0]
    for signal, beats in zip(z, rate, strict=True):
        peaks, _ = find_peaks(signal, height=0.7)
        assert len(peaks) == beats  # a minute
        assert abs(signal[peaks[-1]] - np.median(signal) - height) < 0.06 * height


def test_intervals_vary_in_two_bands_as_much_as_asked():
    mean, sd = np.array([0.8, 1.0]), np.array([0.05, 0.02])
    rr = tachogram(np.random.default_rng(0), mean, sd, samples=10_000)[:, :40_000]
    assert rr.shape == (2, 39_997)
    np.testing.assert_allclose(rr.mean(1), mean, rtol=1e-3)
    np.testing.assert_allclose(rr.std(1), sd, rtol=1e-3)
    power = np.abs(np.fft.rfft(rr - rr.mean(1, keepdims=True))) ** 2
    f = np.fft.rfftfreq(rr.shape[1], 1 / 400)
    band = lambda centre: power[:, np.abs(f - centre) < 0.045].sum(1)
    np.testing.assert_allclose(band(0.1) / band(0.25), 0.5, rtol=0.01)
    np.testing.assert_allclose(band(0.1) + band(0.25), power.sum(1), rtol=0.01)


def test_made_up_records_are_their_seed_and_obey_the_leads():
    ecg = generated_ecg(seed=3, records=60, seconds=4)
    assert ecg.signals.shape == (60, 400, 12) and ecg.signals.dtype == np.int16 and ecg.y.shape == (60, 5)
    for field, again, other in zip(ecg, generated_ecg(3, 60, 4), generated_ecg(4, 60, 4), strict=True):
        np.testing.assert_array_equal(field, again)
        assert np.shape(field) == np.shape(other)
    assert (ecg.signals != generated_ecg(4, 60, 4).signals).mean() > 0.5
    of = dict(zip(LEADS, np.moveaxis(ecg.signals.astype(int), -1, 0), strict=True))
    np.testing.assert_array_equal(of["I"] + of["III"], of["II"])
    np.testing.assert_array_equal(of["aVR"] + of["aVL"] + of["aVF"], 0)
    np.testing.assert_array_equal(2 * of["aVF"], of["II"] + of["III"])
    assert len(np.unique(ecg.patient)) == 60 and len(fold_split(ecg.fold, ecg.patient)["test"]) == 6
    for records, seconds in (0, 10), (5, 0):
        assert f"records={records} and seconds={seconds} must be at least 1" in refusal(
            generated_ecg, 0, records, seconds
        )


def test_made_up_diagnoses_can_be_learned_and_not_at_once():
    ecg = generated_ecg(seed=0, records=700)
    assert np.bincount(ecg.fold).tolist() == [0, *[70] * 10]
    np.testing.assert_allclose(ecg.y.mean(0), [0.43, 0.22, 0.23, 0.2, 0.11], atol=0.06)
    assert (ecg.y[:, 0] == (ecg.y[:, 1:].sum(1) == 0)).all() and (ecg.y.sum(1) > 1).mean() > 0.1
    x = np.quantile(ecg.signals, [0.01, 0.03, 0.1, 0.5, 0.9, 0.97, 0.99], axis=1).swapaxes(0, 1).reshape(700, -1)
    for name, y in zip(SUPERCLASSES, ecg.y.T, strict=True):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=500)).fit(x[:500], y[:500])
        score = roc_auc_score(y[500:], model.decision_function(x[500:]))
        assert 0.62 < score < 0.97, f"{name}: {score}"


def test_the_subset_is_refused_where_it_is_not_of_its_layout(tmp_path):
    names = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    good = {
        "x": np.arange(3 * 8 * 20, dtype=np.int16).reshape(3, 8, 20),
        "y_super": np.eye(3, 5, dtype=np.uint8),
        "patient": np.array([5, 6, 7]),
        "strat_fold": np.array([1, 9, 10]),
        "lead_names": np.array(names),
        "super_names": np.array(SUPERCLASSES),
        "mv_per_unit": np.float32(0.005),
    }
    np.savez(tmp_path / "ptbxl_subset.npz", **good)
    found = ptbxl_subset(tmp_path)
    assert found.signals.shape == (3, 20, 12) and found.unit == pytest.approx(0.0025)
    np.testing.assert_array_equal(found.signals[..., LEAD["V4"]], 2 * good["x"][:, 5])
    for key, value, says in [
        ("lead_names", np.array(names[::-1]), "lead_names is ['V6'"),
        ("super_names", np.array(SUPERCLASSES[::-1]), "super_names is ['HYP'"),
        ("x", good["x"].astype(float), "x is float64 [3, 8, 20], but must be int16 [records, 8, samples]"),
        ("x", good["x"][:, :7], "x is int16 [3, 7, 20]"),
        ("y_super", 2 * good["y_super"], "y_super is [3, 5], but must be 0 or 1, [3, 5]"),
        ("patient", np.arange(4), "patient and strat_fold must be [3]"),
        ("mv_per_unit", np.array(None), "is no .npz archive, or damaged"),  # a pickle
    ]:
        np.savez(tmp_path / "ptbxl_subset.npz", **good | {key: value})
        assert says in refusal(ptbxl_subset, tmp_path)
    assert "no data given" in refusal(ptbxl_subset)


def test_real_records_look_like_hearts(shared_data):
    """A shuffled label, a wrong sign or two swapped leads would show."""
    ecg = ptbxl_subset(shared_data)
    assert ecg.signals.shape == (2211, 1000, 12) and ecg.y.shape == (2211, 5)
    np.testing.assert_allclose(ecg.y.mean(0), [0.476, 0.226, 0.234, 0.202, 0.112], atol=0.001)
    parts = fold_split(ecg.fold, ecg.patient)
    assert [len(rows) for rows in parts.values()] == [1960, 251]
    only = lambda name: (ecg.y.sum(1) == 1) & (ecg.y[:, SUPERCLASSES.index(name)] == 1)
    high = np.median(np.quantile(ecg.signals[only("NORM")], 0.995, axis=1), axis=0) * ecg.unit
    low = np.median(np.quantile(ecg.signals[only("NORM")], 0.005, axis=1), axis=0) * ecg.unit
    assert -low[LEAD["aVR"]] > 2 * high[LEAD["aVR"]] and high[LEAD["II"]] > -3 * low[LEAD["II"]]
    assert -low[LEAD["V1"]] > 2 * high[LEAD["V1"]] and high[LEAD["V5"]] > -2 * low[LEAD["V5"]]
    assert np.all(np.diff(high[6:11]) > 0)  # R grows from V1 to V5
    tall = np.median(np.quantile(ecg.signals[only("HYP")], 0.995, axis=1), axis=0) * ecg.unit
    assert tall[LEAD["V5"]] > 1.3 * high[LEAD["V5"]]
    scale = global_scale(ecg, parts["pretrain"])
    assert isinstance(scale, Scale) and abs(scale.mean) < 0.05 and 0.1 < scale.sd < 0.5
    x = normalise(ecg, parts["pretrain"], scale)
    assert x.shape == (1960, 1024, 12) and not x[:, 1000:].any()
    assert abs(x[:, :1000].mean()) < 1e-3 and abs(x[:, :1000].std() - 1) < 1e-3
