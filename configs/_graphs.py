"""What the experiments on graphs share: fields, arms, the final fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import REPORT, Steps, schedule

from metapt import meta, models, objectives, optimizers, recipes, solvers, stages
from metapt.hypergrad import implicit
from metapt.io import arms, plots
from metapt.io.configs import check_numbers
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment, Outcome
from metapt.models.graphs import Convolution
from metapt.types import Batches, Stage, StatefulModel

# (arrays, part, key, steps) -> batches [steps, ...] of (graph, labels); parts: "pretrain", "train", "validation", "labelled"
Draw = Callable[[Any, str, jax.Array, int], Any]
# (predict: graph -> logits, arrays, examples) -> area under the curve
Score = Callable[[Callable[[Any], jax.Array], Any, Any], jax.Array]


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
    neumann_terms: int = 5
    """Terms of the inverse-Hessian series beyond the first."""
    pretrain_lr: float = 3e-3
    """Adam's learning rate in pre-training."""
    finetune_lr: float = 20.0
    """SGD's learning rate in the fine-tuning inside meta-learning, of a loss that is a mean over the tasks."""
    final_steps: int = 200
    """Steps of the final fine-tuning."""
    final_lr: float = 3e-3
    """Adam's learning rate in the final fine-tuning."""
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
    weights: Literal["softmax", "sigmoid"] = "softmax"
    """How the weights come from the meta-parameters: relative to each other, or each by itself as in the paper."""
    meta_lr: float = 0.1
    """Adam's learning rate for the weights at first; along a cosine it comes to 0."""
    final: Literal["linear", "full"] = "linear"
    """The final fine-tuning: of a linear head on the features, or of the whole network."""

    def __post_init__(self):
        check_numbers(self, **self.least())

    def least(self) -> dict[str, float]:
        return {"seed": 0, "neumann_terms": 0, "warm_up": 0, "dropout": 0.0, "outer_steps": self.warm_up + 1}


def graph_experiment(
    config: GraphConfig,
    encoder: StatefulModel,
    features: int,
    tasks: int,
    classes: int,
    draw: Draw,
    score: Score,
    arrays: Any,
    test: Any,
    family: np.ndarray,
    family_names: tuple[str, ...],
) -> Experiment:
    """The comparison: pre-training tasks, their weights, and binary tasks to fine-tune on."""
    learned = {"softmax": meta.softmax_weights, "sigmoid": meta.sigmoid_weights}[config.weights](tasks)
    steps = schedule(config)
    adam = optax.adam(config.pretrain_lr)
    method = recipes.task_weights.task_weights(
        encoder,
        features,
        tasks,
        classes,
        learned,
        pretrain_optimizer=adam,
        finetune_optimizer=optax.sgd(config.finetune_lr, momentum=0.9),
        meta_optimizer=optax.adam(optax.cosine_decay_schedule(config.meta_lr, steps[1])),
        solve=solvers.neumann(config.neumann_terms),
        loss=objectives.balanced_tasks,
        transfer=config.transfer,
    )
    cost = Cost(config.pretrain_steps, config.finetune_steps)
    finish = lambda context, pretrain: {"encoder": (pretrain.params["encoder"], pretrain.extra), "weights": context}

    def fixed(name, weigh, steps=config.outer_steps):
        context = lambda key, arrays, exports: weigh(key, exports)
        start = method.start_pretrain
        return arms.pretraining(name, method.pretrain_fit, steps, config.pretrain_steps, context, start, finish)

    def cotrain(name, surgery):
        stage, start, end = _cotraining(method, models.linear(features, classes, zero=True), adam, surgery)
        both = lambda arrays, key: Batches(
            tuple(
                draw(arrays, part, k, config.pretrain_steps)
                for part, k in zip(BOTH, jax.random.split(key), strict=True)
            ),
            None,
            None,
        )
        export = lambda context, state: finish(context, end(state))
        context = lambda key, arrays, exports: jnp.ones(tasks)
        return arms.pretraining(
            name, implicit(stage), config.outer_steps, 2 * config.pretrain_steps, context, start, export, both
        )

    compared = (
        fixed("none", lambda key, exports: jnp.ones(tasks), steps=0),
        fixed("equal", lambda key, exports: jnp.ones(tasks)),
        cotrain("cotrain", surgery=False),
        cotrain("cotrain_pcgrad", surgery=True),
        fixed("random", lambda key, exports: tasks * jax.random.dirichlet(key, jnp.ones(tasks))),
        arms.learning(
            "meta",
            method.algorithm,
            steps,
            (cost.forward, cost.implicit(config.neumann_terms)),
            lambda key, arrays: method.start(key, learned.init(key)),
            lambda state: finish(learned.constrain(state.phi), state.pretrain),
        ),
        fixed("replay", lambda key, exports: exports["meta"]["weights"]),
    )
    judge = _fine_tune_and_score(config, method.finetune_model, encoder, features, classes, draw, score)

    def outer_draw(arrays, key):
        keys = jax.random.split(key, 3)
        return Batches(
            draw(arrays, "pretrain", keys[0], config.pretrain_steps),
            draw(arrays, "train", keys[1], config.finetune_steps),
            jax.tree.map(lambda a: a[0], draw(arrays, "validation", keys[2], 1)),
        )

    return Experiment(
        metric="test area under the ROC curve after fine-tuning, mean over tasks",
        higher_is_better=True,
        data=arrays,
        test=test,
        draw=outer_draw,
        arms=compared,
        monitor=lambda encoder, arrays, key: judge(encoder, arrays, arrays["monitor"], key),
        evaluate=judge,
        baseline="equal",
        summarize=lambda outcome: _figures(compared, family, family_names, outcome),
        plots=lambda outcome: {
            "weights": plots.families(outcome.exports["meta"]["weights"], family, family_names),
            "learning_curves": plots.learning_curves(
                outcome.curves, "outer step", "area under the ROC curve, held out"
            ),
            "hypergradient": plots.reports(outcome.infos["meta"], REPORT),
        },
        seeds_together=False,
    )


