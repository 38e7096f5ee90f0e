"""Made-up electrocardiograms from a dynamical model of the heart beat: any number of records in twelve leads, labelled."""

from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

from metapt.checks import axes
from metapt.data.ecg import EIGHT, SUPERCLASSES, Ecg, twelve_leads

RATE = 100  # samples a second
_GRID = 4  # times a sample at which the forcing is known: two steps, each with its middle
_STEP = 0.005  # millivolts of 1, of the eight leads
_BLOCK = 25  # records at a time: what is computed of them fits into a cache
_SETTLE = 2  # seconds before a record: z relaxes at a rate of 1 a second
_EVENTS = ("P", "Q", "R", "S", "late", "ST", "T")  # late: where a blocked bundle's half of the ventricles comes
_QRS = np.isin(_EVENTS, ("Q", "R", "S", "late"))
_ANGLE = np.deg2rad([-60, -10, 0, 9, 22, 60, 101])  # at 60 beats a minute
_WIDTH = np.array([0.2, 0.06, 0.06, 0.08, 0.1, 0.35, 0.3])
_STRETCH = np.array([0.25, 0.5, 0.0, 0.5, 0.5, 0.25, 0.25])  # powers of the heart rate, as in ECGSYN
_HEIGHT = np.array(  # millivolts in I, II, V1..V6: after the median beat of normal records of PTB-XL
    [
        [0.07, 0.10, 0.03, 0.04, 0.05, 0.05, 0.05, 0.05],
        [-0.08, -0.08, 0.17, 0.32, 0.32, 0.00, -0.08, -0.09],
        [0.80, 1.00, -0.70, -0.60, 0.70, 1.55, 1.55, 1.30],
        [-0.07, -0.10, -0.60, -0.95, -0.90, -0.50, -0.20, -0.04],
        [0.00] * 8,
        [0.01, 0.02, 0.03, 0.11, 0.11, 0.06, 0.02, 0.01],
        [0.18, 0.23, 0.03, 0.38, 0.43, 0.38, 0.30, 0.22],
    ]
)


class Beat(NamedTuple):
    """How z is driven in N records, with E events a beat and L leads."""

    angle: np.ndarray  # [N, E] where on the circle an event is, theta_i; R is at 0
    width: np.ndarray  # [N, E] b_i, rad
    a: np.ndarray  # [N, E, L] a_i, mV a second: an event alone is about a b^2 / omega mV high
    wander: np.ndarray  # [N, L] A, mV: the baseline that z is drawn to, A sin(2 pi f_2 t)
    breath: np.ndarray  # [N] f_2, Hz


class _Change(NamedTuple):
    """What a diagnosis of full severity does: events are scaled by 1 + `scale`, then `add` comes on top (mV; I, II, V1..V6)."""

    superclass: str
    scale: dict[str, tuple[float, ...]]
    add: dict[str, tuple[float, ...]]
    widen: float = 0.0  # of the QRS complex


