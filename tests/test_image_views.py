"""Images without labels: views by their identities, networks, BYOL's target and what a derivative sees of it, both recipes."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax import lax
from matplotlib import colors
from scipy import ndimage

from metapt import Model, data, hypergrad, models, objectives, recipes, stages
from metapt.data import image_views
from metapt.types import Stage


def _images(key, channels=3, size=8, batch=3):
    return jax.random.uniform(key, (batch, size, size, channels), jnp.float64)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_of_the_whole_is_the_image_and_of_whole_pixels_the_resized_part(key, channels):
    image = _images(key, channels)[0]
    crop = jax.jit(data.crop)
    np.testing.assert_allclose(crop(image, 0.0, 0.0, 8.0, 8.0), image, atol=1e-15)
    for top, left, height, width in ((2, 3, 4, 5), (0, 7, 8, 1), (5, 0, 2, 8)):
        part = jax.image.resize(image[top : top + height, left : left + width], image.shape, "linear", antialias=False)
        np.testing.assert_allclose(crop(image, *map(float, (top, left, height, width))), part, atol=1e-12)
    np.testing.assert_allclose(crop(0 * image + 0.7, 1.3, 2.9, 3.14, 4.1), 0.7, rtol=1e-14)


def test_random_crops_have_the_areas_and_the_sides_that_were_asked_for(key):
    """Seen through the images y and x, whose slope in a crop tells its height and its width."""
    y, x = jnp.mgrid[:9, :9].astype(jnp.float64)
    ramps = jnp.broadcast_to(jnp.stack([y, x, x], axis=-1), (2000, 9, 9, 3))
    seen = np.asarray(jax.jit(data.random_crop(smallest=0.2, aspect=1.5))(None, ramps, key))
    height, width = seen[:, 5, 4, 0] - seen[:, 4, 4, 0], seen[:, 4, 5, 1] - seen[:, 4, 4, 1]  # shares of the whole
    area, fits = height * width, np.maximum(height, width) < 1 - 1e-9
    assert area.min() >= 0.2 - 1e-9 and area.min() < 0.21 and area.max() <= 1 + 1e-9 and area.max() > 0.95
    ratio = (width / height)[fits]
    assert abs(np.log(ratio)).max() <= np.log(1.5) + 1e-9 and abs(np.log(ratio).mean()) < 0.02 < np.log(ratio).std()
    assert seen.min() >= 0 and seen.max() <= 8 and len(set(seen[:, 4, 4, 0].round(6))) > 1700


def test_blur_is_scipys_and_leaves_flat_images_and_small_ones_alone(key):
    image = _images(key, size=40)[0]
    for sigma in (0.3, 1.7):
        expected = ndimage.gaussian_filter(np.asarray(image), (sigma, sigma, 0), mode="nearest", radius=(2, 2, 0))
        np.testing.assert_allclose(data.blur(image, sigma), expected, rtol=1e-12)
    np.testing.assert_allclose(data.blur(0 * image + 0.7, 1.0), 0.7, rtol=1e-14)
    np.testing.assert_array_equal(data.blur(image[:19, :19], 1.0), image[:19, :19])


def test_colour_is_matplotlibs_and_changes_by_its_formulas(key):
    image = (
        _images(key)[0].at[0, :3].set(jnp.array([[0.0] * 3, [0.4] * 3, [1.0, 1.0, 0.0]]))
    )  # without a hue, and a tie
    hsv = jnp.stack(image_views._hsv(image), axis=-1)
    np.testing.assert_allclose(hsv % 1.0, colors.rgb_to_hsv(np.asarray(image)) % 1.0, atol=1e-12)
    np.testing.assert_allclose(image_views._rgb(*jnp.moveaxis(hsv, -1, 0)), image, atol=1e-12)
    np.testing.assert_allclose(image_views._turn_hue(image, 1 / 3), jnp.roll(image, 1, axis=-1), atol=1e-12)
    np.testing.assert_allclose(image_views._turn_hue(image, -1.0), image, atol=1e-12)
    highest = jnp.broadcast_to(image.max(-1, keepdims=True), image.shape)
    np.testing.assert_allclose(image_views._saturate(image, -1.0), highest, atol=1e-12)
    np.testing.assert_allclose(image_views._contrast(image, 0.5).mean((0, 1)), image.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(image_views._contrast(image, 0.5).std((0, 1)), 1.5 * image.std((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(image_views._brighten(image, -0.25), 0.75 * image, rtol=1e-12)
    luma = data.gray(None, image[None], None)[0]
    np.testing.assert_allclose(luma, (image @ jnp.array([0.2989, 0.587, 0.114]))[..., None] * jnp.ones(3), rtol=1e-12)
    np.testing.assert_array_equal(data.gray(None, luma[None, :, :, :1], None)[0], luma[..., :1])


def test_jitter_of_strength_zero_is_nothing_and_of_one_kind_is_a_factor(key):
    x = _images(key, batch=400, size=2)
    view = jax.jit(data.color_jitter())
    np.testing.assert_allclose(view(0.0, x, key), x, atol=1e-12)
    seen = view(1.0, x, key)
    assert seen.min() >= 0 and seen.max() <= 1 and len(np.unique((seen - x).std((1, 2, 3)).round(9))) == 400
    slope, h = jax.jit(jax.jacfwd(lambda s: view(s, x, key).sum()))(0.3), 1e-6
    assert abs(slope - (view(0.3 + h, x, key).sum() - view(0.3 - h, x, key).sum()) / (2 * h)) < 1e-6 * abs(slope)
    brightness = data.color_jitter(0.8, 0, 0, 0)
    factor = (brightness(0.5, 0.1 * x[..., :1], key) / (0.1 * x[..., :1])).reshape(400, 4)
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), rtol=1e-9)
    assert 0.6 <= factor.min() < 0.62 and 1.38 < factor.max() <= 1.4 and abs(factor.mean() - 1) < 0.03


@pytest.mark.parametrize("channels", [1, 3])
def test_views_keep_dtype_repeat_themselves_and_map(key, channels):
    x = _images(key, channels, size=20).astype(jnp.float32)
    view, keys = data.simclr_views(flips=0.5), jax.random.split(key)
    both = jax.jit(jax.vmap(lambda key: view(jnp.float32(0.5), x, key)))(keys)
    assert both.dtype == jnp.float32 and both.shape == (2, *x.shape) and jnp.isfinite(both).all()
    assert both.min() >= 0 and both.max() <= 1 and not (both[0] == both[1]).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda key: view(jnp.float32(0.5), x, key)))(keys), both)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: data.color_jitter()(1.0, jnp.ones((2, 4, 4, 2)), jax.random.key(0)),
            r"x is \[2, 4, 4, 2\], but must be",
        ),
        (lambda: data.gray(None, jnp.ones((4, 4, 3)), None), r"x is \[4, 4, 3\], but must be \[B, H, W, C\]"),
        (lambda: data.sometimes(1.5, data.flip), "probability=1.5 must be in"),
        (lambda: data.random_crop(smallest=1.5), "smallest=1.5 must be at most 1"),
        (lambda: data.random_crop(aspect=0.5), "aspect=0.5 must be at least 1"),
        (lambda: data.color_jitter(hue=-1.0), "hue=-1.0 must be at least 0"),
        (lambda: data.random_blur(2.0, 1.0), "most=1.0 must be at least 2.0"),
        (lambda: models.convnet(8, 1, widths=()), "must name at least one width"),
    ],
)
def test_what_cannot_be_is_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_network_is_made_of_convolutions(key):
    model = models.convnet(size=7, channels=3, widths=(4, 5), features=6)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(key))
    x = images = _images(key, size=7)
    for layer, stride in (("Dense_0", 1), ("Dense_1", 2)):
        kernel = params[layer]["kernel"].reshape(3, 3, x.shape[-1], -1)
        numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        y = lax.conv_general_dilated(x, kernel, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=numbers)
        x = jax.nn.relu(y + params[layer]["bias"])
    expected = x.reshape(3, -1) @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(params, images), expected, rtol=1e-10)


def _tiny(smooth=jnp.tanh):
    encoder = models.mlp(6, (5, 4), smooth)
    return Model(
        lambda key: jax.tree.map(lambda a: a.astype(jnp.float64), encoder.init(key)),
        lambda params, x: smooth(encoder.apply(params, x)),
    )


def _noise(scale, x, key):
    return x + scale * jax.random.normal(key, x.shape, x.dtype)


def test_the_contrastive_loss_does_not_mind_order_or_length(key):
    z, w = jax.random.normal(key, (2, 6, 4))
    nt_xent = jax.jit(objectives.nt_xent)
    loss, order = nt_xent(z, w, 0.3), jnp.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(nt_xent(z[order], w[order], 0.3), loss, rtol=1e-12)
    lengths = jnp.exp(jax.random.normal(key, (6, 1)))
    np.testing.assert_allclose(nt_xent(lengths * z, w / lengths, 0.3), loss, rtol=1e-12)
    assert abs(nt_xent(z, jnp.roll(w, 1, 0), 0.3) - loss) > 1e-3
    sharp = jax.jit(jax.grad(objectives.nt_xent))(z.astype(jnp.float32), w.astype(jnp.float32), 0.01)
    assert jnp.isfinite(sharp).all()


@pytest.fixture(scope="module")
def byol():
    """Two steps of BYOL, tau 0.9, on vectors: the method, its state before, between and after, the batches and the keys."""
    with jax.enable_x64(True):  # before the fixture of conftest.py
        method = recipes.byol.byol(_tiny(), 4, _noise, optax.sgd(0.1), steps=4, tau=0.9)
        key, batches = jax.random.key(3), (jax.random.normal(jax.random.key(1), (2, 7, 6)),)
        widen = lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a
        states, infos = [jax.tree.map(widen, jax.jit(method.start)(key))], []
        step = jax.jit(lambda state, inputs: stages.step(method.stage, 0.2, state, inputs))
        for i in range(2):
            state, info = step(states[-1], (jax.tree.map(lambda a, i=i: a[i], batches), key))
            states.append(state)
            infos.append(info)
    return method, states, infos, batches, key


def _network(params):
    return {name: part for name, part in params.items() if name != "predictor"}


def test_the_target_starts_as_a_copy_and_follows_along_a_cosine(byol):
    _, states, *_ = byol
    chex.assert_trees_all_equal(states[0].extra.params, _network(states[0].params))
    rate = optax.cosine_decay_schedule(1 - 0.996, 4)
    kept = [1 - float(rate(k)) for k in (0, 1, 2, 4)]
    np.testing.assert_allclose(kept, [0.996, 1 - 0.004 * (0.5 + 0.5 * 0.5**0.5), 0.998, 1.0], rtol=1e-12)
    assert kept[1] == pytest.approx(0.9965858, abs=1e-7)
    target = _network(states[0].params)
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        tau = 1 - (1 - 0.9) * (np.cos(np.pi * step / 4) + 1) / 2
        target = jax.tree.map(lambda old, new, tau=tau: tau * old + (1 - tau) * new, target, _network(before.params))
        chex.assert_trees_all_close(after.extra.params, target, rtol=1e-12)
        assert after.extra.step == step + 1
        chex.assert_trees_all_equal_shapes_and_dtypes(after, before)


def test_the_loss_is_two_minus_two_cosines_and_its_gradient_takes_the_target_as_it_is(byol):
    method, states, infos, batches, key = byol
    state, x = states[1], batches[0][1]
    predictor = models.projection(2, 8, 2, batch_norm=True)
    keys = jax.random.split(jax.random.split(key, 3)[0])
    views = [_noise(0.2, x, k) for k in keys]
    outputs = lambda params, x: method.head(params, _tiny().apply(params["encoder"], x))
    targets = [outputs(state.extra.params, v) for v in views]  # numbers
    cosine = lambda a, b: (a * b).sum(1) / (jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1))

    def loss(params):
        p = [predictor.apply(params["predictor"], outputs(params, v)) for v in views]
        return sum((2 - 2 * cosine(a, b)).mean() for a, b in zip(p, targets[::-1], strict=True))

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    np.testing.assert_allclose(infos[1].loss, value, rtol=1e-10)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    chex.assert_trees_all_close(states[2].params, moved, rtol=1e-9, atol=1e-12)


def test_a_network_that_predicts_itself_from_the_same_view_has_no_loss(key):
    """And lengths do not matter."""
    rate, as_it_is = optax.constant_schedule(0.1), lambda context, x, key: x
    linear = objectives.stateless(lambda params, context, x: x @ params["w"])
    same = Model(lambda key: None, lambda params, z: z)
    w, x = jax.random.normal(key, (6, 3)), jax.random.normal(key, (5, 6))
    loss = lambda view, w, target: objectives.bootstrap(linear, same, view, rate)(
        {"w": w, "predictor": None}, None, objectives.follow({"w": target}), (x,), key
    )[0]
    assert loss(as_it_is, w, w) == 0.0
    seen = loss(lambda context, x, key: _noise(0.3, x, key), w, -w)
    assert seen > 1.0
    np.testing.assert_allclose(loss(lambda context, x, key: _noise(0.3, x, key), 7 * w, -0.1 * w), seen, rtol=1e-12)


def test_unrolling_sees_the_target_move_and_the_implicit_rule_does_not(key):
    """Of how a view's strength moves the end of 12 steps with a fast target: against central differences."""
    linear = objectives.stateless(lambda params, context, x: jnp.tanh(x @ params["w"]))
    predictor = Model(lambda key: None, lambda params, z: z @ params)
    objective = objectives.bootstrap(linear, predictor, _noise, optax.constant_schedule(0.5))
    stage = Stage(objective, optax.sgd(0.3))
    w = jax.random.normal(key, (6, 3))
    state = stages.start(stage, {"w": w, "predictor": jnp.eye(3)}, objectives.follow({"w": w}))
    batches = (jax.random.normal(key, (12, 5, 6)),)

    def end(rule, strength):
        state_end, _ = rule(stage)(state, strength, batches, key)
        return jnp.sum(state_end.params["w"] * jnp.arange(18.0).reshape(6, 3))

    slope, h = jax.jit(jax.grad(lambda s: end(hypergrad.unroll, s)))(0.5), 1e-5
    value = jax.jit(lambda s: end(hypergrad.unroll, s))
    differences = (value(0.5 + h) - value(0.5 - h)) / (2 * h)
    np.testing.assert_allclose(slope, differences, rtol=1e-6)
    implicit = jax.jit(jax.grad(lambda s: end(hypergrad.implicit, s)))(0.5)
    assert abs(implicit - differences) > 0.1 * abs(differences)
    cut = jax.jit(jax.grad(lambda s: end(hypergrad.detached, s)))(0.5)
    assert cut == 0.0


