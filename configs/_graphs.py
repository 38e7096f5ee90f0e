"""What the experiments on graphs share: fields, arms, who sees which labels, the final fine-tuning."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, RuleName, Steps, by_level, rule_and_price, schedule, train

from metapt import data, meta, models, objectives, recipes, stages
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome
from metapt.models.graphs import Convolution
from metapt.types import Batches, Stage, StatefulModel


@dataclass(frozen=True)
class GraphConfig(Steps):
    """Fields of every experiment on graphs; each can be set on the command line. Runs go one after the other."""

    data: str = ""
    """A folder or an .npz file with the data."""
    seeds: int = 10
    """Independent runs: splits, tasks, initial parameters and batches all differ."""
    outer_steps: int = 60
    """Outer steps, warm-up included."""
    warm_up: int = 10
    """Outer steps before learning begins."""
    rule: RuleName = "unroll"
    """How pre-training is differentiated: through the P steps of an outer step, or implicitly as in the paper."""
    neumann_terms: int = 0
    """Of `implicit`, terms of the inverse-Hessian series beyond the first: none, as the curvature is often negative here."""
    pretrain_lr: float = 3e-3
    """Adam's learning rate in pre-training."""
    finetune_lr: float = 20.0
    """SGD's learning rate in the fine-tuning inside meta-learning, of a loss that is a mean over the tasks."""
    final_steps: int = 200
    """Steps of the final fine-tuning."""
    final_lr: float = 1e-3
    """Adam's learning rate for the network in the final fine-tuning, if all of it is trained."""
    head_lr: float = 3e-3
    """Adam's learning rate for the head in the final fine-tuning."""
    convolution: Convolution = "gin"
    """Kind of message passing."""
    width: int = 32
    """Of every layer."""
    layers: int = 2
    """Of message passing."""
    dropout: float = 0.2
    """Share of units dropped between layers in training."""
    transfer: Literal["head", "network"] = "head"
    """What that fine-tuning trains: the head, as in the paper, or the whole network."""
    weights: Literal["softmax", "sigmoid", "families"] = "softmax"
    """How the weights come from the meta-parameters: relative to each other, each by itself as in the paper, or one a family."""
    meta_lr: float = 0.1
    """Adam's learning rate for the weights at first; along a cosine it comes to 0."""
    meta_share: float = 1.0
    """Share of the learning steps after which it is 0."""
    shuffled: float = 0.0
    """Share of the pre-training tasks whose labels are shuffled: planted negative transfer."""
    identical: bool = False
    """All pre-training tasks are copies of the one with most labels: the null control, in which no weight can matter."""
    access: tuple[float, ...] = (1.0,)
    """Shares of the labelled examples that meta-learning sees, one set of runs each; below 1: partial fine-tuning access."""
    unseen_tasks: int = 0
    """Fine-tuning tasks that meta-learning does not see; the arms are then fine-tuned and judged on those alone."""
    as_published: bool = False
    """Meta-learning as in the paper's own code (`recipes.task_weights.as_published`; there, neumann_terms is 1)."""
    final: Literal["linear", "full"] = "linear"
    """The final fine-tuning: of a linear head on the features, or of that head and then of the whole network."""

    def __post_init__(self):
        check_numbers(self, **self.least())
        for name in ("shuffled", "meta_share"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at most 1")
        if not self.access or not 0 < min(self.access) <= max(self.access) <= 1:
            raise ValueError(f"access={self.access} must name shares above 0, at most 1")

    def least(self) -> dict[str, float]:
        zero = ("seed", "neumann_terms", "warm_up", "dropout", "shuffled", "unseen_tasks")
        return dict.fromkeys(zero, 0.0) | {"outer_steps": self.warm_up + 1}


class Problem(NamedTuple):
    """What a data set brings to the comparison."""

    encoder: StatefulModel
    features: int
    # (arrays, part, key, steps, fold) -> random batches [steps, ...] of (graph, labels); parts: "pretrain", "labelled" and,
    # of those, what meta-learning sees ("seen"), for examples whose group's entry in `fold` is True
    draw: Callable[[Any, str, jax.Array, int, jax.Array], Any]
    groups: int  # of fine-tuning examples that are never parted
    batch: Callable[[Any, Any], Any]  # (arrays, item) -> (graph, labels [B, t]) of fine-tuning
    # (logits, labels) [items, B, t] -> area under the curve by task [t]
    score: Callable[[jax.Array, jax.Array], jax.Array]
    # leaves [runs, ...]: what `draw` needs, the masks of `Run`, all items of "labelled_items" and "monitor"
    arrays: Any
    test: Any  # items, leaves [runs, items, ...]
    family: np.ndarray  # int [T], of the pre-training tasks
    family_names: tuple[str, ...]


class Run(NamedTuple):
    """One run's share of labelled examples that meta-learning sees, its generators, and which tasks play which part."""

    access: float
    splits: np.random.Generator
    plants: np.random.Generator
    masks: dict[str, np.ndarray]  # bool [t]: "learned_from" by meta-learning, "judged" in the end

    def seen(self, rows: np.ndarray) -> np.ndarray:
        """The random share of `rows` that meta-learning sees."""
        return self.splits.permutation(rows)[: max(2, round(self.access * len(rows)))]


def each_run(config: GraphConfig, classes: int) -> Iterator[Run]:
    """Ordered by access, then by seed: splits, tasks and planted labels of a seed are the same at every access."""
    if config.unseen_tasks >= classes:
        raise ValueError(f"unseen_tasks={config.unseen_tasks} must be below {classes}, the fine-tuning tasks")
    for access in config.access:
        for seed in range(config.seeds):
            splits, plants, chooses = (np.random.default_rng([config.seed, seed, part]) for part in range(3))
            unseen = np.isin(np.arange(classes), chooses.permutation(classes)[: config.unseen_tasks])
            yield Run(access, splits, plants, {"learned_from": ~unseen, "judged": unseen | ~unseen.any()})


def plant_tasks(config: GraphConfig, run: Run, y: np.ndarray) -> np.ndarray:
    """Labels `[N, T]`, of a share of the tasks dealt anew among the examples that they were measured on, or all alike."""
    y = np.repeat(y[:, [(y >= 0).sum(0).argmax()]], y.shape[1], axis=1) if config.identical else y.copy()
    for task in run.plants.permutation(y.shape[1])[: round(config.shuffled * y.shape[1])]:
        measured = np.flatnonzero(y[:, task] >= 0)
        y[measured, task] = run.plants.permutation(y[measured, task])
    return y


def graph_experiment(config: GraphConfig, problem: Problem) -> Experiment:
    """The comparison: pre-training tasks, their weights, and binary tasks to fine-tune on."""
    features, tasks = problem.features, len(problem.family)
    classes = problem.arrays["judged"].shape[1]
    learned = {
        "softmax": meta.softmax_weights(tasks),
        "sigmoid": meta.sigmoid_weights(tasks),
        "families": meta.grouped(meta.softmax_weights(tasks), problem.family),
    }[config.weights]
    steps, cost = schedule(config, config.meta_share), Cost(config.pretrain_steps, config.finetune_steps)
    rule, price = rule_and_price(config.rule, config.neumann_terms, cost)
    adam = optax.adam(config.pretrain_lr, eps_root=1e-12)
    sizes = problem.encoder, features, tasks, classes

    def compose(rule):
        return recipes.task_weights.task_weights(
            *sizes,
            learned,
            pretrain_optimizer=adam,
            finetune_optimizer=optax.sgd(config.finetune_lr, momentum=0.9),
            meta_optimizer=optax.adam(optax.cosine_decay_schedule(config.meta_lr, steps[1])),
            rule=rule,
            loss=objectives.balanced_tasks,
            transfer=config.transfer,
        )

    method = compose(rule)
    if config.as_published:
        published = recipes.task_weights.as_published(*sizes, config.pretrain_lr, config.neumann_terms)
        method, learned = published, meta.sigmoid_weights(tasks)
        price = cost.implicit(config.neumann_terms, power=0)
    draw, everything = _by_role(problem), jnp.ones(problem.groups, bool)
    finish = lambda context, pretrain: {"encoder": (pretrain.params["encoder"], pretrain.extra), "weights": context}
    equal = lambda key, arrays, exports: jnp.ones(tasks)

    def fixed(name, weights=equal, steps=config.outer_steps, weigh=None):
        start = method.start_pretrain
        return arms.pretraining(
            name, method.pretrain_fit, steps, config.pretrain_steps, weights, start, finish, weigh=weigh
        )

    def cotrain(name, surgery):
        both = recipes.cotraining.cotraining(method, features, classes, adam, surgery, objectives.balanced_tasks)

        def batches(arrays, key):
            keys = jax.random.split(key)
            part = lambda name, key: draw(arrays, name, key, config.pretrain_steps, everything)
            return Batches((part("pretrain", keys[0]), part("seen", keys[1])), None, None)

        export = lambda context, state: finish(context, both.pretrained(state))
        price = 2 * config.pretrain_steps
        return arms.pretraining(name, both.fit, config.outer_steps, price, equal, both.start, export, batches)

    compared = (
        fixed("none", steps=0),
        fixed("equal"),
        cotrain("cotrain", surgery=False),
        cotrain("cotrain_pcgrad", surgery=True),
        fixed("random", lambda key, arrays, exports: tasks * jax.random.dirichlet(key, jnp.ones(tasks))),
        fixed(
            "cosine",
            weigh=arms.Weigh(
                config.warm_up,
                recipes.gradient_cosine.gradient_cosine(method, tasks),
                (tasks + 1) * config.pretrain_steps + 2 * (config.finetune_steps + 1),
            ),
        ),
        arms.learning(
            "meta",
            method.algorithm,
            steps,
            (cost.forward, price),
            lambda key, arrays: method.start(key, learned.init(key)),
            lambda state: finish(learned.constrain(state.phi), state.pretrain),
            compose=None if config.as_published else lambda rule: compose(rule).algorithm,
        ),
        fixed("replay", lambda key, arrays, exports: exports["meta"]["weights"]),
    )
    labelled = lambda arrays, key: draw(arrays, "labelled", key, 1, everything)
    judge = _fine_tune_and_score(config, problem, method.finetune_model, classes, labelled)

    def outer_draw(arrays, key):
        *keys, fold_key = jax.random.split(key, 4)
        fold = jax.random.bernoulli(fold_key, 0.5, everything.shape)  # anew every time: weights fit no single half
        return Batches(
            draw(arrays, "pretrain", keys[0], config.pretrain_steps, everything),
            draw(arrays, "seen", keys[1], config.finetune_steps, fold),
            jax.tree.map(lambda a: a[0], draw(arrays, "seen", keys[2], 1, ~fold)),
        )

    return Experiment(
        metric="test area under the ROC curve after fine-tuning, mean over tasks",
        higher_is_better=True,
        data=problem.arrays,
        test=problem.test,
        draw=outer_draw,
        arms=compared,
        monitor=lambda encoder, arrays, key: judge(encoder, arrays, arrays["monitor"], key),
        evaluate=judge,
        baseline="equal",
        summarize=lambda outcome: _figures(config, compared, problem, outcome),
        plots=lambda outcome: _plots(config, problem, outcome),
        seeds_together=False,
    )


def _by_role(problem: Problem):
    """`problem.draw`, without the labels of fine-tuning tasks that play no part."""

    def draw(arrays, part, key, steps, fold):
        graph, y = problem.draw(arrays, part, key, steps, fold)
        if part == "pretrain":
            return graph, y
        return graph, jnp.where(arrays["judged" if part == "labelled" else "learned_from"], y, data.ABSENT)

    return draw


def _fine_tune_and_score(config: GraphConfig, problem: Problem, model, classes: int, labelled):
    """(encoder, arrays, items, key) -> area under the curve by task, after fine-tuning on all labelled examples.

    The whole network starts from the head that fits its features: a random head would undo them first (Kumar et al. 2022).
    """
    head = models.linear(problem.features, classes, zero=True)
    of_head = Stage(objectives.balanced_tasks(objectives.whole(head)), optax.adam(config.head_lr))
    of_network = Stage(objectives.balanced_tasks(objectives.whole(model)), optax.adam(config.final_lr))

    def on_all(apply, arrays, items):
        def on_one(item):
            graph, y = problem.batch(arrays, item)
            return apply(graph), y

        return jax.lax.map(on_one, items)  # one after the other: all graphs at once would not fit

    def judge(encoder, arrays, items, key):
        params, extra = encoder
        encode = lambda graph: problem.encoder.apply(params, extra, graph, key, "running")[0]
        features, y = on_all(encode, arrays, arrays["labelled_items"])
        flat = lambda a: a.reshape(-1, a.shape[-1])
        batch = flat(features), jnp.where(arrays["judged"], flat(y), data.ABSENT)
        probe = train(of_head, stages.start(of_head, head.init(key)), lambda key: batch, key, config.final_steps)
        predict = lambda graph: head.apply(probe.params, encode(graph))
        if config.final == "full":
            start = stages.start(of_network, {"encoder": params, "head": probe.params}, extra)
            draw = lambda key: jax.tree.map(lambda a: a[0], labelled(arrays, key))
            state = train(of_network, start, draw, key, config.final_steps)
            predict = lambda graph: model.apply(state.params, state.extra, graph, key, "running")[0]
        logits, y = on_all(predict, arrays, items)
        return jnp.where(arrays["judged"], problem.score(logits, y), jnp.nan)

    return judge


def _figures(config: GraphConfig, compared, problem: Problem, outcome: Outcome) -> dict[str, Any]:
    """`mean_weight`: of every family of pre-training tasks, over the runs; `by_access`: the comparison at every access."""
    weights = np.asarray(outcome.exports["meta"]["weights"], float)
    scores = {name: score.reshape(len(config.access), -1) for name, score in outcome.scores.items()}
    return {
        "mean_weight": {
            name: float(weights[:, problem.family == i].mean()) for i, name in enumerate(problem.family_names)
        },
        "by_access": by_level(scores, config.access, "equal"),
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }


def _plots(config: GraphConfig, problem: Problem, outcome: Outcome):
    area = "area under the ROC curve"
    figures = {
        "weights": plots.families(outcome.exports["meta"]["weights"], problem.family, problem.family_names),
        "learning_curves": plots.learning_curves(outcome.curves, "outer step", f"{area}, held out"),
        "hypergradient": plots.reports(outcome.infos["meta"], REPORT),
        "gain_by_task": plots.gains(
            {name: outcome.parts[name] - outcome.parts["equal"] for name in ("none", "meta", "replay")},
            "fine-tuning task (sorted by the gain of meta)",
            f"{area}, minus that of equal weights",
        ),
    }
    if len(config.access) > 1:
        figures["access"] = plots.by_level(
            {name: score.reshape(len(config.access), -1) for name, score in outcome.scores.items()},
            config.access,
            "share of the labelled examples that meta-learning sees",
            area,
        )
    return figures
