"""Electrocardiograms in twelve leads: the record set, its split by patient, its scale, and 2,211 real records."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metapt.checks import axes
from metapt.data.files import locate, read_npz

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SUPERCLASSES = (
    "NORM",
    "MI",
    "STTC",
    "CD",
    "HYP",
)  # normal, infarction, ST/T change, conduction disturbance, hypertrophy
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")  # the others follow from these
_CURE = "give --data PATH or METAPT_DATA with ptbxl_subset.npz"
_KEYS = ("x", "y_super", "patient", "strat_fold", "lead_names", "super_names", "mv_per_unit")
_BLOCK = 256  # records in memory at a time


class Ecg(NamedTuple):
    """N records of T samples, 100 a second; whole numbers, so that they may stay on the disk (memory-mapped)."""

    signals: np.ndarray  # int16 [N, T, 12], the leads as in LEADS
    unit: float  # millivolts of 1 in `signals`
    y: np.ndarray  # uint8 [N, 5], 0 or 1, as in SUPERCLASSES; several may be 1, or none
    patient: np.ndarray  # int32 [N]
    fold: np.ndarray  # uint8 [N]: 1..10, a patient's records in one fold


class Scale(NamedTuple):
    """One mean and one standard deviation over records, times and leads, in millivolts."""

    mean: float
    sd: float


def ptbxl_subset(path: str | Path = "") -> Ecg:
    """2,211 real records of ten seconds, as `ptbxl_subset.npz` has them: `[2211, 1000, 12]` in steps of 0.0025 mV.

    `path` is that file or a folder that holds it; if it is empty, METAPT_DATA is read. The file has eight leads in steps of
    0.005 mV; `twelve_leads` adds the other four.

    Source: Wagner et al. 2020, "PTB-XL, a large publicly available electrocardiography dataset" (CC BY 4.0).

    Raises:
        ValueError: if the file is missing, damaged or not of this layout.
    """
    file = locate("ptbxl_subset", path, "ptbxl_subset.npz", _CURE)
    arrays = read_npz("ptbxl_subset", file, _KEYS, _CURE)
    x, y, patient, fold = (arrays[key] for key in _KEYS[:4])
    for key, value, names in (
        ("lead_names", arrays["lead_names"], EIGHT),
        ("super_names", arrays["super_names"], SUPERCLASSES),
    ):
        if tuple(value.tolist()) != names:
            raise ValueError(f"ptbxl_subset: {file}: {key} is {value.tolist()}, but must be {list(names)}")
    if x.dtype != np.int16 or x.ndim != 3 or x.shape[1] != 8:
        raise ValueError(
            f"ptbxl_subset: {file}: x is {x.dtype} {list(x.shape)}, but must be int16 [records, 8, samples]"
        )
    if y.shape != (len(x), 5) or not np.isin(y, (0, 1)).all():
        raise ValueError(f"ptbxl_subset: {file}: y_super is {list(y.shape)}, but must be 0 or 1, [{len(x)}, 5]")
    if patient.shape != (len(x),) or fold.shape != (len(x),):
        raise ValueError(f"ptbxl_subset: {file}: patient and strat_fold must be [{len(x)}], one a record")
    unit = float(arrays["mv_per_unit"]) / 2
    return Ecg(
        twelve_leads(x.swapaxes(1, 2)), unit, y.astype(np.uint8), patient.astype(np.int32), fold.astype(np.uint8)
    )


def twelve_leads(eight: np.ndarray) -> np.ndarray:
    """I, II, V1..V6 as all of LEADS, in half of their unit: int16 `[..., 8] -> [..., 12]`, without rounding.

    III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.

    Source: Einthoven 1912; Goldberger 1942.

    Raises:
        ValueError: if a value leaves the range of int16.

    Example:
        >>> twelve_leads(np.array([4, 7, 0, 0, 0, 0, 0, 1], np.int16)).tolist()
        [8, 14, 6, -11, 1, 10, 0, 0, 0, 0, 0, 2]
    """
    wide = eight.astype(np.int32)
    i, ii = wide[..., :1], wide[..., 1:2]
    leads = np.concatenate([2 * i, 2 * ii, 2 * (ii - i), -(i + ii), 2 * i - ii, 2 * ii - i, 2 * wide[..., 2:]], axis=-1)
    largest = int(np.abs(leads).max(initial=0))
    if largest > np.iinfo(np.int16).max:
        raise ValueError(
            f"twelve_leads: a lead comes to {largest} half units, but int16 ends at 32767: use a larger unit"
        )
    return leads.astype(np.int16)


def fold_split(fold: np.ndarray, patient: np.ndarray) -> dict[str, np.ndarray]:
    """Sorted rows: `pretrain`, folds 1 to 9, from which to fine-tune too, and `test`, fold 10.

    Source: Raghu et al. 2021, on the folds of Wagner et al. 2020.

    Raises:
        ValueError: if a fold is not in 1..10, a part is empty, or a patient is in both.

    Example:
        >>> parts = fold_split(fold=np.array([1, 10, 9, 3]), patient=np.array([7, 8, 7, 5]))
        >>> {name: rows.tolist() for name, rows in parts.items()}
        {'pretrain': [0, 2, 3], 'test': [1]}
    """
    axes("fold_split: fold", fold, 1)
    axes("fold_split: patient", patient, 1)
    if len(fold) != len(patient):
        raise ValueError(f"fold_split: {len(fold)} folds and {len(patient)} patients: give one of each a record")
    if not np.isin(fold, np.arange(1, 11)).all():
        raise ValueError(f"fold_split: fold has {fold.min()}..{fold.max()}, but must stay in 1..10")
    parts = {"pretrain": np.flatnonzero(fold < 10), "test": np.flatnonzero(fold == 10)}
    for name, rows in parts.items():
        if not len(rows):
            raise ValueError(f"fold_split: no record is in {name}: give records of folds 1 to 9 and of fold 10")
    both = np.intersect1d(patient[parts["pretrain"]], patient[parts["test"]])
    if len(both):
        raise ValueError(f"fold_split: patient {both[0]} has records in fold 10 and in another: put them in one fold")
    return parts


def finetune_split(rng: np.random.Generator, rows: np.ndarray, patient: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Sorted rows: of `size` records drawn from `rows`, a fifth is `validation` (but ten, where half allows), the rest `train`.

    That is 80/20, 15/10 of 25 and 5/5 of 10, as in the paper. The first of the shuffled rows are taken: with the same seed, a
    small `train` is part of a larger one. Rows whose patient is in `train` are passed over for `validation`.

    Source: Raghu et al. 2021, and their published code (which does not look at patients here).

    Raises:
        ValueError: if `size` is below 2, or there are too few rows.

    Example:
        >>> parts = finetune_split(np.random.default_rng(0), rows=np.arange(40), patient=np.arange(40), size=25)
        >>> {name: len(rows) for name, rows in parts.items()}
        {'train': 15, 'validation': 10}
    """
    axes("finetune_split: rows", rows, 1, integer=True)
    axes("finetune_split: patient", patient, 1)
    if len(rows) and len(patient) <= rows.max():
        raise ValueError(
            f"finetune_split: rows go to {rows.max()}, but there are {len(patient)} patients: give all records'"
        )
    if not 2 <= size <= len(rows):
        raise ValueError(f"finetune_split: size={size} must be at least 2, and at most the {len(rows)} rows given")
    validation = max(size // 5, min(10, size // 2))
    shuffled = rng.permutation(rows)
    train, rest = np.split(shuffled, [size - validation])
    others = rest[~np.isin(patient[rest], patient[train])]
    if len(others) < validation:
        raise ValueError(
            f"finetune_split: size={size} needs {validation} records of patients that are not in train, but there are "
            f"{len(others)}: give more rows or a smaller size"
        )
    return {"train": np.sort(train), "validation": np.sort(others[:validation])}


def global_scale(ecg: Ecg, rows: np.ndarray) -> Scale:
    """The mean and the standard deviation of all samples of all leads of `rows`; exact, and read block by block.

    Raises:
        ValueError: if there are no rows, or all samples are equal.

    Example:
        >>> signals = np.tile(np.array([[[1], [3]]], np.int16), 12)
        >>> global_scale(Ecg(signals, 0.5, np.zeros((1, 5)), np.zeros(1), np.ones(1)), np.array([0]))
        Scale(mean=1.0, sd=0.5)
    """
    axes("global_scale: rows", rows, 1, integer=True)
    count = total = squares = 0
    for start in range(0, len(rows), _BLOCK):
        block = ecg.signals[rows[start : start + _BLOCK]].astype(np.int64)
        count, total, squares = count + block.size, total + int(block.sum()), squares + int((block**2).sum())
    if count * squares == total**2:
        raise ValueError(
            f"global_scale: {len(rows)} rows of {count} equal samples have no scale: give records that vary"
        )
    return Scale(ecg.unit * total / count, ecg.unit * (count * squares - total**2) ** 0.5 / count)


def normalise(ecg: Ecg, rows: np.ndarray, scale: Scale, length: int = 1024) -> np.ndarray:
    """(millivolts - mean) / sd of `rows`, then zeros up to `length` samples: float32 `[n, length, 12]`.

    Raises:
        ValueError: if the records are longer than `length`.

    Example:
        >>> signals = np.tile(np.array([[[1], [3]]], np.int16), 12)
        >>> ecg = Ecg(signals, 0.5, np.zeros((1, 5)), np.zeros(1), np.ones(1))
        >>> normalise(ecg, np.array([0]), Scale(mean=1.0, sd=0.5), length=3)[0, :, 0].tolist()
        [-1.0, 1.0, 0.0]
    """
    axes("normalise: rows", rows, 1, integer=True)
    samples = ecg.signals.shape[1]
    if length < samples:
        raise ValueError(f"normalise: length={length} must be at least the {samples} samples of a record")
    x = np.zeros((len(rows), length, len(LEADS)), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = ecg.signals[rows[start : start + _BLOCK]]
        x[start : start + _BLOCK, :samples] = (block * np.float32(ecg.unit) - np.float32(scale.mean)) / np.float32(
            scale.sd
        )
    return x
