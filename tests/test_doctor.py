"""The public checker and `metapt doctor`: known errors on a quadratic, every kind of broken problem named, the command line."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapt import (
    Batches,
    SolveInfo,
    Stage,
    check_hypergradient,
    doctor,
    hypergrad,
    meta_pretraining,
    solvers,
    stages,
    updates,
)
from metapt.cli import main
from tests.oracles import Quadratic, plain

ETA = 0.05
QUADRATIC = Quadratic.make()


def _check(objective, phi, rules, extra=None, steps=3, optimizer=None, **how):
    """`objective(params, phi)` for pre-training; the validation loss is linear in its end, plus one fine-tuning step."""
    stage = Stage(objective, optimizer or optax.sgd(ETA))
    fine = Stage(plain(lambda p, _: 0.5 * jnp.sum(p**2)), optax.sgd(ETA))
    validate = plain(lambda p, _: QUADRATIC.v[: p.size] @ p)
    compose = lambda rule: meta_pretraining(
        rule(stage), hypergrad.unroll(fine), validate, updates.by_gradient(optax.sgd(1.0)), transfer=stages.transfer_all
    )
    params = jnp.full(4, 0.3)
    start = stages.start(stage, params, extra)
    state = compose(hypergrad.first_order).init(phi, start, stages.start(fine, params))
    rules = {name: doctor.Candidate(*rule) if isinstance(rule, tuple) else rule for name, rule in rules.items()}
    return check_hypergradient(
        compose,
        state,
        Batches(jnp.zeros(8), jnp.zeros(1), None),
        jax.random.key(0),
        pretrain_steps=steps,
        rules=rules,
        **how,
    )


def _of_b(objective):
    """On phi = {"a": ..., "b": ...}: a quadratic in a, and what `objective(params, b)` adds."""
    quadratic = QUADRATIC.objective()

    def both(params, phi, extra, batch, key):
        return quadratic(params, phi["a"], extra, batch, key)[0] + objective(params, phi["b"]), extra

    return both, {"a": np.ones(3), "b": np.array(0.33)}


def test_errors_on_a_quadratic_are_as_the_closed_form_says():
    """J Neumann terms with the learning rate as step are the last J + 1 of 3 unrolled steps."""
    neumann = lambda terms: (lambda stage: hypergrad.implicit(stage, solvers.neumann(terms, ETA)),)
    rules = {f"neumann_{terms}": neumann(terms) for terms in (0, 2)}
    rules |= {"truncate_1": (lambda stage: hypergrad.truncate(stage, 1),)}
    rules |= {"differences": (hypergrad.unroll, hypergrad.central_differences(1e-3))}
    rules |= {"first_order": doctor.RULES["first_order"]}
    check = _check(QUADRATIC.objective(), jnp.ones(3), rules)
    rows = {row.rule: row for row in check.rows}
    assert list(rows) == [
        "unroll",
        "neumann_0",
        "neumann_2",
        "truncate_1",
        "differences",
    ]  # first_order sees nothing of phi
    whole, one = QUADRATIC.truncated(ETA, 3), QUADRATIC.truncated(ETA, 1)
    error = np.linalg.norm(one - whole) / np.linalg.norm(whole)
    cosine = one @ whole / np.linalg.norm(one) / np.linalg.norm(whole)
    assert rows["unroll"].relative_error < 1e-8 and rows["unroll"].advice == "exact: agrees with finite differences"
    for name in ("neumann_0", "truncate_1"):
        np.testing.assert_allclose(rows[name][1:3], (error, cosine), rtol=1e-10)
    for name in ("neumann_2", "differences"):
        assert rows[name].relative_error < 1e-9 and rows[name].advice == "as good as the exact one here"
    left = np.linalg.matrix_power(np.eye(4) - ETA * QUADRATIC.H, 3) @ QUADRATIC.v
    np.testing.assert_allclose(
        rows["neumann_2"].residual, np.linalg.norm(left) / np.linalg.norm(QUADRATIC.v), rtol=1e-10
    )
    assert math.isnan(rows["truncate_1"].residual)
    assert all(row.seconds > 0 and (row.peak_mb > 0 or math.isnan(row.peak_mb)) for row in check.rows)
    table = str(check._replace(rows=(check.rows[0]._replace(advice=30 * "advice "), *check.rows[1:])))
    assert max(map(len, table.split("\n"))) <= 80 and table.startswith("rule ") and "finite differences.\n" in table
    assert [line.split()[0] for line in table.split("\n")[1:-3] if line[0] != " "] == list(rows)
    assert " ".join(table.split()).count("advice") == 30 and rows["neumann_2"].advice in table
    untold = check.rows[0]._replace(peak_mb=np.nan)
    assert str(doctor.HypergradientCheck((untold,))).split("\n")[1].endswith("unknown")


BROKEN = {
    "cut": (_of_b(lambda p, b: jax.lax.stop_gradient(b) * p.sum()), "zero in phi['b'], yet the loss changes with it"),
    "round": (_of_b(lambda p, b: jnp.round(2 * b) * p.sum()), "zero in phi['b'], yet the loss changes with it"),
    "unused": (_of_b(lambda p, b: 0.0), "zero in phi['b']: the validation loss does not depend on it"),
    "half_cut": (_of_b(lambda p, b: (b + jax.lax.stop_gradient(b)) * p.sum()), "part of its derivative is cut off"),
    "jumps": (_of_b(lambda p, b: (b + 1e-4 * jnp.floor(1e4 * b + 0.3)) * p.sum()), "exact between jumps"),
    "a_cut_between_jumps": (
        _of_b(lambda p, b: (b + jax.lax.stop_gradient(b) + 1e-4 * jnp.floor(1e4 * b + 0.3)) * p.sum()),
        "part of its derivative is cut off",
    ),
    "infinite": (_of_b(lambda p, b: jnp.sqrt(b - 0.33) * p.sum()), "not finite: some derivative is infinite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_problem_is_named(name):
    (objective, phi), says = BROKEN[name]
    (exact,) = _check(objective, phi, {}).rows
    assert says in exact.advice


def test_a_loss_that_is_not_deterministic_is_named():
    rng = np.random.default_rng(0)
    noise = lambda: jax.pure_callback(lambda: rng.normal(), jax.ShapeDtypeStruct((), jnp.float64))
    objective, phi = _of_b(lambda p, b: (b + noise()) * p.sum())
    (exact,) = _check(objective, phi, {}).rows
    assert "not deterministic" in exact.advice


def test_what_implicit_can_not_see_is_named():
    """b enters through `extra`, one step later."""
    quadratic = QUADRATIC.objective()

    def objective(params, phi, extra, batch, key):
        return quadratic(params, phi["a"], extra, batch, key)[0] + extra * params.sum(), phi["b"]

    rules = {"implicit": (lambda stage: hypergrad.implicit(stage, solvers.neumann(2, ETA)),)}
    exact, implicit = _check(objective, {"a": jnp.ones(3), "b": jnp.array(2.0)}, rules, extra=jnp.array(0.0)).rows
    assert exact.advice == "exact: agrees with finite differences"
    assert implicit.advice.startswith("zero in phi['b'], unlike the exact one: a point of rest knows nothing")


def test_finite_differences_are_exact_on_a_curved_loss():
    objective, phi = _of_b(lambda p, b: jnp.exp(3 * b) * p.sum())
    (exact,) = _check(objective, phi, {}).rows
    assert exact.relative_error < 1e-8


def test_a_rule_that_refuses_has_a_row_that_says_why():
    rules = {"late": (lambda stage: hypergrad.implicit(stage, batches=9),)}
    _, late = _check(QUADRATIC.objective(), jnp.ones(3), rules).rows
    assert late.advice.startswith("refuses: implicit: batches=9") and math.isnan(late.relative_error)


def test_float32_parameters_take_part_in_float64():
    phi = jnp.ones(3, jnp.float32)
    (exact,) = _check(QUADRATIC.objective(), phi, {}).rows
    assert exact.relative_error < 1e-8


def _report(contraction=0.5, negative=0.0, residual=0.01):
    return SolveInfo(*map(jnp.asarray, (residual, contraction, negative, 1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("error", "cosine", "report", "says"),
    [
        (0.05, 0.999, _report(), "as good as the exact one here"),
        (0.9, 0.95, _report(), "right direction, another length: fine with Adam on phi; solved, but"),
        (0.9, 0.6, _report(residual=0.7), "roughly the right direction; not solved (residual 0.7)"),
        (2.0, 0.3, _report(contraction=1.25), "hardly the right direction; the solve diverges"),
        (2.0, 0.3, _report(residual=18.0), "hardly the right direction; the solve diverges"),
        (2.0, -0.3, _report(negative=1.0), "points the wrong way; negative curvature"),
    ],
)
def test_advice_follows_from_the_figures(error, cosine, report, says):
    gradient = jnp.ones(2)
    assert doctor._advice(gradient, gradient, error, cosine, report).startswith(says)


@pytest.mark.parametrize("wrong", [{"pretrain_steps": 0}, {"finetune_steps": 0}])
def test_a_number_of_steps_below_one_is_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        check_hypergradient(None, None, None, None, **wrong)  # pyright: ignore


def test_an_optimizer_that_can_not_be_unrolled_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="eps_root > 0"):
        _check(QUADRATIC.objective(), jnp.ones(3), {}, optimizer=optax.adam(0.1))


def test_every_rule_of_the_table_can_be_checked():
    stage = Stage(QUADRATIC.objective(), optax.sgd(ETA))
    for name, candidate in doctor.RULES.items():
        end = lambda phi, report, fit=candidate.rule(stage): (
            QUADRATIC.v
            @ fit(stages.start(stage, jnp.zeros(4)), phi, jnp.zeros(3), jax.random.key(0), report)[0].params,
            None,
        )
        differentiated = candidate.differentiate(end, argnums=(0, 1), has_aux=True)
        (gradient, report), _ = jax.eval_shape(differentiated, jnp.ones(3), SolveInfo.blank())
        assert gradient.shape == (3,) and isinstance(report, SolveInfo), name


TINY = "--seeds 2 --real-tasks 3 --noise-tasks 4 --train-labels 20 --validation-labels 20 --hidden 4 --features 2"
TINY += " --outer-steps 3 --warm-up 1 --pretrain-steps 2 --finetune-steps 1 --batch 8"


def test_the_command_line_checks_a_config(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "RULES", {"truncate_1": doctor.RULES["truncate_1"]})
    assert main(["doctor", "digits_tasks", *TINY.split(), "--json"]) == 0
    captured = capsys.readouterr()
    exact, truncated = json.loads(captured.out)
    for row in (exact, truncated):
        assert list(row) == ["rule", "relative_error", "cosine", "seconds", "peak_mb", "advice"]
    assert (exact["rule"], truncated["rule"]) == ("unroll", "truncate_1")
    assert exact["relative_error"] < 1e-3 < truncated["relative_error"] and exact["cosine"] > 0.999
    assert "hypergradient by unroll\nhypergradient by truncate_1\n" in captured.err


WRONG = {
    "doctor": "which CONFIG?",
    "doctor digit_tasks": "no config 'digit_tasks'; did you mean digits_tasks?",
    "doctor digits_tasks --seeds 0": "seeds=0 must be at least 1",
    "doctor digits_tasks --fast": "Unrecognized options: --fast",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_mistake_is_one_clear_line_and_status_2(command, capsys):
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and WRONG[command] in captured.err


CONFIG = """
import dataclasses, jax.numpy as jnp
from types import SimpleNamespace
METHOD = None
@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
experiment = lambda config: SimpleNamespace(arms=[SimpleNamespace(compose=None)])
"""


def test_a_config_that_can_not_be_checked_says_so(tmp_path, capsys):
    (tmp_path / "plain.py").write_text(CONFIG)
    assert main(["doctor", str(tmp_path / "plain.py")]) == 2
    assert "no arm with `compose`" in capsys.readouterr().err
