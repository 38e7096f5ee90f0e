"""PyTorch with `higher` for the unrolled steps, and the Neumann series by second backward passes: as the paper's code does it."""

import higher
import torch

from benchmarks.cases import Arrays, Case, Run
from benchmarks.implementations import torch_common as common


class Network(torch.nn.Module):
    """Nested dictionaries of tensors as a module, whose parameters `higher` and Betty can replace."""

    def __init__(self, trained: dict):
        super().__init__()
        self.names = {part: [name.replace(".", "_") for name in tensors] for part, tensors in trained.items()}
        self.original = {part: list(tensors) for part, tensors in trained.items()}
        for part, tensors in trained.items():
            for name, x in zip(self.names[part], tensors.values(), strict=True):
                self.register_parameter(f"{part}__{name}", torch.nn.Parameter(x.detach().clone()))

    def forward(self, loss):
        """`loss` at the nested dictionary of the parameters."""
        part = lambda part: [getattr(self, f"{part}__{name}") for name in self.names[part]]
        return loss({name: dict(zip(names, part(name), strict=True)) for name, names in self.original.items()})


def finetune(case: Case, arrays: Arrays, encoder: dict):
    """The validation loss after K unrolled steps, and the tensors of the encoder that it is a function of."""
    network = Network(common.finetuned(case, arrays, encoder))
    adam = torch.optim.Adam(network.parameters(), lr=case.finetune_lr, eps=case.finetune_eps)
    common.warm(case, adam, list(network.parameters()))
    loss = lambda batch: lambda trained: common.finetune_loss(case, encoder, trained, batch)
    with higher.innerloop_ctx(network, adam) as (unrolled, differentiable):
        for step in range(case.K):
            differentiable.step(unrolled(loss(common.row(arrays.finetune, step))))
        validation = unrolled(loss(arrays.validation))
        start = list(unrolled.parameters(time=0))[: len(encoder)]
    return validation, list(encoder.values()) if case.head_only else start


def prepare(case: Case, float64: bool = False) -> Run:
    """The case."""
    return common.run(case, float64, _start)


def _start(case: Case, arrays: Arrays):
    training = common.Training(case, arrays)

    def advance():
        training.pretrain()
        v = common.encoder_gradient(training, *finetune(case, arrays, training.params["encoder"]))
        training.move(common.implicit(training, v))

    return advance, training
