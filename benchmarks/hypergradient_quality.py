"""How good is an approximate hypergradient? Cosine and length against backpropagation through all of pre-training.

    python benchmarks/hypergradient_quality.py [--out DIR]

In float64 on scikit-learn's digits: a tanh network is pre-trained, full batch, on 200 images, 40 % of them with a random
label; the meta-parameters are one weight logit an image. All of the network, under a fresh head, is fine-tuned for K steps
on 50 clean labels; the loss on 200 other clean labels is differentiated. Exact: `unroll` from the first step of
pre-training to the last of fine-tuning. Mean and standard error over 8 seeds (images, labels, parameters), mapped over.

Pre-training is penalised by c/2 |params - first params|^2. With c = 0.1 it comes to rest; with c = 0.01 it does not.
Prints every number and writes `hypergradient_quality.png`. About two and a half minutes of one CPU core.
"""

import argparse
import functools
import io
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from matplotlib.figure import Figure
from PIL import Image

from metapt import data, hypergrad, meta, models, objectives, solvers, stages
from metapt.types import Batches, Fit, Model, SolveInfo, Stage

jax.config.update("jax_enable_x64", True)

SEEDS, PRETRAIN, FINETUNE, VALIDATION, NOISE, HIDDEN = 8, 200, 50, 200, 0.4, 16
PENALTIES = {"rests": 0.1, "does not": 0.01}
TERMS = (0, 1, 3, 10, 30, 100)
PS = (10, 30, 100, 300)
KS = (1, 3, 10, 30)
MARKS = {("neumann", 10): ("#56B4E9", "s"), ("neumann", 100): ("#0072B2", "o"), ("cg", 30): ("#D55E00", "^")}
P, K = 300, 10  # where a panel does not vary them

IMAGES, LABELS = data.digits()
WEIGHTS = meta.sigmoid_weights(PRETRAIN)
TANH = models.from_linen(linen.Sequential([linen.Dense(HIDDEN), jnp.tanh]), jnp.zeros((1, 64)))
# Batches hold row numbers: as images, the full batch repeated for every step would be large.
ENCODER = Model(TANH.init, lambda params, rows: TANH.apply(params, jnp.asarray(IMAGES, float)[rows]))
MODEL = models.with_head(ENCODER, models.linear(HIDDEN, 10, zero=True))


def penalised(params, context, extra, batch, key):
    """Weighted cross-entropy + c/2 |params - centre|^2, with (centre, c) = extra."""
    weighted = objectives.weighted_cross_entropy(objectives.whole(MODEL))
    loss, _ = weighted(params, lambda _: context, None, batch, key)
    centre, c = extra
    return loss + 0.5 * c * optax.tree.norm(optax.tree.sub(params, centre), squared=True), extra


PT = Stage(penalised, optax.sgd(0.5, momentum=0.9))
FT = Stage(objectives.cross_entropy(objectives.whole(MODEL)), optax.sgd(0.1))
EXACT = hypergrad.unroll(PT, remat="nested")
FINETUNES = {"unroll": hypergrad.unroll(FT), "first_order": hypergrad.first_order(FT)}
NEUMANN = {J: hypergrad.implicit(PT, solvers.neumann(J)) for J in TERMS}
CG = {J: hypergrad.implicit(PT, solvers.cg(J)) for J in TERMS if J > 0}
TRUNCATE = {J: hypergrad.truncate(PT, last=J + 1) for J in TERMS}


def problem(seed: int) -> Batches:
    """Disjoint rows of the digits with their labels; those of pre-training are partly noise."""
    rng = np.random.default_rng(seed)
    rows = data.split(rng, len(LABELS), {"pretrain": PRETRAIN, "finetune": FINETUNE, "validation": VALIDATION})
    noisy = np.where(rng.random(PRETRAIN) < NOISE, rng.integers(0, 10, PRETRAIN), LABELS[rows["pretrain"]])
    return Batches(**{name: (index, LABELS[index]) for name, index in rows.items()})._replace(
        pretrain=(rows["pretrain"], noisy)
    )


def repeat(batch, steps: int):
    """The full batch, for every step."""
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (steps, *a.shape)), batch)


def parameters(key):
    """Initial parameters in float64."""
    return optax.tree.cast(MODEL.init(key), jnp.float64)


@functools.partial(jax.vmap, in_axes=(0, None))
def begin(key, c):
    """Pre-training before its first step."""
    params = parameters(key)
    return stages.start(PT, params, (params, c))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
