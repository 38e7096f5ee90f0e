"""What is measured: weights, batches and losses of every case, once, for all implementations.

Weights and batches are numpy arrays. The losses are written against `Ops`, the few operations that JAX and PyTorch name
differently, each in its own layout (`implementations/jax_loop.py`, `implementations/torch_common.py`).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np


class Ops(NamedTuple):
    """What a backend brings; `@`, `+`, indexing and methods like `mean` are the same in both."""

    relu: Callable  # x
    sigmoid: Callable  # x
    bce: Callable  # (logits, labels) -> binary cross-entropy, elementwise
    nt_xent: Callable  # (z [2B, D]) -> the contrastive loss of pairs (i, i + B)
    concatenate: Callable  # (arrays, axis)
    segment_sum: Callable  # (values [E, F], owner [E], owners) -> [owners, F]
    channels: Callable  # signals [B, T, C] -> the backend's own layout
    convolve: Callable  # (x, kernel [K, I, O], stride, padding)
    normalise: Callable  # (x, scale [C], offset [C]): by the batch
    pool: Callable  # the mean over time, [B, C]
    warp: Callable  # (x [B, T, C], displacement [B, T]) -> x at t + displacement, linear, the ends repeated


class Arrays(NamedTuple):
    """Weights and batches of one seed."""

    params: dict  # {"encoder", "head"} of pre-training
    head: dict  # of fine-tuning
    phi: dict
    pretrain: dict  # [P, ...] one batch a step
    finetune: dict  # [K, ...]
    validation: dict


class Case(NamedTuple):
    """One meta-iteration: P Adam steps, K unrolled Adam steps, the validation gradient, a Neumann series, Adam on phi."""

    name: str
    summary: str
    P: int
    K: int
    terms: int  # products with the Hessian beyond the leading term
    arrays: Callable[[int], Arrays]  # of a seed
    pretrain_loss: Callable  # (ops, params, phi, batch)
    finetune_loss: Callable  # (ops, encoder, head, batch)
    head_only: bool = True  # fine-tuning trains the head alone
    seeds: int = 1  # independent copies at once
    remat: Literal["none", "full", "nested"] = "full"  # of fine-tuning, as in `unroll`, where there is a choice
    pretrain_lr: float = 1e-3
    finetune_lr: float = 1e-3
    meta_lr: float = 1e-2
    # Fine-tuning starts with Adam's moments as after 100 steps: at a second moment of zero the derivative is infinite.
    warm_count: int = 100
    warm_second: float = 1e-6
    finetune_eps: float = 1e-16  # so small that it does not matter where a library adds it


class Run(NamedTuple):
    """A case made ready by an implementation; both functions wait until all is computed."""

    advance: Callable[[], None]  # one meta-iteration
    hypergradient: Callable[[], list[dict[str, np.ndarray]]]  # of the last one, for each seed


def load(name: str, small: bool = False) -> Case:
    """The case of that name; `small` has the same mathematics in small sizes, to compare hypergradients."""
    if name not in _MAKERS:
        raise ValueError(f"case {name!r} is not one of {', '.join(_MAKERS)}")
    return _MAKERS[name](name, small)


def _mlp_case(summary: str, K: int, terms: int, **more: Any) -> Callable[[str, bool], Case]:
    def make(name: str, small: bool) -> Case:
        P, steps, width, tasks, batch = (3, min(K, 5), 16, 7, 8) if small else (10, K, 256, 100, 128)

        def arrays(seed: int) -> Arrays:
            rng = np.random.default_rng(seed)
            labelled = lambda lead, tasks: {"x": _normal(rng, *lead, batch, 64)} | _labels(rng, *lead, batch, tasks)
            encoder = _dense(rng, 64, width, "0") | _dense(rng, width, width, "1")
            params = {"encoder": encoder, "head": _dense(rng, width, tasks)}
            head, phi = _dense(rng, width, 10), {"weights": _normal(rng, tasks)}
            return Arrays(params, head, phi, labelled((P,), tasks), labelled((steps,), 10), labelled((), 10))

        return Case(name, summary, P, steps, terms, arrays, _weighted_tasks(_mlp), _tasks(_mlp), **more)

    return make


def _mlp(ops: Ops, encoder: dict, batch: dict):
    return ops.relu(_apply(encoder, ops.relu(_apply(encoder, batch["x"], "0")), "1"))


def _graph_case(name: str, small: bool) -> Case:
    """Graphs with the sizes of molecules: a ring and trees on it. All batches hold the same sizes, so nothing is padded."""
    P, width, layers, graphs, tasks, targets = (3, 8, 2, 4, 5, 3) if small else (10, 64, 5, 32, 100, 12)
    sizes = np.linspace(8, 30, graphs).astype(int)
    atoms, bonds = 40, 10

    def encoder(ops: Ops, params: dict, batch: dict):
        x = _apply(params, batch["nodes"], "in")
        for layer in range(layers):
            sent = x + ops.segment_sum(x[batch["senders"]], batch["receivers"], sizes.sum())
            edges = _apply(params, ops.segment_sum(batch["edges"], batch["receivers"], sizes.sum()), f"edge{layer}")
            hidden = ops.relu(_apply(params, ops.concatenate([sent, edges], 1), f"up{layer}"))
            x = _normalise(ops, params, _apply(params, hidden, f"down{layer}"), str(layer))
            x = ops.relu(x) if layer < layers - 1 else x
        return ops.segment_sum(x, batch["graph"], graphs) / batch["count"]

    def arrays(seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        weights = _dense(rng, atoms, width, "in")
        for layer in range(layers):
            weights |= _dense(rng, bonds, width, f"edge{layer}") | _dense(rng, 2 * width, 2 * width, f"up{layer}")
            weights |= _dense(rng, 2 * width, width, f"down{layer}") | _unit(width, str(layer))
        one = lambda tasks: _molecules(rng, sizes, atoms, bonds) | _labels(rng, graphs, tasks)
        steps = lambda count, tasks: _stack([one(tasks) for _ in range(count)])
        params = {"encoder": weights, "head": _dense(rng, width, tasks)}
        head, phi = _dense(rng, width, targets), {"weights": _normal(rng, tasks)}
        return Arrays(params, head, phi, steps(P, tasks), steps(1, targets), one(targets))

    summary = f"graph isomorphism network, {layers} layers of {width}, {graphs} molecules, {tasks} tasks"
    return Case(name, summary, P, 1, 1, arrays, _weighted_tasks(encoder), _tasks(encoder))


def _signal_case(name: str, small: bool) -> Case:
    """The residual network of 12-lead electrocardiograms, SimCLR, and a network that says how strongly to warp."""
    P, batch, time, widths, blocks, kernel = (
        (2, 3, 48, (4, 6), 1, 5) if small else (3, 8, 256, (32, 64, 128, 256), 2, 15)
    )
    leads, labels, warp_width, warp_layers = 12, 5, widths[0], 2
    half, outputs = kernel // 2, widths[-1] // 2

    def block_names():
        return [(stage, block) for stage in range(len(widths)) for block in range(blocks)]

    def encoder(ops: Ops, params: dict, batch: dict):
        norm = lambda x, name: _normalise(ops, params, x, name)
        x = ops.channels(batch["x"])
        x = ops.relu(norm(ops.convolve(x, params["w_in"], 2, half), "in"))
        for stage, block in block_names():
            name, stride = f"{stage}.{block}", 2 if stage and not block else 1
            y = ops.relu(norm(ops.convolve(x, params[f"w_first{name}"], stride, half), f"first{name}"))
            y = norm(ops.convolve(y, params[f"w_second{name}"], 1, half), f"second{name}")
            if stride > 1:
                x = norm(ops.convolve(x, params[f"w_short{name}"], 2, 0), f"short{name}")
            x = ops.relu(x + y)
        return ops.pool(x)

    def strength(ops: Ops, phi: dict, x):
        x = ops.channels(x)
        for layer in range(warp_layers):
            x = ops.relu(_normalise(ops, phi, ops.convolve(x, phi[f"w_{layer}"], 2, 0), str(layer)))
        return 100 * phi["scale"] ** 2 * 2 * ops.sigmoid(_apply(phi, ops.pool(x)))  # [B, 1], in samples

    def pretrain_loss(ops: Ops, params: dict, phi: dict, batch: dict):
        views = [batch["x"] * batch[f"keep{i}"] + batch[f"noise{i}"] for i in (0, 1)]
        views = [ops.warp(x, strength(ops, phi, x) * batch[f"field{i}"]) for i, x in enumerate(views)]
        z = encoder(ops, params["encoder"], {"x": ops.concatenate(views, 0)})
        return ops.nt_xent(_apply(params["head"], ops.relu(_apply(params["head"], z, "0")), "1"))

    def arrays(seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        weights = {"w_in": _kernel(rng, kernel, leads, widths[0])} | _unit(widths[0], "in")
        inputs = widths[0]
        for stage, block in block_names():
            name, width = f"{stage}.{block}", widths[stage]
            weights[f"w_first{name}"], weights[f"w_second{name}"] = (
                _kernel(rng, kernel, inputs, width),
                _kernel(rng, kernel, width, width),
            )
            weights |= _unit(width, f"first{name}") | _unit(width, f"second{name}")
            if stage and not block:
                weights |= {f"w_short{name}": _kernel(rng, 1, inputs, width)} | _unit(width, f"short{name}")
            inputs = width
        phi = {"scale": np.full((), 0.3, np.float32)} | _dense(rng, warp_width, 1)
        for layer, inputs in enumerate((leads, *[warp_width] * (warp_layers - 1))):
            phi |= {f"w_{layer}": _kernel(rng, kernel, inputs, warp_width)} | _unit(warp_width, str(layer))

        def views(*lead: int) -> dict:
            found: dict = {"x": _smooth(_normal(rng, *lead, batch, time, leads), axis=-2)}
            for i in (0, 1):
                found[f"keep{i}"] = (rng.random((*lead, batch, time, leads)) > 0.2).astype(np.float32)
                found[f"noise{i}"] = 0.1 * _normal(rng, *lead, batch, time, leads)
                found[f"field{i}"] = _smooth(_normal(rng, *lead, batch, time), axis=-1)
            return found

        signals = lambda *lead: {"x": _normal(rng, *lead, batch, time, leads)} | _labels(rng, *lead, batch, labels)
        head = _dense(rng, widths[-1], widths[-1], "0") | _dense(rng, widths[-1], outputs, "1")
        params = {"encoder": weights, "head": head}
        return Arrays(params, _dense(rng, widths[-1], labels), phi, views(P), signals(1), signals())

    summary = f"1-D residual network of {2 * blocks * len(widths) + 2} layers, SimCLR, {leads} x {time} samples, batch {batch}"
    return Case(name, summary, P, 1, 1, arrays, pretrain_loss, _tasks(encoder))


def _weighted_tasks(encoder: Callable) -> Callable:
    def loss(ops: Ops, params: dict, phi: dict, batch: dict):
        logits = _apply(params["head"], encoder(ops, params["encoder"], batch))
        return (2 * ops.sigmoid(phi["weights"]) * ops.bce(logits, batch["y"])).mean()

    return loss


def _tasks(encoder: Callable) -> Callable:
    return lambda ops, params, head, batch: ops.bce(_apply(head, encoder(ops, params, batch)), batch["y"]).mean()


def _apply(params: dict, x, name: str = ""):
    return x @ params[f"w{name}"] + params[f"b{name}"]


def _normalise(ops: Ops, params: dict, x, name: str):
    return ops.normalise(x, params[f"scale{name}"], params[f"offset{name}"])


def _dense(rng: np.random.Generator, inputs: int, outputs: int, name: str = "") -> dict:
    return {
        f"w{name}": _normal(rng, inputs, outputs) / np.float32(inputs**0.5),
        f"b{name}": 0.1 * _normal(rng, outputs),
    }


def _kernel(rng: np.random.Generator, size: int, inputs: int, outputs: int) -> np.ndarray:
    return _normal(rng, size, inputs, outputs) / np.float32((size * inputs) ** 0.5)


def _unit(width: int, name: str) -> dict:
    return {f"scale{name}": np.ones(width, np.float32), f"offset{name}": np.zeros(width, np.float32)}


def _labels(rng: np.random.Generator, *shape: int) -> dict:
    return {"y": rng.integers(0, 2, shape).astype(np.float32)}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _smooth(x: np.ndarray, axis: int) -> np.ndarray:
    return np.sum([np.roll(x, shift, axis) for shift in range(-6, 7)], 0) / np.float32(13**0.5)


def _molecules(rng: np.random.Generator, sizes: np.ndarray, atoms: int, bonds: int) -> dict:
    start = np.cumsum([0, *sizes])
    pairs = []
    for first, size in zip(start, sizes, strict=False):
        parents = [rng.integers(max(0, i - 4), i) for i in range(1, size)]
        pairs += [(first + child, first + parent) for child, parent in enumerate(parents, 1)] + [
            (first, first + size - 1)
        ]
    ends = np.concatenate([pairs, np.array(pairs)[:, ::-1]])
    return {
        "nodes": np.eye(atoms, dtype=np.float32)[rng.integers(0, atoms, sizes.sum())],
        "edges": np.eye(bonds, dtype=np.float32)[rng.integers(0, bonds, len(ends))],
        "senders": ends[:, 0],
        "receivers": ends[:, 1],
        "graph": np.repeat(np.arange(len(sizes)), sizes),
        "count": sizes[:, None].astype(np.float32),
    }


def _stack(batches: list[dict]) -> dict:
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


_SEVERAL = "as mlp, {} seeds at once"
_MAKERS: dict[str, Callable[[str, bool], Case]] = {
    "mlp": _mlp_case("MLP 64-256-256, 100 weighted tasks, batch 128", 1, 1),
    "mlp_k10": _mlp_case("as mlp, K = 10, 10 Neumann terms", 10, 10),
    "ecg": _signal_case,
    "unroll_100": _mlp_case("as mlp, K = 100 through the whole network", 100, 1, head_only=False, remat="none"),
    "unroll_1000": _mlp_case("as mlp, K = 1,000 through the whole network", 1000, 1, head_only=False, remat="nested"),
    "gin": _graph_case,
    "seeds_4": _mlp_case(_SEVERAL.format(4), 1, 1, seeds=4),
    "seeds_16": _mlp_case(_SEVERAL.format(16), 1, 1, seeds=16),
}
NAMES = tuple(_MAKERS)
