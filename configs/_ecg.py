"""What the experiments on electrocardiograms share: fields, who sees which records, the final fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import RuleName, Steps, fit_head, stack, train

from metapt import data, models, objectives, stages
from metapt.io.configs import check_numbers
from metapt.types import Batches, Stage

View = Literal["mask", "noise", "amplitude", "dropout"]


@dataclass(frozen=True)
class EcgConfig(Steps):
    """Fields of every experiment on electrocardiograms; each can be set on the command line."""

    outer_steps: int = 80
    """Outer steps, warm-up included."""
    warm_up: int = 15
    """Outer steps before learning begins."""
    finetune_steps: int = 10
    """K, fine-tuning steps of an outer step."""
    finetune_lr: float = 3.0
    """SGD's learning rate in the fine-tuning inside meta-learning: few steps, so long ones."""
    final_steps: int = 300
    """Steps of the final fine-tuning."""
    sizes: tuple[int, ...] = (100, 250, 500, 1000)
    """Labelled records of the final fine-tuning, one comparison each; the score is their mean."""
    seen: tuple[int, ...] = (100,)
    """Labelled records that meta-learning sees, one set of runs each; fewer than in `sizes`: partial fine-tuning access."""
    monitor: int = 300
    """Labelled records for the curves."""
    widths: tuple[int, ...] = (16, 32)
    """Of the stages of the residual network."""
    blocks: int = 1
    """In a stage."""
    kernel: int = 7
    """Of the convolutions."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation in the residual network."""
    activation: Literal["relu", "silu"] = "relu"
    """In the residual network and the warp's: silu is smooth, so that training does not jump where phi moves."""
    crop: int = 256
    """Samples of a record, a random stretch of it, in training; the final fine-tuning and the tests see whole records."""
    batch: int = 64
    """Records in a pre-training batch."""
    temperature: float = 0.5
    """Of the contrastive loss."""
    warp_width: int = 8
    """Of the network that says how strongly to warp a record."""
    warp_kernel: int = 7
    """Of its convolutions."""
    warp_layers: int = 3
    """Of these."""
    start: float = 0.15
    """Magnitude of the warp at first; 100 times its square is a displacement in samples."""
    untouched: float = 4.0
    """Magnitude in the arm simclr_random_warp: where the paper's own code starts."""
    tuned: float = 0.15
    """Magnitude in the arm simclr_tuned_warp, chosen by hand."""
    also: tuple[View, ...] = ("mask", "noise", "dropout")
    """Further views whose strength is learned; mask and noise are as in the paper if they are not, the others absent."""
    rule: RuleName = "implicit"
    """How pre-training is differentiated: implicitly as in the paper, or through the P steps of an outer step."""
    neumann_terms: int = 0
    """Of `implicit`, terms of the inverse-Hessian series beyond the first."""
    meta_lr: float = 0.1
    """Adam's learning rate for the magnitude and the other strengths, at first; along a cosine it comes to 0."""
    network_lr: float = 1e-3
    """Adam's learning rate for the network that says how strongly to warp a record, likewise."""
    final: Literal["linear", "full"] = "linear"
    """The final fine-tuning: of a linear head on the features, or of the whole network. Curves always show the former."""
    head_lr: float = 3e-2
    """Adam's learning rate for the head in the final fine-tuning; `final_lr` is that of the network under it."""
    final_l2: float = 1e-2
    """Penalty on the head in the final fine-tuning of the head alone."""

    def __post_init__(self):
        zero = ("seed", "neumann_terms", "warm_up", "start", "untouched", "tuned")
        check_numbers(self, **dict.fromkeys(zero, 0.0), outer_steps=self.warm_up + 1, seen=4)
        if max(self.seen) > max(self.sizes):
            raise ValueError(f"seen={self.seen} must be at most {max(self.sizes)}, the most labelled records in sizes")


def arrays_of(config: EcgConfig, ecg: data.Ecg):
    """Of every run: all records of pre-training, who is labelled; the test apart. Labelled records are of different patients."""
    parts = data.fold_split(ecg.fold, ecg.patient)
    pool, most = parts["pretrain"], max(config.sizes)
    scale = data.global_scale(ecg, pool)
    if config.crop > ecg.signals.shape[1]:
        raise ValueError(f"crop={config.crop} must be at most the {ecg.signals.shape[1]} samples of a record")
    signals, test = ecg.signals[pool], {"signals": ecg.signals[parts["test"]], "y": ecg.y[parts["test"]]}
    runs = []
    for seen in config.seen:
        for seed in range(config.seeds):
            rng = np.random.default_rng([config.seed, seed])
            order = rng.permutation(len(pool))
            first = np.sort(np.unique(ecg.patient[pool[order]], return_index=True)[1])  # a patient's first record
            if len(first) < most + config.monitor:
                raise ValueError(f"sizes={config.sizes} and monitor={config.monitor}: there are {len(first)} patients")
            labelled, monitor = np.split(order[first][: most + config.monitor], [most])
            runs.append(
                {
                    "signals": signals,
                    "y": ecg.y[pool],
                    "unit": np.float32(ecg.unit / scale.sd),
                    "mean": np.float32(scale.mean / scale.sd),
                    "labelled": labelled,
                    "seen": np.int32(seen),
                    "monitor": {"signals": signals[monitor], "y": ecg.y[pool[monitor]]},
                }
            )
    return stack(runs), stack([test] * len(runs))


