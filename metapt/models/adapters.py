"""`Model(init, apply)` from a linen, nnx or equinox module. Plain JAX needs no adapter: write the two functions."""

from collections.abc import Callable
from typing import Any, get_args

import jax
from flax import linen, nnx
from jax import Array

from metapt.types import Mode, Model, StatefulModel


def from_linen(module: linen.Module, *example: Any) -> Model:
    """A linen module whose only collection is `params`; `example` are the arguments of its call (shapes matter, values don't).

    Example:
        >>> import jax.numpy as jnp
        >>> model = from_linen(linen.Dense(3), jnp.zeros((1, 2)))
        >>> model.apply(model.init(jax.random.key(0)), jnp.zeros((5, 2))).shape
        (5, 3)
    """

    def init(key: Array) -> Any:
        variables = module.init(key, *example)
        if set(variables) - {"params"}:
            raise ValueError(
                f"from_linen: {type(module).__name__} has the collections {sorted(variables)}; only 'params' is handled "
                "here; for batch statistics and dropout there is from_linen_stateful"
            )
        return variables["params"]

    return Model(init, lambda params, *args: module.apply({"params": params}, *args))


def from_linen_stateful(module: linen.Module, *example: Any) -> StatefulModel:
    """A linen module with batch normalisation or dropout, called as `module(*example, mode)`.

    Its collection `batch_stats` becomes `extra`; in mode `"batch"` it moves, in the others it stays.

    Example:
        >>> import jax.numpy as jnp
        >>> class Net(linen.Module):
        ...     @linen.compact
        ...     def __call__(self, x, mode):
        ...         return linen.BatchNorm(use_running_average=mode != "batch")(x)
        >>> model = from_linen_stateful(Net(), jnp.zeros((4, 1)))
        >>> params, extra = model.init(jax.random.key(0))
        >>> y, moved = model.apply(params, extra, jnp.array([[1.0], [3.0]]), None, "batch")
        >>> y.round(2).tolist(), round(float(moved["BatchNorm_0"]["mean"][0]), 3)
        ([[-1.0], [1.0]], 0.02)
    """

    def init(key: Array) -> tuple[Any, Any]:
        variables = module.init(key, *example, "running")
        return variables["params"], variables.get("batch_stats", {})

    def apply(params: Any, extra: Any, x: Any, key: Array, mode: Mode) -> tuple[Any, Any]:
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode!r} is not one of {', '.join(map(repr, get_args(Mode)))}")
        variables = {"params": params, "batch_stats": extra}
        rngs = None if mode == "running" or key is None else {"dropout": key}
        y, moved = module.apply(variables, x, mode, rngs=rngs, mutable=["batch_stats"])
        return y, moved.get("batch_stats", extra) if mode == "batch" else extra

    return StatefulModel(init, apply)


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """An nnx module; `make(rngs)` builds it. Every variable counts as a parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> model = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
        >>> model.apply(model.init(jax.random.key(0)), jnp.zeros((5, 2))).shape
        (5, 3)
    """
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return Model(
        init=lambda key: nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param)),
        apply=lambda params, *args: nnx.merge(graph, params)(*args),  # pyright: ignore[reportCallIssue]
    )


def from_equinox(make: Callable[[Array], Any], batched: bool = True) -> Model:
    """An equinox module; `make(key)` builds it. Its arrays are the parameters.

    Args:
        batched: map the module over the leading axis of its arguments (equinox layers take one example).

    Example:
        >>> import equinox, jax.numpy as jnp
        >>> model = from_equinox(lambda key: equinox.nn.Linear(2, 3, key=key))
        >>> model.apply(model.init(jax.random.key(0)), jnp.zeros((5, 2))).shape
        (5, 3)
    """
    try:
        import equinox
    except ImportError as error:
        raise ImportError("from_equinox needs equinox: pip install 'metapt[equinox]'") from error
    _, static = equinox.partition(equinox.filter_eval_shape(make, jax.random.key(0)), equinox.is_array)
    static = equinox.filter(static, lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))

    def apply(params: Any, *args: Any) -> Any:
        module = equinox.combine(params, static)
        return jax.vmap(module)(*args) if batched else module(*args)

    return Model(init=lambda key: equinox.filter(make(key), equinox.is_array), apply=apply)