_CHANGES = (
    _Change(  # anterior
        "MI",
        scale={"R": (0, 0, 0, -0.3, -0.6, -0.5, -0.2, 0), "T": (-0.4, 0, 0, -0.9, -1.2, -1.1, -0.8, -0.4)},
        add={"Q": (0, 0, -0.12, -0.4, -0.45, -0.3, -0.1, 0), "ST": (0, 0, 0.03, 0.1, 0.12, 0.08, 0, 0)},
    ),
    _Change(  # inferior: in II and not in I is in III and aVF
        "MI",
        scale={"R": (0.1, -0.5, 0, 0, 0, 0, 0, 0), "T": (0, -1.0, 0, 0, 0, 0, -0.3, -0.3)},
        add={"Q": (0, -0.25, 0, 0, 0, 0, 0, -0.05), "ST": (-0.02, 0.06, 0, -0.03, 0, 0, 0, 0)},
    ),
    _Change(  # lateral
        "MI",
        scale={"R": (-0.5, 0, 0, 0, 0, -0.2, -0.4, -0.5), "T": (-1.1, -0.3, 0, 0, 0, -0.5, -1.0, -1.2)},
        add={"Q": (-0.15, 0, 0, 0, 0, -0.05, -0.2, -0.25), "ST": (0.05, 0, -0.02, 0, 0, 0, 0.06, 0.06)},
    ),
    _Change(  # depressed ST, flat T
        "STTC",
        scale={"T": (-0.9, -0.9, 0, -0.4, -0.6, -0.8, -0.9, -0.9)},
        add={"ST": (-0.06, -0.08, 0.02, 0, -0.05, -0.1, -0.1, -0.08)},
    ),
    _Change("STTC", scale={"T": (-0.7, -0.7, -0.5, -1.2, -1.4, -1.5, -1.3, -1.1)}, add={}),  # inverted T
    _Change(  # right bundle
        "CD",
        scale={"S": (0, 0, -0.6, -0.3, 0, 0, 0, 0)},
        add={
            "late": (-0.2, -0.1, 0.8, 0.45, 0.05, -0.1, -0.25, -0.25),
            "T": (0, 0, -0.15, -0.1, 0, 0, 0, 0),
        },
        widen=0.25,
    ),
    _Change(  # left bundle
        "CD",
        scale={"Q": (-1,) * 8, "T": (-1.3, -0.4, 0, 0, 0, -0.5, -1.2, -1.4)},
        add={
            "late": (0.45, 0.1, -0.5, -0.7, -0.5, 0, 0.5, 0.6),
            "ST": (-0.03, 0, 0.06, 0.1, 0.1, 0.02, -0.04, -0.05),
        },
        widen=0.6,
    ),
    _Change(
        "HYP",
        scale={
            "R": (0.3, 0.15, 0.6, 0.6, 0.1, 0.6, 0.9, 0.7),
            "S": (0, 0, 0.6, 0.5, 0.1, 0, 0, 0),
            "T": (-0.4, -0.1, 0, 0, 0, 0, -0.3, -0.6),
        },
        add={},
    ),
)
_SHARE = {"MI": 0.22, "STTC": 0.23, "CD": 0.2, "HYP": 0.11}  # of the records; what has none of them is NORM


def generated_ecg(seed: int, records: int, seconds: int = 10) -> Ecg:
    """Records of made-up patients, one each, with diagnoses that change the beat: int16 `[records, 100 * seconds, 12]`.

    Heart rate, axis, rotation, sizes, times, breathing and noise are a patient's own. A diagnosis comes in one of several
    kinds (an infarction is anterior, inferior or lateral) and in any severity; a record may have several. `fold` goes round
    1..10. About 2 seconds for 1,000 records of ten seconds.

    Source: McSharry, Clifford, Tarassenko and Smith 2003, "A dynamical model for generating synthetic electrocardiogram
    signals"; sizes and shares of the diagnoses are after PTB-XL, not fitted to it.

    Raises:
        ValueError: if there is no record or no second.

    Example:
        >>> ecg = generated_ecg(seed=0, records=3, seconds=2)
        >>> ecg.signals.shape, ecg.y.shape, bool((generated_ecg(0, 3, 2).signals == ecg.signals).all())
        ((3, 200, 12), (3, 5), True)
    """
    if records < 1 or seconds < 1:
        raise ValueError(f"generated_ecg: records={records} and seconds={seconds} must be at least 1")
    rng = np.random.default_rng(seed)
    severity, y = _diagnoses(rng, records)
    heart_rate = np.clip(rng.normal(72, 14, records), 45, 130)
    beat = _beats(rng, severity, heart_rate)
    start = rng.uniform(-np.pi, np.pi, records)
    variation = rng.uniform(0.01, 0.05, records)  # of the interval between beats
    noise = 0.012 * rng.lognormal(0, 0.5, (records, 1, 1))
    samples = RATE * (_SETTLE + seconds)
    eight = np.empty((records, RATE * seconds, len(EIGHT)), np.int16)
    for rows in np.split(np.arange(records), range(_BLOCK, records, _BLOCK)):
        rr = tachogram(rng, 60 / heart_rate[rows], variation[rows] * 60 / heart_rate[rows], samples)
        z = ecgsyn(rr, start[rows], Beat(*(field[rows] for field in beat)))[:, RATE * _SETTLE :]
        eight[rows] = np.rint((z + noise[rows] * rng.standard_normal(z.shape, np.float32)) / _STEP)
    patient = np.arange(records, dtype=np.int32)
    return Ecg(twelve_leads(eight), _STEP / 2, y, patient, (1 + patient % 10).astype(np.uint8))


