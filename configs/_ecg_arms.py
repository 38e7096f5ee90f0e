"""The comparison on electrocardiograms: fixed, searched and learned views of contrastive pre-training."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from _common import rule_and_price, schedule
from _ecg import EcgConfig, View, arrays_of, draw, fine_tune_and_score
from _ecg_figures import figures, pictures
from jax.tree_util import Partial

from metapt import data, meta, models, recipes, updates
from metapt.io import arms
from metapt.io.cost import Cost
from metapt.io.experiment import Experiment
from metapt.types import Meta, Rule


def ecg_experiment(config: EcgConfig, ecg: data.Ecg) -> Experiment:
    """Contrastive pre-training on crops of all records; a learned view; five binary labels to fine-tune on."""
    classes, activation = len(data.SUPERCLASSES), getattr(jax.nn, config.activation)
    encoder = models.resnet1d(len(data.LEADS), config.widths, config.blocks, config.kernel, config.norm, activation)
    features = config.widths[-1]
    view, others = _view(config)
    network = models.warp_network(
        len(data.LEADS), config.warp_width, config.warp_kernel, config.warp_layers, activation
    )
    crop = jax.ShapeDtypeStruct((1, config.crop, len(data.LEADS)), jnp.float32)
    jax.eval_shape(lambda x: network.apply(network.init(jax.random.key(0)), x), crop)  # refuses a short crop now
    learned = meta.named(warp=meta.warp_strength(network, config.start), **others)
    steps, cost = schedule(config), Cost(config.pretrain_steps, config.finetune_steps)
    rule, price = rule_and_price(config.rule, config.neumann_terms, cost)

    def compose(learned: Meta, optimizer: optax.GradientTransformation, rule: Rule = rule):
        return recipes.simclr_augmentation.simclr_augmentation(
            encoder,
            features,
            classes,
            view,
            learned,
            config.temperature,
            pretrain_optimizer=optax.adam(config.pretrain_lr, eps_root=1e-12),
            finetune_optimizer=optax.sgd(config.finetune_lr),
            meta_optimizer=optimizer,
            rule=rule,
        )

    method = compose(learned, _meta_optimizer(config, steps[1]))
    encoder_of = lambda pretrain: (pretrain.params["encoder"], pretrain.extra)
    finish = lambda context, pretrain: {"encoder": encoder_of(pretrain)}

    def at(name, phi, steps=config.outer_steps):
        context = lambda key, arrays, exports: learned.constrain(phi(key, arrays, exports))
        first = method.start_pretrain
        return arms.pretraining(name, method.pretrain_fit, steps, config.pretrain_steps, context, first, finish)

    def fixed(name, magnitude, steps=config.outer_steps):
        """All strengths at their starts, but the magnitude of the warp."""

        def phi(key, arrays, exports):
            start = learned.init(key)
            return start | {"warp": start["warp"] | {"scale": jnp.asarray(magnitude, jnp.float32)}}

        return at(name, phi, steps)

    meta_arm = arms.learning(
        "meta",
        method.algorithm,
        steps,
        (cost.forward, price),
        lambda key, arrays: method.start(key, learned.init(key)),
        lambda state: finish(None, state.pretrain) | {"phi": state.phi},
        lambda state, batches: _strengths(learned.constrain(state.phi), batches.validation),
        lambda rule: compose(learned, _meta_optimizer(config, steps[1]), rule).algorithm,
    )
    trial_steps = max(1, config.outer_steps // 5)
    budget = arms.gradient_evaluations((meta_arm,))["meta"]
    row = _in_a_row(others)
    plain = compose(row, optax.sgd(0.0))
    most = max(config.untouched, config.tuned)
    search = arms.searching(
        "search",
        plain.algorithm,
        updates.random_search([0.0, *[-2.0] * len(others)], [most, *[2.0] * len(others)]),
        max(1, budget // (trial_steps * cost.forward)),
        trial_steps,
        config.outer_steps,
        cost.forward,
        lambda key, arrays: plain.start(key, row.init(key)),
        lambda state: finish(None, state.pretrain) | {"found": state.phi},
    )
    compared = (
        fixed("none", config.start, steps=0),
        fixed("simclr_no_warp", 0.0),
        fixed("simclr_random_warp", config.untouched),
        fixed("simclr_tuned_warp", config.tuned),
        search,
        meta_arm,
        at("replay", lambda key, arrays, exports: exports["meta"]["phi"]),
    )
    judges = fine_tune_and_score(config, encoder, features, classes)
    runs, tests = arrays_of(config, ecg)
    return Experiment(
        metric="test area under the ROC curve after fine-tuning, mean over superclasses and sizes",
        higher_is_better=True,
        data=runs,
        test=tests,
        draw=lambda arrays, key: draw(config, arrays, key),
        arms=compared,
        monitor=lambda encoder, arrays, key: judges["linear"](encoder, arrays, arrays["monitor"], key),
        evaluate=judges[config.final],
        baseline="simclr_no_warp",
        summarize=lambda outcome: figures(config, compared, outcome),
        plots=lambda outcome: pictures(config, ecg, outcome),
        seeds_together=False,
    )


def _view(config: EcgConfig) -> tuple[data.View, dict[str, Meta]]:
    """The view, and what is learned of it beside the warp."""
    learnable: dict[View, tuple[data.View, Meta]] = {
        "mask": (data.random_mask, meta.fraction(0.5)),
        "noise": (data.random_noise, meta.positive(0.1)),
        "amplitude": (data.random_amplitude, meta.positive(0.1)),
        "dropout": (data.lead_dropout(), meta.fraction(0.1)),
    }
    published = {"mask": data.crop_mask, "noise": data.scaled_noise}
    fixed = [view for name, view in published.items() if name not in config.also]
    views = {name: learnable[name][0] for name in config.also}
    metas = {name: learnable[name][1] for name in config.also}
    return data.in_turn(*fixed, **views, warp=data.by_input(data.time_warp)), metas


def _in_a_row(others: dict[str, Meta]) -> Meta:
    """All strengths as a vector for the search: one magnitude of the warp for all records, and the others' phi."""

    def constrain(row):
        named = {name: learned.constrain(row[i]) for i, (name, learned) in enumerate(others.items(), 1)}
        return {"warp": Partial(_everywhere, row[0])} | named

    return Meta(lambda key: jnp.zeros(1 + len(others)), constrain)


def _everywhere(magnitude: jax.Array, x: jax.Array) -> jax.Array:
    """The strength of a warp that is the same for all records."""
    return jnp.full(len(x), 100 * magnitude**2)


def _meta_optimizer(config: EcgConfig, steps: int) -> optax.GradientTransformation:
    adam = lambda rate: optax.adam(optax.cosine_decay_schedule(rate, steps))
    kind = lambda path, leaf: "network" if jax.tree_util.DictKey("network") in path else "strength"
    return optax.multi_transform(
        {"network": adam(config.network_lr), "strength": adam(config.meta_lr)},
        lambda phi: jax.tree_util.tree_map_with_path(kind, phi),
    )


def _strengths(context, validation) -> dict[str, Any]:
    """What a run logs: the warp by superclass, and the other views' strengths."""
    x, y = validation
    strength, others = context["warp"](x), {name: value for name, value in context.items() if name != "warp"}
    by_class = {name: jnp.sum(strength * y[:, i]) / jnp.sum(y[:, i]) for i, name in enumerate(data.SUPERCLASSES)}
    return {"warp": by_class | {"all": strength.mean()}, "views": others}
