"""A hypergradient that is exactly zero: the run says so once, and on which way from phi to the validation loss it is cut."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Batches, Stage, hypergrad, meta_pretraining, stages, updates
from metapt.io import arms
from metapt.io.experiment import Experiment
from metapt.io.folder import RunFolder
from metapt.io.runner import run_experiment
from metapt.io.zero import cut_at
from metapt.optimizers import from_context
from tests.oracles import plain

BATCHES = Batches(jnp.zeros(2), jnp.zeros(1), None)
FINE = Stage(plain(lambda p, _: 0.5 * jnp.sum((p["encoder"] - 1.0) ** 2)), optax.sgd(0.1))
RATE = from_context(lambda c: optax.sgd(c), 0.1)


def _pull(p, target):
    return 0.5 * jnp.sum((p["encoder"] - target) ** 2)


def _arm(loss, optimizer=None, transfer=stages.transfer_all, known=True):
    stage = Stage(plain(loss), optimizer or optax.sgd(0.1))

    def compose(rule):
        fine, update = hypergrad.unroll(FINE), updates.by_gradient(optax.sgd(0.1))
        return meta_pretraining(rule(stage), fine, FINE.objective, update, transfer=transfer)

    algorithm = compose(hypergrad.implicit)
    params = {"encoder": jnp.array([2.0, 3.0])}
    begin = lambda key, data: algorithm.init(jnp.array(-0.5), stages.start(stage, params), stages.start(FINE, params))
    export = lambda state: {"encoder": state.pretrain.params["encoder"], "phi": state.phi}
    return arms.learning("meta", algorithm, (1, 3, 1), (0, 0), begin, export, compose=compose if known else None)


CASES = {
    "cut by its rule": _arm(lambda p, c: _pull(p, 0.0), RATE),
    "cut in pre-training": _arm(lambda p, c: _pull(p, 0.0) + c),
    "cut after pre-training": _arm(_pull, transfer=lambda pre, fine, meta: (fine, None)),
    "the way from phi is open": _arm(lambda p, c: _pull(p, jax.nn.relu(c))),
    "its rule sees no way": _arm(lambda p, c: _pull(p, 0.0), known=False),
}


@pytest.mark.parametrize("says", CASES)
def test_the_place_of_the_cut_is_named(says):
    arm = CASES[says]
    state = arm.init(jax.random.key(0), None, {})
    assert cut_at(arm, arm.phases[1].step, state, BATCHES, jax.random.key(0)).startswith(says)


@dataclass(frozen=True)
class _Config:
    seed: int = 0


@pytest.mark.parametrize(("loss", "cut"), [(lambda p, c: _pull(p, 0.0), True), (_pull, False)])
def test_a_run_says_it_once(loss, cut, tmp_path, caplog):
    experiment = Experiment(
        metric="nearness",
        higher_is_better=True,
        data=jnp.zeros((2, 1)),
        test=jnp.zeros((2, 1)),
        draw=lambda data, key: BATCHES,
        arms=(_arm(loss),),
        monitor=lambda encoder, data, key: encoder.sum(),
        evaluate=lambda encoder, data, test, key: encoder.sum(),
        baseline="meta",
        summarize=lambda outcome: {"moved": bool(np.any(outcome.exports["meta"]["phi"] != -0.5))},
        plots=lambda outcome: {},
    )
    with RunFolder.create(tmp_path / "run", "tiny", _Config()) as folder:
        result = run_experiment(experiment, "tiny", 0, folder, quiet=True)
    assert result["meta"]["moved"] is not cut
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = "meta: the hypergradient is exactly zero from outer step 1 on: cut in pre-training: "
    assert len(said) == cut and all(line.startswith(expected) and "\n" not in line for line in said)
