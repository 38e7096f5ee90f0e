"""One problem, run by processes of their own: on eight simulated devices, or by two processes that find each other."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

from metapt import Batches, Stage, data, hypergrad, meta_pretraining, models, objectives, run, solvers, stages, updates
from metapt.cli import main
from metapt.io import runner
from metapt.io.checkpoint import restore_sharded, save_sharded
from metapt.io.mesh import parse_mesh, seed_sharding

SEEDS, P, B, K = 8, 2, 16, 1
TINY = ["run", str(Path(__file__).with_name("tiny_config.py")), "--seeds", "8", "--outer-steps", "10", "--quiet"]
ROWS = np.random.default_rng(0).normal(size=(96, 6))


class _Net(linen.Module):
    @linen.compact
    def __call__(self, x, mode):
        x = linen.Dense(5, use_bias=False)(x)  # a bias under the normalisation would be moved by rounding alone
        x = linen.BatchNorm(use_running_average=mode != "batch", momentum=0.9)(x)
        return linen.Dense(4)(jnp.tanh(x))


def problem():
    """Contrastive pre-training with batch normalisation, on views that phi bends; then regression."""
    net = models.from_linen_stateful(_Net(), jnp.zeros((2, 6)))
    views = (lambda scale, x, key: x + scale * jnp.sin(3 * x)), (lambda scale, x, key: x)
    pretrain = Stage(objectives.contrastive(objectives.whole(net, "batch"), *views), optax.sgd(0.1))
    finetune = Stage(objectives.squared_error(objectives.whole(net, "frozen")), optax.sgd(0.1))
    algorithm = meta_pretraining(
        hypergrad.implicit(pretrain, solvers.neumann(1, step=0.1), jax.lax.scan),
        hypergrad.unroll(finetune, loop=jax.lax.scan),
        objectives.squared_error(objectives.whole(net, "running")),
        updates.by_gradient(optax.sgd(5.0)),
        constrain=jnp.exp,
        transfer=stages.with_extra(stages.transfer_all),
    )

    def start(key):
        params, averages = jax.tree.map(lambda a: a.astype(float), net.init(key))  # linen's averages are float32
        begin = lambda stage: stages.start(stage, params, averages)
        return algorithm.init(jnp.array(-1.0), begin(pretrain), begin(finetune))

    return algorithm, start


def labelled(x):
    return x, x[..., :4] * 2


def draw(key):
    pool, other, last = (
        data.draw(key, jnp.asarray(ROWS), n, B) for key, n in zip(jax.random.split(key, 3), (P, K, 1), strict=True)
    )
    return Batches((pool,), labelled(other), labelled(last[0]))


def seeds_over(mesh):
    """Three outer steps of eight seeds: what they end with, and the compiled program."""
    algorithm, start = problem()
    spread = draw if mesh is None else lambda key: data.shard_batches(draw(key), mesh)
    one = lambda state, key: run(algorithm.step, spread, state, key, jnp.arange(3), jax.lax.scan)
    keys = jax.random.split(jax.random.key(1), SEEDS)
    state, keys = jax.device_put((jax.jit(jax.vmap(start))(keys), keys), seed_sharding(mesh))
    program = jax.jit(jax.vmap(one), out_shardings=seed_sharding(mesh)).lower(state, keys).compile()
    return program(state, keys), program


def from_files(mesh):
    """Three outer steps on batches of which every process reads its rows, by grain: penalised regression, then without."""
    import grain

    error = objectives.squared_error(objectives.stateless(lambda params, context, x: x @ params))
    penalised = lambda params, penalty, extra, batch, key: (
        error(params, None, extra, batch, key)[0] + jnp.sum(jnp.exp(penalty) * params**2),
        extra,
    )
    pretrain, finetune = Stage(penalised, optax.sgd(0.1)), Stage(error, optax.sgd(0.1))
    algorithm = meta_pretraining(
        hypergrad.implicit(pretrain, solvers.neumann(1, step=0.1), jax.lax.scan),
        hypergrad.unroll(finetune, loop=jax.lax.scan),
        error,
        updates.by_gradient(optax.sgd(5.0)),
        transfer=stages.transfer_all,
    )
    examples = lambda seed: grain.MapDataset.source(ROWS).shuffle(seed).repeat().map(labelled)
    read = zip(*(data.host_batches(examples(seed), n, B) for seed, n in enumerate((P, K, 1))), strict=True)
    batches = (Batches(pool, other, jax.tree.map(lambda x: x[0], last)) for pool, other, last in read)
    everywhere = seed_sharding(mesh)
    start = functools.partial(stages.start, params=jnp.ones((6, 4)))
    state = jax.device_put(algorithm.init(jnp.zeros((6, 4)), start(pretrain), start(finetune)), everywhere)
    step = jax.jit(algorithm.step, out_shardings=everywhere)
    on_devices = data.prefetch(batches, functools.partial(data.from_hosts, mesh=mesh))
    for number, batch in zip(range(3), on_devices, strict=False):
        state, info = step(state, batch, jax.random.key(number))
    return state, info


def keep(path, tree):
    np.savez(path, *jax.tree.leaves(tree))


def eight_devices(folder):
    (state, info), alone = seeds_over(None)
    keep(folder / "alone.npz", (state, info))
    mesh = parse_mesh("seeds=4,data=2")
    (state, info), program = seeds_over(mesh)
    keep(folder / "spread.npz", (state, info))
    flops = [one.cost_analysis()["flops"] for one in (alone, program)]
    np.savez(folder / "flops.npz", *flops)
    save_sharded(folder / "checkpoint", state)
    two = seed_sharding(parse_mesh("seeds=2"))
    keep(folder / "two.npz", restore_sharded(folder / "checkpoint", placed(state, two)))
    jax.config.update("jax_enable_x64", False)  # the command line runs as a user's does
    runner.SECONDS_BETWEEN_CHECKPOINTS, runner._Runner.outcome = 0.0, stop
    assert main([*TINY, "--out", str(folder / "run"), "--mesh", "seeds=4,data=2"]) == 130


def placed(tree, sharding):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def stop(_):
    raise KeyboardInterrupt


def one_of_two(folder, process, port):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    assert jax.process_count() == 2 and len(jax.devices()) == 4 and len(jax.local_devices()) == 2
    result = from_files(parse_mesh("data=4"))
    if process == "0":
        keep(folder / "two_processes.npz", result)
    jax.distributed.shutdown()


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    what, folder, *rest = sys.argv[1:]
    {"eight": eight_devices, "host": one_of_two}[what](Path(folder), *rest)
