"""Signals: views and what steers them, networks, the contrastive loss and recipe; against loops and central differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from metapt import Model, data, hypergrad, meta, models, objectives, recipes
from metapt.types import Batches

LEARNED = {
    "random_mask": (data.random_mask, 0.3),
    "random_noise": (data.random_noise, 0.2),
    "random_amplitude": (data.random_amplitude, 0.2),
    "lead_dropout": (data.lead_dropout(0.5), 0.3),
    "time_warp": (data.time_warp, 60.0),
}
FIXED = {"crop_mask": (data.crop_mask, None), "scaled_noise": (data.scaled_noise, None)}


def _signals(key, batch=3, time=60, leads=2):
    return jnp.cumsum(jax.random.normal(key, (batch, time, leads)), axis=1)


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _float64(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def _slope(f, at, h=1e-6):
    return (f(at + h) - f(at - h)) / (2 * h)


def _read(x, position):
    """Linear interpolation of a list, 0 outside."""
    left = int(np.floor(position))
    at = lambda i: x[i] if 0 <= i < len(x) else 0.0
    return (left + 1 - position) * at(left) + (position - left) * at(left + 1)


def _resized(x, n):
    positions = [(i + 0.5) * len(x) / n - 0.5 for i in range(n)]
    return [_read(x, min(max(p, 0.0), len(x) - 1.0)) for p in positions]


def _kernel():
    """A Gaussian of 12 samples about the middle of 25, the tails mirrored in at both ends."""
    kernel = np.zeros(25)
    for offset in range(-48, 49):
        i = (12 + offset) % 50
        kernel[i if i < 25 else 49 - i] += np.exp(-0.5 * (offset / 12) ** 2)
    return kernel / kernel.sum()


def _displacement(noise):
    coarse = [v / 4 / 32 for v in _resized(noise, len(noise) // 4)]
    for _ in range(5):
        coarse = [d + _read(coarse, t + d) for t, d in enumerate(coarse)]
    fine = _resized([4 * d for d in coarse], len(noise))
    kernel = _kernel()
    inside = lambda i: fine[i] if 0 <= i < len(fine) else 0.0
    return [sum(kernel[j] * inside(t + j - 12) for j in range(25)) for t in range(len(fine))]


@pytest.mark.parametrize("std", [1.0, 30.0, 500.0])
def test_a_warp_is_the_published_one_written_as_loops(key, std):
    x, noise = _signals(key), std * jax.random.normal(key, (3, 60))
    field = _displacement(noise[1].tolist())
    np.testing.assert_allclose(data.displacement(noise[1]), field, atol=1e-10)
    context = jnp.array([1.0, std, 3.0])
    expected = [[_read(x[1, :, lead].tolist(), t + d) for lead in range(2)] for t, d in enumerate(field)]
    np.testing.assert_allclose(data.time_warp(context, x, key)[1], expected, atol=1e-9)


def test_no_warp_changes_nothing_and_a_constant_velocity_leads_as_far_as_it_says(key):
    x = _signals(key)
    np.testing.assert_allclose(data.time_warp(0.0, x, key), x, atol=1e-12)
    np.testing.assert_allclose(data.integrate(jnp.full(100, -3.7))[10:], -3.7, rtol=1e-12)  # what flows in is 0
    np.testing.assert_allclose(data.displacement(jnp.full(200, 2.0))[40:150], 2.0, rtol=1e-12)
    with pytest.raises(ValueError, match="time_warp: 3 samples are too few: give at least 4"):
        data.time_warp(1.0, x[:, :3], key)


def test_published_warps_have_the_measured_size():
    """At s = 4, 1, 0.5: a displacement of about 85, 5 and 3 samples of 1,024, of which 59 % and 99 % stay in order."""
    noise = jax.random.normal(jax.random.key(0), (100, 1024))
    for s, expected, ordered in ((4.0, 85, 0.59), (1.0, 5, 0.99), (0.5, 3, 1.0)):
        field = jax.vmap(data.displacement)(100 * s**2 * noise)
        assert abs(field.std() / expected - 1) < 0.25
        assert abs((jnp.diff(field) > -1).mean() - ordered) < 0.02


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_view_has_the_derivative_of_its_values(key, name):
    view, context = LEARNED[name]
    x, weights = _signals(key), jax.random.normal(jax.random.key(1), (3, 60, 2))
    value = lambda context: jnp.sum(weights * view(context, x, key))
    slope = jax.grad(value)(context)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, _slope(value, context), rtol=1e-6)


def test_the_strength_of_a_warp_has_the_derivative_of_its_values(key):
    """With respect to s, and to what the network says of every signal."""
    network = Model(lambda key: jnp.array([0.1, -0.2]), lambda params, x: jnp.tanh(x[:, 0]) @ params)
    made = meta.warp_strength(network, start=0.7)
    phi, x = made.init(key), _signals(key)
    chex.assert_trees_all_close(made.constrain({**phi, "network": jnp.zeros(2)})(x), jnp.full(3, 49.0), rtol=1e-12)
    weights = jax.random.normal(jax.random.key(1), x.shape)
    view = data.by_input(data.time_warp)
    value = lambda phi: jnp.sum(weights * view(made.constrain(phi), x, key))
    slopes = jax.grad(value)(phi)
    np.testing.assert_allclose(slopes["scale"], _slope(lambda s: value({**phi, "scale": s}), phi["scale"]), rtol=1e-6)
    for i in range(2):
        along = lambda p, i=i: value({**phi, "network": phi["network"].at[i].set(p)})
        np.testing.assert_allclose(slopes["network"][i], _slope(along, phi["network"][i]), rtol=1e-6)


@pytest.mark.parametrize("name", LEARNED | FIXED)
def test_views_are_the_same_compiled_and_leave_the_type_alone(key, name):
    view, context = (LEARNED | FIXED)[name]
    x, keys = _signals(key, batch=6).reshape(2, 3, 60, 2), jax.random.split(key, 2)
    run = lambda x, key: view(context, x, key)
    loop = jnp.stack([run(*args) for args in zip(x, keys, strict=True)])
    np.testing.assert_allclose(jax.jit(run)(x[0], keys[0]), loop[0], atol=1e-10)
    np.testing.assert_allclose(jax.vmap(run)(x, keys), loop, atol=1e-10)
    assert run(x[0].astype(jnp.float32), key).dtype == jnp.float32
    assert (run(x[0], keys[0]) != run(x[0], keys[1])).any()


def test_masks_cover_what_they_should(key):
    ones = jnp.ones((500, 200, 4))
    for masked in (data.crop_mask(None, ones, key), data.random_mask(0.5, ones, key)):
        lost = 1 - masked.mean(axis=1)
        assert 0.48 < lost.max() <= 0.5 and lost.min() < 0.001
        # E[length] = T / 4; a start below 0 is set to 0, one near T lets the stretch end outside: -E[length^2 / 2 (T + length)].
        u = np.random.default_rng(0).uniform(0, 0.5, 100000)
        assert abs(lost.mean() - (u - u**2 / 2 / (1 + u)).mean()) < 0.005
        assert (jnp.abs(jnp.diff(masked, axis=1)).sum(axis=1) <= 2).all()  # in one piece
        assert abs(np.corrcoef(lost[:, 0], lost[:, 1])[0, 1]) < 0.1  # every lead by itself


def test_noise_amplitudes_and_lost_leads_have_their_spread(key):
    x = jax.random.normal(key, (2000, 50, 2)) * jnp.array([1.0, 5.0])
    added = (data.scaled_noise(None, x, key) - x) / x.std(axis=1, keepdims=True)
    scales = added.std(axis=(1, 2))
    assert scales.max() < 0.13 and abs(scales.mean() - 0.05) < 0.002 and abs(added.mean()) < 1e-3
    factors = data.random_amplitude(0.3, jnp.ones((2000, 5, 2)), key)
    assert (factors == factors[:, :1]).all() and abs(jnp.log(factors).std() - 0.3) < 0.02
    kept = data.lead_dropout(0.05)(0.3, jnp.ones((2000, 1, 3)), key)
    assert abs((kept < 0.5).mean() - 0.3) < 0.02 and ((kept > 0.1) & (kept < 0.9)).mean() < 0.1
    slope = jax.grad(lambda x: data.scaled_noise(None, x, key).sum())(jnp.zeros((1, 9, 1)))
    assert jnp.isfinite(slope).all()  # a lead that was masked whole
    with pytest.raises(ValueError, match="temperature=0"):
        data.lead_dropout(0)


def test_what_steers_views_starts_where_it_should(key):
    made = meta.named(noise=meta.positive(0.1), mask=meta.fraction(0.4))
    phi = made.init(key)
    assert phi == {"noise": 0.0, "mask": 0.0}
    chex.assert_trees_all_close(made.constrain(phi), {"noise": jnp.array(0.1), "mask": jnp.array(0.4)}, rtol=1e-12)
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"start={wrong} must be above 0 and below 1"):
            meta.fraction(wrong)
    with pytest.raises(ValueError, match="start=-1 must be above 0"):
        meta.positive(-1)


def test_the_published_networks_have_their_size(key):
    params, _ = jax.eval_shape(models.resnet1d(channels=12).init, key)
    assert _size(params) == 4_632_768
    assert _size(jax.eval_shape(models.projection(256, 256, 128).init, key)) == 98_432
    network = models.warp_network(channels=12)
    made = meta.warp_strength(network)
    phi = jax.jit(made.init)(key)
    assert _size(phi) == 52_258
    strength = jax.jit(lambda phi, x: made.constrain(phi)(x) / 1600)(phi, jax.random.normal(key, (4, 250, 12)))
    assert strength.shape == (4,) and (abs(strength - 1) < 0.5).all()
    with pytest.raises(ValueError, match="14 samples with padding 0 are fewer than the kernel's 15"):
        jax.eval_shape(network.apply, phi["network"], jnp.zeros((2, 210, 12)))


@pytest.mark.parametrize(("time", "stride", "padding"), [(40, 1, 7), (41, 2, 0), (23, 3, 1), (15, 1, 0), (400, 1, 7)])
def test_the_convolution_is_that_of_jax(key, time, stride, padding):
    x, kernel = jax.random.normal(key, (2, time, 3)), jax.random.normal(key, (15, 3, 4))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride,), [(padding, padding)], dimension_numbers=("NHC", "HIO", "NHC")
    )
    np.testing.assert_allclose(models.convolve(x, kernel, stride, padding), expected, atol=1e-12)


def test_running_averages_move_by_the_batch_and_group_normalisation_has_none(key):
    x = jax.random.normal(key, (4, 40, 2))
    model = models.resnet1d(2, widths=(4, 8), blocks=1, kernel=3)
    params, extra = jax.jit(model.init)(key)
    run = jax.jit(model.apply, static_argnums=4)
    y, moved = run(params, extra, x, key, "batch")
    assert y.shape == (4, 8) and (y != run(params, extra, x, key, "running")[0]).any()
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(extra), jax.tree.leaves(moved), strict=True))
    grouped = models.resnet1d(2, widths=(4, 8), blocks=1, kernel=3, norm="group")
    params = _float64(jax.jit(grouped.init)(key))
    alone = jax.jit(jax.vmap(lambda x: grouped.apply(params, x[None])[0]))(x)
    np.testing.assert_allclose(jax.jit(grouped.apply)(params, x), alone, rtol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.resnet1d(12, widths=()), "with at least one width"),
        (lambda: models.resnet1d(12, kernel=4), "kernel=4 must all be at least 1, with .* an odd kernel"),
        (lambda: models.resnet1d(12, norm="layer"), "norm='layer' is not one of 'batch', 'group'"),
        (lambda: models.warp_network(0), "channels=0"),
        (lambda: models.projection(4, 0, 1), "hidden=0"),
        (lambda: objectives.contrastive(None, None, temperature=0), "temperature=0 must be above 0"),
    ],
)
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_contrastive_loss_is_its_formula_as_a_loop(key):
    first, second = jax.random.normal(key, (2, 5, 3))
    z = np.concatenate([first, second])
    total = 0.0
    for a in range(10):
        s = [z[a] @ z[b] / np.linalg.norm(z[a]) / np.linalg.norm(z[b]) / 0.5 for b in range(10)]
        total += np.log(sum(np.exp(s[b]) for b in range(10) if b != a)) - s[(a + 5) % 10]
    np.testing.assert_allclose(objectives.nt_xent(first, second), total / 10, rtol=1e-12)
    np.testing.assert_allclose(optax.losses.ntxent(jnp.asarray(z), jnp.arange(10) % 5, 0.5), total / 10, rtol=1e-12)


def test_the_contrastive_loss_has_finite_derivatives_where_views_are_equal_or_zero(key):
    z = jax.random.normal(key, (4, 3)).at[1].set(0.0)
    loss = lambda z: objectives.nt_xent(z, z, 0.01)
    everything = jax.jit(lambda z: (loss(z), jax.grad(loss)(z), jax.hessian(loss)(z)))
    chex.assert_tree_all_finite((everything(z), everything(z.astype(jnp.float32))))


def _one_step(encoder, features, views, key, **how):
    """Phi before minus after a step of plain gradient descent is the hypergradient."""
    made = meta.named(**{name: meta for name, (_, meta) in views.items()})
    pieces = recipes.simclr_augmentation.simclr_augmentation(
        encoder,
        features,
        classes=3,
        view=data.in_turn(**{name: view for name, (view, _) in views.items()}),
        meta=made,
        pretrain_optimizer=optax.sgd(0.3),
        finetune_optimizer=optax.sgd(0.5),
        meta_optimizer=optax.sgd(1.0),
        **how,
    )
    x = _signals(key, batch=40, time=24).reshape(5, 8, 24, 2)
    y = jax.random.randint(key, (5, 8, 3), -1, 2)
    batches = Batches((x[:2],), (x[2:4], y[2:4]), (x[4], y[4]))
    state = _float64(jax.jit(lambda key: pieces.start(key, made.init(key)))(key))
    moved, info = jax.jit(pieces.algorithm.step)(state, batches, key)
    return jax.tree.map(jnp.subtract, state.phi, moved.phi), info


WARP = data.by_input(data.time_warp)


@pytest.mark.slow
def test_the_hypergradient_of_views_is_that_of_the_whole_procedure(key):
    """Contrastive pre-training, transfer, fine-tuning, validation: unrolled, and by central differences."""
    steer = Model(lambda key: jnp.array([0.3, -0.2]), lambda params, x: jnp.tanh(x.mean(axis=1)) @ params)
    views = {"mask": (data.random_mask, meta.fraction(0.3)), "warp": (WARP, meta.warp_strength(steer, start=0.6))}
    encoder = Model(
        lambda key: jax.random.normal(key, (3, 2, 4)),
        lambda params, x: jnp.tanh(models.convolve(x, params)).mean(axis=1),
    )
    exact, _ = _one_step(encoder, 4, views, key, rule=hypergrad.unroll)
    differentiate = hypergrad.central_differences(1e-6)
    differences, _ = _one_step(encoder, 4, views, key, rule=hypergrad.unroll, differentiate=differentiate)
    assert all((abs(leaf) > 1e-6).all() for leaf in jax.tree.leaves(exact))
    chex.assert_trees_all_close(exact, differences, rtol=1e-5)


@pytest.mark.slow
def test_the_recipe_runs_as_published(key):
    """Implicit into unrolled, with batch normalisation: finite and reported."""

    class Encoder(linen.Module):
        @linen.compact
        def __call__(self, x, mode):
            return jnp.tanh(linen.BatchNorm(mode != "batch")(linen.Dense(4)(x))).mean(axis=1)

    encoder = models.from_linen_stateful(Encoder(), jnp.zeros((1, 24, 2)))
    views = {"warp": (data.time_warp, meta.positive(30.0))}
    hypergradient, info = _one_step(encoder, 4, views, key)
    assert jnp.isfinite(hypergradient["warp"]) and info.hypergradient_norm > 0
    assert info.report.solves == 1 and not info.skipped
    assert info.pretrain.loss.shape == (2,) and (info.pretrain.loss < np.log(15) + 2).all()
