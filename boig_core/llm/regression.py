"""The engagement predictor's regression head: a linear layer on the last hidden state of a prompt's
last token, and its loss.

The layer reads that state over the square root of its width. The state is what the output head
reads to predict the answer's first token, so it is taken there, inside the model's own forward
pass: packed or not, under any ZeRO stage (which gathers the layer's weights when it is called) and
for any architecture. Leaves out: what the model reads and answers (see `predictor`). Shape letters:
E samples, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from boig_core.llm.architecture import text_config
from boig_core.llm.loss import AnswerLoss
from boig_core.llm.tokens import Example

HEAD: Final = "kpi_head"
"""Name of the layer in the model."""
MSE_WEIGHT: Final = 0.1
"""Weight of the squared error beside the cross-entropy a token, in points of 100, the unit of the
answer. The authors name no unit. In shares of 1 the error's gradient would drown in the
cross-entropy's, and the head would learn by luck."""


def add_head(model: Any) -> nn.Linear:
    """Give a causal language model a head that says 0.5 of everything; returns it."""
    weight: Tensor = model.get_output_embeddings().weight
    head = nn.Linear(text_config(model).hidden_size, 1, dtype=weight.dtype, device=weight.device)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, 0.5)
    model.add_module(HEAD, head)
    return head


@contextmanager
def listening(model: Any, first_E: Tensor) -> Iterator[list[Tensor]]:
    """While it is open, each forward pass of the model appends to the list what its head says,
    (E,), not clipped.

    Args:
        model: with a head.
        first_E: index among the columns that get logits of each sample's first
            (`boig_core.llm.packing.Rows`).
    """
    states: list[Tensor] = []
    head: nn.Linear = model.get_submodule(HEAD)

    def listen(output_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # The output head is given the kept columns alone, (N, H): `first_E` counts in those.
        hidden_EH = inputs[0][first_E.to(inputs[0].device)].to(head.weight.dtype)
        # Adam moves every weight by the learning rate, so a wide layer's output would jump by H
        # times that at each step.
        states.append(head(hidden_EH * head.in_features**-0.5)[:, 0])

    handle = model.get_output_embeddings().register_forward_pre_hook(listen)
    try:
        yield states
    finally:
        handle.remove()


class RatedLoss(AnswerLoss):
    """Cross-entropy a token of the answers + `MSE_WEIGHT` x mean squared error of the head in
    points; examples must have a rating."""

    def share(self, part: Sequence[Example], batch: Sequence[Example]) -> Tensor:
        """What one micro-batch adds to the loss of a whole batch."""
        rows = self._layout(part)
        with listening(self._engine.module, rows.first_E) as states:
            nats = self.of_rows(rows)
        rating_E = torch.tensor([example.rating for example in part], device=nats.device)
        squared = (100 * (states[0].float() - rating_E)).square().sum()
        # Each part by its own count over the whole batch, so that micro-batches and ranks add up.
        return nats / sum(len(example.answer_T) for example in batch) + MSE_WEIGHT * squared / len(
            batch
        )
