"""Betty: an implicit problem for pre-training, and one above it for phi whose loss fine-tunes.

Betty does not mix unrolled and implicit levels, so fine-tuning is unrolled by hand inside the upper loss.
"""

import logging

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
from torch import Tensor

from benchmarks.cases import Arrays, Case, Run
from benchmarks.implementations import torch_common as common


def prepare(case: Case, float64: bool = False) -> Run:
    """The case."""
    logging.disable(logging.INFO)
    return common.run(case, float64, _start)


class _Tensors(torch.nn.Module):
    """A nested dictionary of tensors as the parameters of a module."""

    def __init__(self, tree: dict):
        super().__init__()
        for number, x in enumerate(common.leaves(tree)):
            self.register_parameter(str(number), torch.nn.Parameter(x.detach()))


class _Pretraining(ImplicitProblem):
    def __init__(self, training: common.Training):
        case, module = training.case, _Tensors(training.params)
        config = Config(
            type="neumann", unroll_steps=case.P, neumann_iterations=case.terms, neumann_alpha=case.pretrain_lr
        )
        adam = torch.optim.Adam(module.parameters(), lr=case.pretrain_lr)
        super().__init__("pretraining", config, module, adam)
        self.case, self.arrays, self.next = case, training.arrays, 0

    def get_batch(self) -> dict:
        self.next += 1
        return common.row(self.arrays.pretrain, (self.next - 1) % self.case.P)

    def training_step(self, batch: dict) -> Tensor:
        params = common.like(self.arrays.params, self.module.parameters())
        phi = common.like(self.arrays.phi, self.meta.module.parameters())
        return self.case.pretrain_loss(common.OPS, params, phi, batch)


class _Meta(ImplicitProblem):
    def __init__(self, training: common.Training):
        module = _Tensors(training.phi)
        adam = torch.optim.Adam(module.parameters(), lr=training.case.meta_lr)
        super().__init__("meta", Config(), module, adam)
        self.training = training

    def get_batch(self) -> None:
        return None

    def training_step(self, batch: None) -> Tensor:
        case, arrays = self.training.case, self.training.arrays
        params = common.like(arrays.params, self.pretraining.module.parameters())
        start = common.finetuned(case, arrays, params["encoder"])
        moments = common.moments(case, start)
        loss = lambda trained, batch: common.finetune_loss(case, params["encoder"], trained, batch)
        trained = common.tree_map(lambda x: x if x.requires_grad else x.clone().requires_grad_(), start)
        for step in range(case.K):
            value = loss(trained, common.row(arrays.finetune, step))
            gradient = common.like(trained, torch.autograd.grad(value, common.leaves(trained), create_graph=True))
            count = float(case.warm_count + step + 1)
            trained, moments = common.adam(case.finetune_lr, case.finetune_eps, trained, moments, count, gradient)
        untouched = sum(x.sum() for x in params["head"].values())  # Betty's gradient wants every parameter used
        return loss(trained, arrays.validation) + 0 * untouched

    def param_callback(self, params: list) -> None:
        self.training.found = [x.grad for x in params]


def _start(case: Case, arrays: Arrays):
    training = common.Training(case, arrays)
    lower, upper = _Pretraining(training), _Meta(training)
    engine = Engine([upper, lower], EngineConfig(), {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}})
    engine.train()

    def advance():
        for _ in range(case.P):
            engine.train_step()

    return advance, training
