"""PyTorch's functional transforms: gradients by `grad`, products with the Hessian by `jvp` of `grad`, nothing in place.

`prepare_compiled` gives the pieces (a training step, the validation gradient, a product, the mixed derivative) to
`torch.compile`; a whole meta-iteration takes it many minutes. Seeds go through `vmap`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vjp, vmap

from benchmarks.cases import Arrays, Case, Run
from benchmarks.implementations import torch_common as common


def prepare(case: Case, float64: bool = False) -> Run:
    """The case, eager."""
    return _prepare(case, float64, lambda f: f)


def prepare_compiled(case: Case, float64: bool = False) -> Run:
    """The case, its pieces compiled."""
    return _prepare(case, float64, torch.compile)


def _prepare(case: Case, float64: bool, compiled: Callable) -> Run:
    seeds = common.loads(case, float64)
    mapped = (lambda f: f) if case.seeds == 1 else vmap
    arrays = (
        seeds[0]
        if case.seeds == 1
        else Arrays(*(common.tree_map(lambda *x: torch.stack(x), *parts) for parts in zip(*seeds, strict=True)))
    )
    zeros = lambda tree: common.tree_map(torch.zeros_like, tree)
    count = lambda tree, number: torch.full((case.seeds,) if case.seeds > 1 else (), float(number))

    def pretrain_loss(params: dict, phi: dict, batch: dict) -> Tensor:
        return case.pretrain_loss(common.OPS, params, phi, batch)

    def pretrain(params, moments, number, phi, batch):
        gradient = grad(pretrain_loss)(params, phi, batch)
        return common.adam(case.pretrain_lr, 1e-8, params, moments, number, gradient)

    def validation_loss(encoder: dict, head: dict, batches: dict, validation: dict) -> Tensor:
        trained = {"head": head} if case.head_only else {"encoder": encoder, "head": head}
        loss = lambda trained, batch: common.finetune_loss(case, encoder, trained, batch)
        moments = common.moments(case, trained)
        for step in range(case.K):
            gradient = grad(loss)(trained, common.row(batches, step))
            number = torch.tensor(float(case.warm_count + step + 1))
            trained, moments = common.adam(case.finetune_lr, case.finetune_eps, trained, moments, number, gradient)
        return loss(trained, validation)

    def product(params, phi, batch, v):
        return jvp(lambda params: grad(pretrain_loss)(params, phi, batch), (params,), (v,))[1]

    def mixed(params, phi, batch, p):
        # Not the gradient of a `jvp`, which is cheaper but wrong through batch normalisation (PyTorch 2.13): there the
        # forward rule takes the batch's mean and variance for constants when it is differentiated.
        return vjp(lambda phi: grad(pretrain_loss)(params, phi, batch), phi)[1](p)[0]

    def meta_step(phi, moments, number, gradient):
        return common.adam(case.meta_lr, 1e-8, phi, moments, number, gradient)

    pretrain, product, mixed = (compiled(mapped(f)) for f in (pretrain, product, mixed))
    validation_gradient, meta_step = compiled(mapped(grad_and_value(validation_loss))), mapped(meta_step)
    batch = lambda step: {name: x[step] if case.seeds == 1 else x[:, step] for name, x in arrays.pretrain.items()}
    params, phi = arrays.params, arrays.phi
    state = {
        "params": params,
        "adam": (zeros(params), zeros(params)),
        "phi": phi,
        "meta": (zeros(phi), zeros(phi)),
        "n": 0,
    }

    @torch.no_grad()  # transforms do not mind; without it what one meta-iteration ends with keeps its graph (PyTorch 2.15, `ecg`)
    def advance() -> None:
        params, moments = state["params"], state["adam"]
        for step in range(case.P):
            number = count(params, state["n"] * case.P + step + 1)
            params, moments = pretrain(params, moments, number, state["phi"], batch(step))
        v, _ = validation_gradient(params["encoder"], arrays.head, arrays.finetune, arrays.validation)
        term = total = {"encoder": v, "head": zeros(params["head"])}
        for _ in range(case.terms):
            moved = product(params, state["phi"], batch(-1), term)
            term = common.tree_map(lambda t, p: t - case.pretrain_lr * p, term, moved)
            total = common.tree_map(torch.add, total, term)
        found = mixed(params, state["phi"], batch(-1), common.tree_map(lambda t: -case.pretrain_lr * t, total))
        state.update(params=params, adam=moments, n=state["n"] + 1, found=found)
        state["phi"], state["meta"] = meta_step(state["phi"], state["meta"], count(phi, state["n"]), found)

    def hypergradient() -> list[dict]:
        rows = [state["found"]] if case.seeds == 1 else [common.row(state["found"], seed) for seed in range(case.seeds)]
        return [common.as_numpy(found) for found in rows]

    return Run(advance, hypergradient)