def walk(steps, state, batches, key):
    """The state, and the norm of the last gradient, `steps` later."""
    run = hypergrad.first_order(PT)
    state, info = run(state, WEIGHTS.constrain(jnp.zeros(PRETRAIN)), repeat(batches.pretrain, steps), key)
    return state, info.grad_norm[-1]


@jax.jit
@jax.vmap
def directions(params, batches, key):
    """V = d validation loss / d (end of pre-training), for every way to fine-tune and every K: leaves `[ways * KS, ...]`."""

    def loss(params, finetune: Fit, steps):
        start, context = stages.transfer_encoder(stages.start(FT, params), stages.start(FT, parameters(key)), None)
        tuned, _ = finetune(start, context, repeat(batches.finetune, steps), key)
        return FT.objective(tuned.params, context, None, batches.validation, key)[0]

    found = [jax.grad(loss)(params, finetune, steps) for finetune in FINETUNES.values() for steps in KS]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0, 0, 0))
def hypergradients(pretrain: Fit, steps, state, batches, key, v):
    """`(d end / d logits)' v` for every v: by the chain rule the hypergradient. And the reports of the solves."""

    def end(logits, report):
        return pretrain(state, WEIGHTS.constrain(logits), repeat(batches.pretrain, steps), key, report)[0].params

    _, pull = jax.vjp(end, jnp.zeros(PRETRAIN), SolveInfo.blank())
    return jax.vmap(pull)(v)


def measure(penalty: float, P: int, rules: dict, batches, keys) -> list[dict]:
    """One row a rule, way to fine-tune and K, against the exact hypergradient; figures `[seeds]`."""
    first = begin(keys, penalty)
    before, _ = walk(P - 1, first, batches, keys)
    last, gradient = walk(1, before, batches, keys)
    v = directions(last.params, batches, keys)
    exact, _ = hypergradients(EXACT, P, first, batches, keys, jax.tree.map(lambda a: a[:, : len(KS)], v))
    rows = []
    for (name, J), rule in rules.items():
        # The implicit rule asks only where training ends: one step from there, and one program serves every P.
        where = (P, first) if name == "truncate" else (1, before)
        found, report = hypergradients(rule, *where, batches, keys, v)
        for i, (way, steps) in enumerate((way, steps) for way in FINETUNES for steps in KS):
            a, b = np.asarray(found[:, i]), np.asarray(exact[:, i % len(KS)])
            size, true = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
            figures = {"cosine": (a * b).sum(1) / (size * true), "length": size / true}
            solved = report.solves[:, i] > 0
            figures["residual"] = np.where(solved, report.residual[:, i], np.nan)
            figures["negative"] = np.where(solved, report.negative_curvature[:, i], np.nan)
            rows.append({"rule": name, "J": J, "penalty": penalty, "P": P, "way": way, "K": steps} | figures)
            rows[-1] |= {"gradient": np.asarray(gradient)}
    return rows