def _normalised(arrays: Mapping[str, Any], signals: jax.Array) -> jax.Array:
    return signals * arrays["unit"] - arrays["mean"]


def _crops(
    config: EcgConfig, arrays: Mapping[str, Any], key: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A random stretch of every record, `[..., crop, 12]`, and its labels."""
    samples, leads = arrays["signals"].shape[1:]
    first = jax.random.randint(key, rows.shape, 0, samples - config.crop + 1, rows.dtype)
    crop = lambda row, first: jax.lax.dynamic_slice(arrays["signals"], (row, first, 0), (1, config.crop, leads))[0]
    x = jax.vmap(crop)(rows.ravel(), first.ravel()).reshape(*rows.shape, config.crop, leads)
    return _normalised(arrays, x), arrays["y"][rows]


def draw(config: EcgConfig, arrays: Mapping[str, Any], key: jax.Array) -> Batches:
    """Fine-tuning on a random half of the labelled records that are seen, validation on the other, new halves every time."""
    rows_key, half_key, *keys = jax.random.split(key, 5)
    rows = jax.random.randint(rows_key, (config.pretrain_steps, config.batch), 0, len(arrays["signals"]))
    place = jnp.arange(len(arrays["labelled"]))
    order = jnp.argsort(jnp.where(place < arrays["seen"], jax.random.uniform(half_key, place.shape), jnp.inf))
    cut, turn = arrays["seen"] // 2, jnp.arange(min(max(config.seen) // 2, config.batch))
    half = lambda start, size: arrays["labelled"][order[start + turn % size]]
    train = jnp.broadcast_to(half(0, cut), (config.finetune_steps, len(turn)))
    return Batches(
        _crops(config, arrays, keys[0], rows),
        _crops(config, arrays, keys[1], train),
        _crops(config, arrays, keys[2], half(cut, arrays["seen"] - cut)),
    )


def fine_tune_and_score(config: EcgConfig, encoder, features: int, classes: int):
    """Two of (encoder, arrays, records, key) -> area under the curve by size, after fine-tuning on so many labelled records."""
    head = models.linear(features, classes, zero=True)
    of_head = Stage(
        objectives.with_l2(objectives.binary_tasks(objectives.whole(head)), config.final_l2), optax.adam(config.head_lr)
    )
    whole = models.with_head(encoder, head)
    of_network = Stage(
        objectives.binary_tasks(objectives.whole(whole, mode="frozen")),
        optax.multi_transform(
            {"encoder": optax.adam(config.final_lr), "head": optax.adam(config.head_lr)},
            lambda params: {name: name for name in params},
        ),
    )

    def outputs(model, state, arrays, signals, key):
        params, extra = state
        predict = objectives.whole(model, mode="running")

        def one(signal):
            return predict(params, None, extra, _normalised(arrays, signal)[None], key)[0][0]

        return jax.lax.map(one, signals, batch_size=config.batch)

    def linear(start, arrays, records, key):
        encode = lambda signals: outputs(encoder, start, arrays, signals, key)
        known, unknown = encode(arrays["signals"][arrays["labelled"]]), encode(records["signals"])

        def score(size):
            labelled = data.Labelled(known[:size], arrays["y"][arrays["labelled"][:size]])
            return _area(fit_head(of_head, head, labelled, unknown, key, config.final_steps), records["y"])

        return jnp.stack([score(size) for size in config.sizes])

    def full(start, arrays, records, key):
        params, extra = start

        def score(size):
            def draw(key):
                rows_key, crops_key = jax.random.split(key)
                rows = jax.random.randint(rows_key, (min(config.batch, size),), 0, size)
                return _crops(config, arrays, crops_key, arrays["labelled"][rows])

            state = stages.start(of_network, {"encoder": params, "head": head.init(key)}, extra)
            state = train(of_network, state, draw, key, config.final_steps)
            return _area(outputs(whole, (state.params, state.extra), arrays, records["signals"], key), records["y"])

        return jnp.stack([score(size) for size in config.sizes])

    return {"linear": linear, "full": full}


def _area(logits: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.nanmean(objectives.auroc(logits, y))
