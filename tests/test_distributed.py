"""Many devices give what one gives: seeds and examples spread over eight, two processes, checkpoints on other devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapt import data, objectives
from metapt.cli import main
from metapt.io.checkpoint import restore_sharded
from metapt.io.mesh import over_mesh, parse_mesh
from metapt.io.runner import _one_by_one
from tests import distributed_child, tiny_config

ROOT = Path(__file__).parents[1]
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
pytestmark = pytest.mark.xdist_group("distributed")  # they share what eight devices found


def _start(devices, *arguments):
    # Tiny programs: what the compiler could gain is less than the time it takes.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.distributed_child", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def _finish(process):
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error


def _kept(path):
    found = np.load(path)
    return [found[f"arr_{i}"] for i in range(len(found.files))]


def _close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    _finish(_start(8, "eight", folder))
    return folder


@pytest.mark.slow
def test_seeds_and_examples_over_eight_devices_give_what_one_device_gives(eight):
    """With batch normalisation and a contrastive loss, which both look at the whole batch."""
    alone, spread = (_kept(eight / f"{name}.npz") for name in ("alone", "spread"))
    _close(spread, alone)
    assert np.std(alone[0]) > 0.01  # phi of eight seeds
    flops_alone, flops_spread = _kept(eight / "flops.npz")
    assert flops_spread < flops_alone / 4  # a device has less to do than for its seeds alone


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_is_restored_on_two_and_on_one(eight):
    spread, two = _kept(eight / "spread.npz"), _kept(eight / "two.npz")
    _, start = distributed_child.problem()
    shapes = jax.eval_shape(jax.vmap(start), jax.random.split(jax.random.key(0), 8))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    one = jax.tree.leaves(restore_sharded(eight / "checkpoint", distributed_child.placed(shapes, here)))
    for a, b, c in zip(spread[: len(one)], two, one, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.slow
def test_two_processes_that_read_their_own_rows_give_what_one_gives(tmp_path):
    pytest.importorskip("grain", reason="the extra `distributed` is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for process in [_start(2, "host", tmp_path, number, port) for number in (0, 1)]:
        _finish(process)
    expected = jax.tree.leaves(distributed_child.from_files(parse_mesh("data=1")))
    _close(_kept(tmp_path / "two_processes.npz"), expected)
    assert np.std(expected[0]) > 0.01  # phi has moved


@pytest.mark.slow
def test_a_run_over_a_mesh_is_resumed_on_one_device(eight, tmp_path):
    jax.config.update("jax_enable_x64", False)  # as a user runs it
    try:
        assert main(["resume", str(eight / "run"), "--quiet"]) == 0
        assert main([*distributed_child.TINY, "--out", str(tmp_path / "alone")]) == 0
    finally:
        jax.config.update("jax_enable_x64", True)
    found, expected = (json.loads((path / "result.json").read_text()) for path in (eight / "run", tmp_path / "alone"))
    for arm, scores in expected["arms"].items():
        np.testing.assert_allclose(found["arms"][arm]["per_seed"], scores["per_seed"], rtol=1e-4)


def test_what_the_devices_do_not_divide_is_one_line(capsys):
    experiment = tiny_config.experiment(tiny_config.Config(seeds=3))
    for sizes, message in (
        ((2, 1), "2 devices along seeds do not divide 3 seeds"),
        ((1, 7), "7 devices along data do not"),
    ):
        mesh = jax.sharding.AbstractMesh(sizes, ("seeds", "data"))
        with pytest.raises(ValueError, match=message) as error:
            over_mesh(experiment, mesh)
        assert "\n" not in str(error.value)
    for text in ("seeds", "seeds=0", "rows=2", "seeds=1,seeds=1", "data=1000"):
        assert main([*distributed_child.TINY, "--mesh", text]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"metapt: --mesh {text}") and error.count("\n") == 1


def test_rows_that_processes_cannot_share_are_one_line(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(ValueError, match="size=16 must be a multiple of the 3 processes"):
        data.host_batches(None, 1, 16)


def test_seeds_one_after_the_other_on_every_device():
    f = lambda x, y: {"sum": x + y, "double": 2 * y}
    x, y = jnp.arange(12.0).reshape(6, 2), jnp.arange(6.0)
    for devices in (1, 3):
        jax.tree.map(np.testing.assert_array_equal, _one_by_one(devices, f)(x, y), jax.vmap(f)(x, y))


def test_bfloat16_rounds_the_network_and_nothing_else():
    predict = objectives.stateless(lambda params, scale, x: jnp.tanh(x["rows"] @ params) * scale)
    seen = []

    def watched(params, scale, extra, x, key):
        seen.extend(leaf.dtype for leaf in jax.tree.leaves((params, scale, x)))
        return predict(params, scale, extra, x, key)[0], extra.astype(jnp.bfloat16)

    rng = np.random.default_rng(0)
    x = {"rows": jnp.asarray(rng.normal(size=(32, 6)), jnp.float32), "index": jnp.arange(32)}
    params, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 4), (32, 4)))
    objective = lambda predict: lambda p, c: objectives.squared_error(predict)(p, c, jnp.ones(3), (x, y), None)
    of = lambda predict: jax.grad(objective(predict), argnums=(0, 1), has_aux=True)(params, jnp.float32(1.3))
    (rounded, extra), (exact, _) = of(objectives.in_bfloat16(watched)), of(predict)
    assert seen == [jnp.bfloat16] * 2 + [jnp.arange(1).dtype, jnp.bfloat16]
    assert extra.dtype == jnp.float64  # as it came in
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype == jnp.float32
        error = float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))
        assert 1e-5 < error < 3e-2  # bfloat16 has eight bits


def test_prefetching_changes_nothing_and_keeps_three_batches_at_most():
    source = np.random.default_rng(0).normal(size=(9, 4, 3))
    taken = []
    before = len(jax.live_arrays())

    def read():
        for i, batch in enumerate(source):
            taken.append(i)
            yield batch.copy()

    step = jax.jit(lambda state, batch: (0.9 * state + batch.mean(0)).round(6))
    state = expected = jnp.zeros(3)
    for i, batch in enumerate(data.prefetch(read())):
        assert len(taken) == min(i + 3, 9)  # two ahead, no more
        state = step(state, batch)
        assert len(jax.live_arrays()) - before <= 3 + 3
    for batch in jnp.asarray(source):
        expected = step(expected, batch)
    np.testing.assert_array_equal(state, expected)
