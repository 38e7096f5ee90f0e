"""NaN and infinities at random steps: left out, counted, said; results stay where they were. And what went wrong is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import Stage, hypergrad, stages
from metapt.cli import main
from metapt.io import runner
from metapt.io.diagnosis import STOP_AFTER, advice
from tests.oracles import plain
from tests.test_interruption import CONFIG

FAULTS = [
    "none",
    "none",
    "batch:0.01:nan",
    "batch:0.2:nan",
    "batch:0.1:inf",
    "loss:0.2:nan",
    "loss:0.1:inf",
    "gradient:0.2:nan",
    "hypergradient:0.2:nan",
    "hypergradient:0.1:inf",
]


@pytest.fixture
def float32():
    with jax.enable_x64(False):
        yield


def test_a_step_that_is_not_finite_moves_nothing_and_leaves_the_others_as_they_are(key):
    """The run with bad steps equals the run without them, extra and optimizer included; so do the derivatives of both."""
    objective = lambda p, c, extra, b, k: (jnp.sum((p - c * b) ** 2) + 0 * extra, extra + b)
    batches = jnp.array([1.0, jnp.nan, 2.0, jnp.inf, 0.5])
    stage = Stage(objective, optax.sgd(0.1))
    fit = jax.jit(hypergrad.unroll(stage))
    start = stages.start(stage, jnp.ones(3), extra=jnp.zeros(()))
    end, info = fit(start, 2.0, batches, key)
    clean, _ = fit(start, 2.0, batches[jnp.array([0, 2, 4])], key)
    np.testing.assert_array_equal(info.skipped, [False, True, False, True, False])
    np.testing.assert_allclose(end.params, clean.params, rtol=1e-14)
    np.testing.assert_allclose(end.extra, 3.5, rtol=1e-14)
    # A derivative through a bad step is not finite, so that it is dropped; through good ones it is what it was.
    assert not jnp.isfinite(jax.grad(lambda c: fit(start, c, batches, key)[0].params.sum())(2.0))
    slope = lambda c: fit(start, c, batches[:1], key)[0].params.sum()
    np.testing.assert_allclose(jax.grad(slope)(2.0), 3 * 0.2, rtol=1e-12)


def test_dead_units_are_counted_where_a_unit_has_a_bias_or_a_scale(key):
    def loss(p, c):
        hidden = jax.nn.relu(jnp.array([[1.0, -2.0], [0.5, 1.0]]) @ p["in"] + p["bias"])
        return jnp.sum((hidden @ p["out"] + p.get("last", 0.0) - c) ** 2)

    hidden = {"in": jnp.ones((2, 4)), "bias": jnp.array([1.0, -100.0, 2.0, -100.0]), "out": jnp.ones((4, 3))}
    params = hidden | {"last": jnp.zeros(3)}
    stage = Stage(plain(loss), optax.sgd(0.1))
    dead = lambda params, stage=stage: stages.step(stage, 1.0, stages.start(stage, params), (0.0, key))[1].dead
    assert dead(params) == 2 / 7
    assert dead(params | {"last": jnp.zeros((1, 1, 3))}) == 2 / 7
    assert dead(params | {"bias": jnp.full(4, -100.0)}) == 4 / 7
    assert dead(params | {"bias": jnp.ones(4)}) == 0
    assert jnp.isnan(dead(hidden))  # a single bias could be that of outputs
    headed = Stage(plain(lambda p, c: loss(p["encoder"], c)), optax.sgd(0.1))
    assert dead({"encoder": hidden, "head": jnp.zeros(3)}, headed) == 2 / 4  # what is not asked of a head is not dead
    assert jnp.isnan(dead({"in": jnp.ones((2, 4)), "bias": jnp.array(1.0), "out": jnp.ones((4, 3))}))


def test_a_momentum_sees_a_gradient_of_zero(key):
    stage = Stage(plain(lambda p, c: p * c), optax.sgd(0.1, momentum=0.5))
    state = stages.start(stage, jnp.array(1.0))
    state, _ = stages.step(stage, 1.0, state, (0.0, key))
    after, info = stages.step(stage, jnp.nan, state, (0.0, key))
    assert info.skipped and abs(float(after.params) - (0.9 - 0.05)) < 1e-12


def test_faults_at_random_steps_are_counted_and_change_little(tmp_path, float32):
    command = ["run", CONFIG, "--seeds", str(len(FAULTS)), "--outer-steps", "80", "--faults", *FAULTS]
    assert main([*command, "--out", str(tmp_path / "faults"), "--quiet"]) == 0
    result = json.loads((tmp_path / "faults" / "result.json").read_text())
    meta, equal = (np.array(result["arms"][arm]["per_seed"]) for arm in ("meta", "equal"))
    assert (meta < 0.1 * equal).all() and np.isfinite(equal).all()  # learned, whatever the faults
    assert (meta < 0.2).all()
    rows = [json.loads(line) for line in (tmp_path / "faults" / "metrics.jsonl").read_text().splitlines()]
    steps = np.array([row["pretrain.skipped"] for row in rows]).sum(0)
    moves = np.array([row["skipped"] for row in rows if row["arm"] == "meta"]).sum(0)
    assert result["skipped_steps"] == steps.sum() and result["skipped_updates"] == moves.sum()
    for fault, skipped, unmoved in zip(FAULTS, steps, moves, strict=True):
        kind, share, _ = (fault + ":0:0").split(":")[:3]
        of_steps = float(share) * (kind in ("batch", "gradient"))
        assert abs(skipped - 320 * of_steps) <= 4 * np.sqrt(320 * of_steps * (1 - of_steps)), fault  # two arms, P = 2
        if kind in ("none", "loss"):  # a loss plays no part in its own derivatives: all steps are taken
            assert skipped == unmoved == 0, fault
        if kind in ("gradient", "hypergradient"):
            assert unmoved > 0, fault
    assert any("times a pre-training step was not finite" in line for line in result["advice"])
    assert any("times a hypergradient was not finite" in line for line in result["advice"])
    assert any("a loss of pre-training was not finite though its gradients were" in line for line in result["advice"])


def test_a_lost_loss_is_told_from_a_stage_that_is_not_there():
    figures = lambda loss, norm: {"arm": {"pretrain.loss": [[loss]], "pretrain.grad_norm": [[norm]]}}
    assert len(advice(figures(None, 1.0))) == 1  # None in a log: not finite
    assert not advice(figures(None, None)) and not advice(figures(1.0, 1.0))


@pytest.mark.parametrize(
    ("fault", "what"), [("batch:1:nan", "pre-training step"), ("hypergradient:1:inf", "hypergradient")]
)
def test_where_nothing_is_finite_the_run_stops_early_and_says_why(fault, what, tmp_path, capsys, float32):
    assert main(["run", CONFIG, "--faults", fault, "--out", str(tmp_path / "bad"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert f"every {what} of the last {STOP_AFTER} outer steps was not finite" in error and error.count("\n") == 1
    assert not (tmp_path / "bad" / "result.json").exists()


def test_the_closing_lines_name_what_the_reports_show():
    def infos(**figures):
        blank = {
            "report.solves": 1.0,
            "report.contraction": 0.5,
            "report.negative_curvature": 0.0,
            "hypergradient_norm": 1.0,
        }
        return {"meta": {name: [[value]] * 8 for name, value in blank.items()} | figures}

    assert advice(infos()) == []
    assert advice({"equal": {"pretrain.loss": [[1.0]]}}) == []  # no solves, no findings
    (line,) = advice(infos(**{"report.contraction": [[1.2]] * 4 + [[None]] * 4}))
    assert "diverged in 50% of the solves" in line and "fewer terms" in line and line.startswith("arm meta: ")
    (line,) = advice(infos(**{"report.negative_curvature": [[1.0]] * 8}))
    assert "indefinite in 100% of the solves" in line and "minres" in line
    (line,) = advice(infos(hypergradient_norm=[[1.0]] * 6 + [[1e-12]] * 2))
    assert "vanished in 100% of the last updates" in line
    died = [[0.0, 0.3]] * 4 + [[0.5, 0.3], [0.2, None], [0.4, 0.6], [0.5, 0.3]]  # of late ones, the least: 0.4 and 0.3
    (line,) = advice(infos(**{"pretrain.dead": died}))
    assert "35% of the biases and scales of pre-training had no gradient" in line and "dead units" in line
    assert advice(infos(**{"pretrain.dead": [[0.9]] * 7 + [[0.05]], "finetune.dead": [[None]] * 8})) == []
    (line,) = advice(infos(**{"pretrain.skipped": [[0.0]] * 6 + [[2.0]] * 2}))
    assert "4 times a pre-training step was not finite" in line


def test_events_are_counted_and_numbers_averaged():
    figures = {"skipped": np.array([[[True, True], [False, True]]]), "loss": np.array([[[1.0, 3.0], [np.nan, 1.0]]])}
    rows = list(runner._rows("meta", range(2), figures))
    assert rows[0] == {"arm": "meta", "step": 0, "skipped": [2.0], "loss": [2.0]}
    assert rows[1] == {"arm": "meta", "step": 1, "skipped": [1.0], "loss": [None]}
