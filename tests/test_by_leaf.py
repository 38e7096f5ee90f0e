"""Every leaf has the derivative of its own rule; what a rule cannot see is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Stage, hypergrad, solvers, stages
from metapt.optimizers import from_context
from tests.oracles import Quadratic

QUADRATIC = Quadratic.make()
CONTEXT = {"optimizer": {"rate": 0.02, "momentum": 0.5}, "phi": np.ones(3), "offset": 0.3, "steps": 7}
EXACT = functools.partial(hypergrad.implicit, solve=solvers.dense())


def _objective(params, context, extra, batch, key):
    loss, extra = QUADRATIC.objective()(params, context["phi"], extra, batch, key)
    return loss + context["offset"] + 0.0 * context["steps"], extra


def _sgd(context):
    return optax.sgd(context["optimizer"]["rate"], momentum=context["optimizer"]["momentum"])


STAGE = Stage(_objective, from_context(_sgd, CONTEXT))
SEEN = {name: CONTEXT[name] for name in ("optimizer", "phi")}


def _gradient(rule, steps=6):
    """With respect to the parameters at the start and to the seen part of the context."""

    def end(params, seen):
        state = stages.start(STAGE, params)
        end, info = rule(STAGE)(state, CONTEXT | seen, jnp.zeros(steps), jax.random.key(0))
        return QUADRATIC.v @ end.params, (end, info)

    return jax.jit(jax.grad(end, argnums=(0, 1), has_aux=True))(jnp.arange(4.0), SEEN)


def _mixed(rules, start=None):
    # The offset has no rule that sees it, so it is a constant of the objective here.
    constant = lambda stage: stage._replace(objective=lambda p, c, *rest: _objective(p, c | {"offset": 0.3}, *rest))

    def rule(stage):
        fit = hypergrad.by_leaf(constant(stage), rules, start)
        return lambda state, context, *rest: fit(
            state, {name: context[name] for name in ("optimizer", "phi", "steps")}, *rest
        )

    return rule


def test_every_leaf_has_the_derivative_of_its_rule():
    (to_start, unrolled), (end, info) = _gradient(hypergrad.unroll)
    (_, implicit), _ = _gradient(EXACT)
    rules = {"optimizer": hypergrad.unroll, "phi": EXACT}
    (none, found), (same_end, same_info) = _gradient(_mixed(rules))
    chex.assert_trees_all_close(found, {"optimizer": unrolled["optimizer"], "phi": implicit["phi"]}, rtol=1e-12)
    chex.assert_trees_all_close((same_end.params, same_info.grad_norm), (end.params, info.grad_norm), rtol=1e-13)
    assert (none == 0).all() and np.abs(unrolled["phi"] - implicit["phi"]).max() > 1e-3
    chex.assert_trees_all_close(_gradient(_mixed(rules, start=hypergrad.unroll))[0][0], to_start, rtol=1e-12)
    chex.assert_trees_all_close(_gradient(_mixed(rules, start=hypergrad.first_order))[0][0], QUADRATIC.v, rtol=1e-12)


def test_a_longer_path_decides():
    last = functools.partial(hypergrad.truncate, last=1)
    (_, found), _ = _gradient(_mixed({"optimizer": hypergrad.unroll, "optimizer/rate": last, "phi": EXACT}))
    (_, unrolled), _ = _gradient(hypergrad.unroll)
    (_, truncated), _ = _gradient(last)
    expected = {"rate": truncated["optimizer"]["rate"], "momentum": unrolled["optimizer"]["momentum"]}
    chex.assert_trees_all_close(found["optimizer"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("rules", "start", "message"),
    [
        (
            {"optimizer": EXACT, "phi": EXACT},
            None,
            "'optimizer/momentum' is invisible .* does not depend on it; use unroll",
        ),
        (
            {"optimizer": hypergrad.unroll, "phi": hypergrad.first_order},
            None,
            "'phi' is invisible .*sees no context at all",
        ),
        ({"optimizer": hypergrad.unroll, "phi": EXACT}, EXACT, "the start is invisible .*use unroll, proximal"),
        ({"phi": EXACT}, None, "no rule for 'optimizer/momentum', only for .'phi'."),
        ({"optimizer": hypergrad.unroll, "phi": EXACT, "rate": EXACT}, None, "rules for .'rate'., but the leaves"),
    ],
)
def test_what_a_rule_cannot_see_is_refused(rules, start, message):
    with pytest.raises(ValueError, match=message):
        _gradient(_mixed(rules, start))


def test_cut_paths_say_where():
    state = stages.start(STAGE, jnp.zeros(4))
    cut = hypergrad.cut_paths(STAGE, state, CONTEXT, jnp.zeros(3))
    assert set(cut) == {"optimizer/rate", "optimizer/momentum", "offset"}
    assert "comes to rest does not depend on it" in cut["optimizer/rate"] and "no rule sees it" in cut["offset"]
    fit = hypergrad.by_leaf(STAGE, dict.fromkeys(("optimizer", "phi", "offset"), hypergrad.unroll))
    with pytest.raises(ValueError, match="'offset' is invisible to its rule: neither"):
        fit(state, CONTEXT, jnp.zeros(3), jax.random.key(0))
