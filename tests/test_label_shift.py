"""Label shift: weights of a known shift to the last digit, what leaves them alone, and when they stay where they are."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metapt import updates
from metapt.updates import LabelShift

CLASSES = 5


def _problem(seed=0):
    """p(f = i | y = j), the same in source and target, and the classes' shares p and q."""
    rng = np.random.default_rng(seed)
    given = rng.dirichlet(np.ones(CLASSES), CLASSES).T + np.eye(CLASSES)
    p, q = rng.dirichlet(np.full(CLASSES, 5.0), 2)
    return jnp.asarray(given / given.sum(0)), jnp.asarray(p), jnp.asarray(q)


def _estimate(joint, predicted, least=1e-4):
    update, equal = updates.by_confusion(least), jnp.ones(len(predicted))
    weights, _, skipped = update.apply(LabelShift(joint, predicted), update.init(equal), equal)
    return np.asarray(weights), bool(skipped)


def test_the_solve_gives_the_ratio_of_the_shares():
    given, p, q = _problem()
    weights, skipped = _estimate(given * p, given @ q)
    assert not skipped
    np.testing.assert_allclose(weights, q / p, rtol=1e-12)
    np.testing.assert_allclose(_estimate(given * p, given @ p)[0], 1.0, rtol=1e-12)
    order = np.array([3, 0, 4, 1, 2])  # the predictor calls the classes by other names
    np.testing.assert_allclose(_estimate((given * p)[order], (given @ q)[order])[0], q / p, rtol=1e-12)


def test_evidence_from_examples_is_the_share_of_each_pair():
    source, target = jnp.eye(3)[jnp.array([0, 0, 1, 2])], jnp.eye(3)[jnp.array([2, 2, 0, 2, 1])]
    joint, predicted = updates.label_shift(source, jnp.array([0, 1, 1, 2]), target)
    np.testing.assert_allclose(joint, np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]) / 4, rtol=1e-15)
    np.testing.assert_allclose(predicted, [0.2, 0.2, 0.6], rtol=1e-15)
    soft = jnp.array([[0.5, 0.5], [0.1, 0.9]])
    np.testing.assert_allclose(updates.label_shift(soft, jnp.array([0, 1]), soft).joint, soft.T / 2, rtol=1e-15)


def test_weights_are_not_negative_and_stay_where_the_predictor_cannot_tell_classes_apart():
    given, p, _ = _problem()
    weights, _ = _estimate(given * p, jnp.eye(CLASSES)[0])  # no shares of classes give that
    assert weights.min() == 0.0 and weights.max() > 1.0
    blind = given.at[:, 1].set(given[:, 0])
    assert _estimate(blind * p, given @ p)[1] and (_estimate(blind * p, given @ p)[0] == 1.0).all()
    assert _estimate(given * jnp.nan, given @ p)[1]
    # A predictor that never errs has the rarest class's share as its smallest singular value.
    rarest = float(p.min())
    assert not _estimate(jnp.diag(p), p, least=0.99 * rarest)[1] and _estimate(jnp.diag(p), p, least=1.01 * rarest)[1]
    for least in (0.0, 1.0):
        with pytest.raises(ValueError, match="by_confusion: least="):
            updates.by_confusion(least)


def test_the_test_for_a_shift_is_scipys():
    decided = lambda counts: jnp.eye(4).repeat(jnp.array(counts), axis=0)
    p_value = float(updates.no_shift_p_value(decided([20, 30, 0, 50]), decided([30, 15, 0, 25])))
    wanted = stats.contingency.chi2_contingency(np.array([[20, 30, 50], [30, 15, 25]]))[1]
    assert p_value == pytest.approx(wanted, rel=1e-10)
    assert float(updates.no_shift_p_value(decided([5, 0, 0, 0]), decided([5, 0, 0, 0]))) == 1.0