def test_running_averages_of_an_encoder_are_carried_beside_the_target(key):
    class Normalised(linen.Module):
        @linen.compact
        def __call__(self, x, mode):
            return linen.BatchNorm(mode != "batch", momentum=0.9)(linen.Dense(4)(x))

    encoder = models.from_linen_stateful(Normalised(), jnp.zeros((2, 6)))
    method = recipes.byol.byol(encoder, 4, _noise, optax.sgd(0.1), steps=4)
    state = jax.jit(method.start)(key)
    x = jax.random.normal(key, (7, 6), jnp.float32)
    after, _ = jax.jit(lambda state: stages.step(method.stage, jnp.float32(0.0), state, ((x,), key)))(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    hidden = x @ state.params["encoder"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(after.extra.extra["BatchNorm_0"]["mean"], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)


def test_linear_evaluation_leaves_the_encoder_as_pre_training_ended(key):
    encoder, head = _tiny(), models.linear(4, 3, zero=True)
    method = recipes.simclr.simclr(encoder, 4, _noise, optax.adam(0.01), rule=hypergrad.detached)
    x, y = jax.random.normal(key, (6, 9, 6)), jnp.arange(54).reshape(6, 9) % 3
    evaluation = Stage(objectives.cross_entropy(objectives.whole(head)), optax.sgd(0.5))
    train_head = stages.on_encoded(hypergrad.unroll(evaluation), objectives.whole(encoder))

    @jax.jit
    def run(key):
        state = method.start(key)
        pre, info = method.fit(state, 0.3, (x,), key)
        start, context = stages.transfer_features(pre, stages.start_model(evaluation, head, key), None)
        fine, head_info = train_head(start, context, (x, y), key)
        outputs = lambda x: method.head(state.params, encoder.apply(state.params["encoder"], x))
        view_keys = jax.random.split(jax.random.split(jax.random.split(key, 6)[0])[0])
        first = objectives.nt_xent(*(outputs(_noise(0.3, x[0], view_key)) for view_key in view_keys))
        return pre, context, fine, info.loss, head_info.loss, first

    pre, context, fine, losses, head_losses, first = run(key)
    alone = jax.jit(lambda key: method.fit(method.start(key), 0.3, (x,), key)[0])(key)
    chex.assert_trees_all_equal(context, alone.params["encoder"], pre.params["encoder"])
    assert set(fine.params) == {"kernel", "bias"} and head_losses[-1] < head_losses[0]
    np.testing.assert_allclose(losses[0], first, rtol=1e-6)


def test_pairs_of_different_images_are_a_batch_moved_by_one(key):
    view = data.of_another(lambda context, x, key: 2 * x)
    np.testing.assert_array_equal(view(None, jnp.arange(4.0), key), [6.0, 0.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_test": np.zeros((2, 28, 28), np.uint8)},
            r"x_test is uint8 \[2, 28, 28\], but must be uint8 \[N, 32, 32, 3\]",
        ),
        ({"y_train": np.zeros(3)}, r"y_train is float64 \[3\], but must be integer \[4\]"),
        ({"y_train": np.full(4, 10)}, r"y_train has labels 10\.\.10"),
    ],
)
def test_photographs_that_are_not_cifar_are_refused(tmp_path, change, message):
    x, y = np.full((4, 32, 32, 3), 51, np.uint8), np.arange(4)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2, None]}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    train, test = data.cifar10(tmp_path)
    assert train.x.shape == (4, 32, 32, 3) and np.allclose(train.x, 0.2) and test.y.tolist() == [0, 1]
    np.savez(tmp_path / "cifar10.npz", **(arrays | change))
    with pytest.raises(ValueError, match=message):
        data.cifar10(tmp_path)


def test_without_a_file_it_says_what_to_give(monkeypatch):
    monkeypatch.delenv("METAPT_DATA", raising=False)
    with pytest.raises(ValueError, match=r"cifar10: no data given: give --data PATH or METAPT_DATA with cifar10.npz"):
        data.cifar10()