def select(rows, **wanted):
    """The rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def mean_and_error(values):
    """Over seeds."""
    return np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5


def table(rows) -> None:
    """Every row on a line."""
    print(f"{'rule':15}{'penalty':>8}{'P':>5}{'K':>4} {'fine-tuning':12}", end="")
    print(f"{'cosine':>14}{'length':>16}{'residual':>10}{'gradient':>10}{'neg. curv.':>11}")
    for row in rows:
        (cosine, cosine_error), (length, length_error) = mean_and_error(row["cosine"]), mean_and_error(row["length"])
        print(
            f"{row['rule'] + ' ' + str(row['J']):15}{row['penalty']:8}{row['P']:5}{row['K']:4} {row['way']:12}", end=""
        )
        print(
            f"{cosine:8.3f} ±{cosine_error:.3f} {length:9.3g} ±{length_error:<5.2g}{np.mean(row['residual']):9.2g}",
            end="",
        )
        print(f"{np.mean(row['gradient']):10.1e}{np.mean(row['negative']):11.2f}")


def draw(rows) -> Figure:
    """Four panels."""
    figure = Figure(figsize=(9.6, 7.0), layout="constrained")
    ((a, b), (c, d)) = figure.subplots(2, 2)
    rest, slow = PENALTIES.values()
    color = {"neumann": "#0072B2", "cg": "#D55E00", "truncate": "#009E73"}

    def line(axes, x, rows, **style):
        mean, error = np.transpose([mean_and_error(row["cosine"]) for row in rows])
        axes.errorbar([row[x] for row in rows], mean, error, markersize=4, capsize=2, **{"marker": "o"} | style)

    label = {"neumann": "implicit, neumann(J)", "cg": "implicit, cg(J)", "truncate": "truncate(last=J + 1)"}
    for name in color:
        line(
            a, "J", select(rows, rule=name, penalty=rest, P=P, K=K, way="unroll"), color=color[name], label=label[name]
        )
    a.set_xscale("symlog", linthresh=1)
    a.set_xticks(TERMS, map(str, TERMS))
    a.set(title=f"a. Hessian products, at rest (P = {P}, K = {K})", xlabel="J: products with the Hessian")

    for (name, J), (tint, marker) in MARKS.items():
        for penalty, dash in ((rest, "-"), (slow, ":")):
            some = select(rows, rule=name, J=J, penalty=penalty, K=K, way="unroll")
            line(b, "P", some, color=tint, marker=marker, linestyle=dash, label=f"{name}({J}), c = {penalty}")
    b.set(title=f"b. Pre-training steps done (K = {K})", xscale="log")
    norms = {pen: [select(rows, penalty=pen, P=steps)[0]["gradient"].mean() for steps in PS] for pen in (rest, slow)}
    ticks = [f"{steps}\n{norms[rest][i]:.0e}\n{norms[slow][i]:.0e}" for i, steps in enumerate(PS)]
    b.set_xticks(PS, ticks)
    b.minorticks_off()
    b.set_xlabel(f"P, and norm of the gradient there at c = {rest} and at c = {slow}")

    for (name, J), (tint, marker) in MARKS.items():
        for way, dash in (("unroll", "-"), ("first_order", ":")):
            some = select(rows, rule=name, J=J, penalty=rest, P=P, way=way)
            line(c, "K", some, color=tint, marker=marker, linestyle=dash, label=f"{name}({J}), {way}")
    c.set(title=f"c. Fine-tuning and its rule, at rest (P = {P})", xlabel="K", xscale="log")
    c.set_xticks(KS, map(str, KS))
    c.minorticks_off()

    for name in ("neumann", "cg"):
        for penalty, filled in ((rest, True), (slow, False)):
            some = select(rows, rule=name, penalty=penalty, K=K, way="unroll")
            x, y = (np.concatenate([row[figure] for row in some]) for figure in ("residual", "cosine"))
            face = color[name] if filled else "none"
            d.scatter(
                np.clip(x, 1e-4, 1e2), y, s=12, facecolors=face, edgecolors=color[name], linewidths=0.6,
                label=f"{name}, c = {penalty}",
            )  # fmt: skip
    d.set(title=f"d. Residual and quality, all J and P (K = {K})", xscale="log")
    d.set_xlabel("relative residual of the solve (cut at 1e-4 and 1e2)")

    a.set_ylim(0.7, 1.02)
    b.set_ylim(-0.15, 1.05)
    c.set_ylim(0.86, 1.01)
    for axes in (a, b, c, d):
        axes.axhline(1.0, color="#999999", linewidth=0.8, linestyle="--")
        axes.set_ylabel("cosine with the exact hypergradient")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7.5, frameon=False, ncols=2 if axes in (b, c) else 1)
    return figure


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    out = parser.parse_args().out

    batches = jax.tree.map(lambda *seeds: jnp.stack(seeds), *map(problem, range(SEEDS)))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    families = {"neumann": NEUMANN, "cg": CG, "truncate": TRUNCATE}
    every = {(name, J): rule for name, rules in families.items() for J, rule in rules.items()}
    implicit = {name: rule for name, rule in every.items() if name[0] != "truncate"}
    rest, slow = PENALTIES.values()
    panels = [(c, steps, every if (c, steps) == (rest, P) else implicit) for c in (rest, slow) for steps in PS]
    rows = []
    for number, (penalty, steps, rules) in enumerate(panels):
        print(
            f"{number + 1}/{len(panels)}: penalty {penalty}, P {steps}, {len(rules)} rules", file=sys.stderr, flush=True
        )
        rows += measure(penalty, steps, rules, batches, keys)
    table(select(rows, way="unroll", K=K))
    table([row for row in select(rows, penalty=rest, P=P) if (row["rule"], row["J"]) in MARKS])
    out.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    draw(rows).savefig(image, dpi=110)
    # 64 colours are enough, and the file is a quarter.
    Image.open(image).convert("RGB").quantize(64).save(out / "hypergradient_quality.png", optimize=True)


if __name__ == "__main__":
    main()