BOTH = "pretrain", "labelled"  # what co-training sees at once


def _cotraining(method, second_head, optimizer, surgery: bool):
    """Pre-training and fine-tuning tasks trained together from the start: (stage, its start, its end as pre-training's)."""
    objective = objectives.together(
        method.pretrain.objective, objectives.balanced_tasks(objectives.whole(method.finetune_model)), copies=surgery
    )
    shared = {"encoder": True, "head": False, "second_head": False}
    stage = Stage(objective, optax.chain(optimizers.pcgrad(shared), optimizer) if surgery else optimizer)

    def start(key):
        state = method.start_pretrain(key)
        params = {**state.params, "second_head": second_head.init(key)}
        return stages.start(stage, optimizers.replicate(params, 2) if surgery else params, state.extra)

    return stage, start, lambda state: state._replace(params=optimizers.merge(state.params)) if surgery else state


def _fine_tune_and_score(config: GraphConfig, model, encoder, features: int, classes: int, draw: Draw, score: Score):
    """(encoder, arrays, examples, key) -> area under the curve, after fine-tuning on all labelled examples."""
    head = models.linear(features, classes, zero=True)
    linear = config.final == "linear"
    predict = objectives.on_features(encoder, head) if linear else objectives.whole(model)
    tested = predict if linear else objectives.whole(model, mode="running")
    stage = Stage(objectives.balanced_tasks(predict), optax.adam(config.final_lr))

    def judge(encoder, arrays, examples, key):
        params, extra = encoder
        start, context = (head.init(key), params) if linear else ({"encoder": params, "head": head.init(key)}, None)

        def step(state, key):
            batch_key, step_key = jax.random.split(key)
            batch = jax.tree.map(lambda a: a[0], draw(arrays, "labelled", batch_key, 1))
            return stages.step(stage, context, state, (batch, step_key))

        # Drawn step by step: hundreds of batches of graphs at once would not fit.
        state, _ = stages.loop.auto(step, stages.start(stage, start, extra), jax.random.split(key, config.final_steps))
        return score(lambda graph: tested(state.params, context, state.extra, graph, key)[0], arrays, examples)

    return judge


def _figures(compared, family: np.ndarray, family_names: tuple[str, ...], outcome: Outcome) -> dict[str, Any]:
    """`mean_weight`: of every family of pre-training tasks, over the seeds."""
    weights = np.asarray(outcome.exports["meta"]["weights"], float)
    return {
        "mean_weight": {name: float(weights[:, family == i].mean()) for i, name in enumerate(family_names)},
        "gradient_evaluations": arms.gradient_evaluations(compared),
    }