def ecgsyn(rr: np.ndarray, start: np.ndarray, beat: Beat) -> np.ndarray:
    """The height z of the dynamical model on its limit cycle, from z = 0: `[N, T, L]` mV, 100 samples a second.

        theta' = 2 pi / rr(t)
        z' = - sum_i a_i d_i exp(-d_i^2 / (2 b_i^2)) - (z - A sin(2 pi f_2 t)),    d_i = theta - theta_i in [-pi, pi]

    `rr` `[N, 4 (T - 1) + 1]` is the interval between beats in seconds, at four times a sample; `start` `[N]` is theta at 0.
    The equation is linear in z, so one solution an event serves all leads; each step of 5 ms is Simpson's rule on
    z(t + h) = e^-h z(t) + the integral of e^-(h - s) times what drives z.

    Source: McSharry et al. 2003, equations 1 to 4.

    Raises:
        ValueError: if `rr` does not have a time for each sample and three between two of them.

    Example:
        >>> beat = Beat(angle=np.zeros((1, 1)), width=np.full((1, 1), 0.1), a=np.full((1, 1, 1), 60.0),
        ...             wander=np.zeros((1, 1)), breath=np.zeros(1))
        >>> z = ecgsyn(rr=np.full((1, 797), 1.0), start=np.array([-np.pi]), beat=beat)[0, :, 0]
        >>> z.shape, int(z.argmax()), round(float(z.max()), 2)
        ((200,), 50, 0.09)
    """
    axes("ecgsyn: rr", rr, 2)
    axes("ecgsyn: start", start, 1)
    n, times = rr.shape
    if times % _GRID != 1:
        raise ValueError(f"ecgsyn: rr has {times} times, but must have 4 (T - 1) + 1 for T samples: 1, 5, 9, ...")
    h = 1 / (RATE * _GRID)
    omega = 2 * np.pi / rr
    turned = np.cumsum((omega[:, 1:] + omega[:, :-1]) * (h / 2), axis=1)
    theta = start[:, None] + np.concatenate([np.zeros((n, 1)), turned], axis=1)
    d = theta[..., None] - beat.angle[:, None]
    d -= 2 * np.pi * np.rint(d / (2 * np.pi))
    events = -d * np.exp(-0.5 * (d / beat.width[:, None]) ** 2)
    baseline = np.sin(2 * np.pi * h * beat.breath[:, None] * np.arange(times))
    drive = np.concatenate([events, baseline[..., None]], axis=-1)
    decay = np.exp(-h)
    gain = h / 3 * (decay**2 * drive[:, :-2:2] + 4 * decay * drive[:, 1:-1:2] + drive[:, 2::2])
    solved = np.asarray(lfilter([1.0], [1.0, -(decay**2)], gain, axis=1))[:, _GRID // 2 - 1 :: _GRID // 2]
    heights = np.concatenate([beat.a, beat.wander[:, None]], axis=1)
    return np.concatenate([np.zeros((n, 1, heights.shape[-1])), solved @ heights], axis=1)


def tachogram(rng: np.random.Generator, mean: np.ndarray, sd: np.ndarray, samples: int) -> np.ndarray:
    """Intervals between beats as a process with two bands, 0.1 Hz and twice that power at 0.25 Hz: `[N, 4 (T - 1) + 1]` s.

    `mean` and `sd` `[N]`, in seconds, are those of the process (over 100 s). Phases are random.

    Source: McSharry et al. 2003, equation 6, with the constants of their program.

    Example:
        >>> tachogram(np.random.default_rng(0), mean=np.array([0.8]), sd=np.array([0.0]), samples=2).tolist()
        [[0.8, 0.8, 0.8, 0.8, 0.8]]
    """
    axes("tachogram: mean", mean, 1)
    axes("tachogram: sd", sd, 1)
    f = np.arange(6, 30) / 100
    power = 0.5 * np.exp(-0.5 * ((f - 0.1) / 0.01) ** 2) + np.exp(-0.5 * ((f - 0.25) / 0.01) ** 2)
    size = np.sqrt(2 * power / power.sum())
    phase = rng.uniform(0, 2 * np.pi, (len(mean), len(f)))
    time = 2 * np.pi * f[:, None] * np.arange(_GRID * (samples - 1) + 1) / (RATE * _GRID)
    wave = (size * np.cos(phase)) @ np.cos(time) - (size * np.sin(phase)) @ np.sin(time)
    return mean[:, None] + sd[:, None] * wave


def _diagnoses(rng: np.random.Generator, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Severity `[N, changes]` of each of _CHANGES, 0 for most, and the labels `[N, 5]`."""
    has = rng.random((records, len(_SHARE))) < list(_SHARE.values())
    kinds = [[i for i, change in enumerate(_CHANGES) if change.superclass == name] for name in _SHARE]
    kind = np.stack([rng.choice(which, records) for which in kinds], axis=1)
    severity = np.zeros((records, len(_CHANGES)))
    np.put_along_axis(severity, kind, has * rng.uniform(0.1, 1.1, has.shape), axis=1)
    of = dict(zip(_SHARE, has.T, strict=True)) | {"NORM": ~has.any(1)}
    return severity, np.stack([of[name] for name in SUPERCLASSES], axis=1).astype(np.uint8)


def _beats(rng: np.random.Generator, severity: np.ndarray, heart_rate: np.ndarray) -> Beat:
    n, events = len(severity), len(_EVENTS)
    spread = lambda sd, *shape: rng.lognormal(0, sd, (n, *shape))
    rows = lambda part: np.stack([[part(change).get(event, (0,) * 8) for event in _EVENTS] for change in _CHANGES])
    scale, add = (np.einsum("nc,cel->nel", severity, rows(part)) for part in (lambda c: c.scale, lambda c: c.add))
    height = _HEIGHT * (1 + scale) + add
    height = _transition(_axis(height, rng.normal(0, np.deg2rad(20), n)), rng.uniform(-0.6, 0.6, n))
    height *= spread(0.25, 1, 1) * spread(0.25, events, 1) * spread(0.1, events, len(EIGHT))
    height += rng.normal(0, 0.015, height.shape)
    wide = np.where(_QRS, 1 + severity @ [[change.widen] for change in _CHANGES], 1) * spread(0.1, events)
    tempo = heart_rate[:, None] / 60
    width = _WIDTH * wide * np.sqrt(tempo)
    return Beat(
        angle=_ANGLE * np.where(_QRS, wide, rng.normal(1, 0.05, wide.shape)) * tempo**_STRETCH,
        width=width,
        a=height * (2 * np.pi * tempo / width**2)[..., None],
        wander=0.08 * rng.standard_normal((n, len(EIGHT))) * spread(0.7, 1),
        breath=rng.normal(0.25, 0.04, n),
    )


def _axis(height: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The heart's axis turned in the frontal plane by `turn` `[N]`, where I is at 0 degrees, II at 60 and III at 120.

    Turned back by 60 degrees, I is what II was, and II what III was.

    Example:
        >>> _axis(np.array([[[2.0, 7.0]]]), np.array([-np.pi / 3])).round(9).tolist()
        [[[7.0, 5.0]]]
    """
    x, y = height[..., 0], (2 * height[..., 1] - height[..., 0]) / np.sqrt(3)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    x, y = cos * x - sin * y, sin * x + cos * y
    return np.concatenate([np.stack([x, x / 2 + np.sqrt(3) / 2 * y], axis=-1), height[..., 2:]], axis=-1)


def _transition(height: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The chest leads moved by `shift` `[N]` of their distance, to the next lead or, below 0, to the one before.

    Example:
        >>> _transition(np.array([[[0.0, 0, 1, 2, 3, 4, 5, 6]]]), np.array([-0.5])).tolist()
        [[[0.0, 0.0, 1.0, 1.5, 2.5, 3.5, 4.5, 5.5]]]
    """
    chest = height[..., 2:]
    ahead, behind = (np.take(chest, np.clip(np.arange(6) + step, 0, 5), axis=-1) for step in (1, -1))
    s = shift[:, None, None]
    moved = chest + np.maximum(s, 0) * (ahead - chest) + np.maximum(-s, 0) * (behind - chest)
    return np.concatenate([height[..., :2], moved], axis=-1)
