"""TorchOpt: `implicit.custom_root` with its Neumann solver through pre-training, its functional Adam through fine-tuning."""

import torch
import torchopt
from torchopt.diff import implicit

from benchmarks.cases import Arrays, Case, Run
from benchmarks.implementations import torch_common as common


def prepare(case: Case, float64: bool = False) -> Run:
    """The case."""
    return common.run(case, float64, _start)


def _start(case: Case, arrays: Arrays):
    training = common.Training(case, arrays)
    solve = torchopt.linear_solve.solve_inv(ns=True, maxiter=case.terms, alpha=case.pretrain_lr)

    def stationarity(params, phi, batch):
        phi = common.like(arrays.phi, phi)
        loss = lambda params: case.pretrain_loss(common.OPS, common.like(arrays.params, params), phi, batch)
        return torch.func.grad(loss)(params)

    @implicit.custom_root(stationarity, argnums=1, solve=solve)
    def pretrained(params, phi, batch):
        return tuple(x.detach().clone().requires_grad_() for x in params)

    def advance():
        training.pretrain()
        solution = pretrained(tuple(common.leaves(training.params)), tuple(common.leaves(training.phi)), training.last)
        encoder = common.like(arrays.params, solution)["encoder"]
        trained = common.finetuned(case, arrays, encoder)
        flat = tuple(x if x.requires_grad else x.clone().requires_grad_() for x in common.leaves(trained))
        adam = torchopt.adam(lr=case.finetune_lr, eps=case.finetune_eps)
        states = _warm(case, adam.init(flat), flat)
        for step in range(case.K):
            loss = common.finetune_loss(case, encoder, common.like(trained, flat), common.row(arrays.finetune, step))
            gradient = torch.autograd.grad(loss, flat, create_graph=True)
            updates, states = adam.update(gradient, states, inplace=False)
            flat = torchopt.apply_updates(flat, updates, inplace=False)
        loss = common.finetune_loss(case, encoder, common.like(trained, flat), arrays.validation)
        training.move(torch.autograd.grad(loss, common.leaves(training.phi)))

    return advance, training


def _warm(case: Case, states, flat: tuple):
    """Adam's state as after `case.warm_count` steps, wherever it stands in the chain."""
    if hasattr(states, "nu"):
        second = tuple(torch.full_like(x, case.warm_second) for x in flat)
        count = tuple(torch.full_like(torch.as_tensor(c), case.warm_count) for c in states.count)
        return states._replace(nu=second, count=count)
    return (
        tuple(_warm(case, one, flat) for one in states)
        if isinstance(states, tuple) and not hasattr(states, "_fields")
        else states
    )
