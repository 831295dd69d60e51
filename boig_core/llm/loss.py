"""The loss of behavior fine-tuning: cross-entropy of the answers' tokens, over all ranks and
micro-batches of a step.

Logits are made at the columns that predict an answer's token alone. Where they would still be wide
(tokens x vocabulary), the output head gives the loss in place of logits, by torch's chunked linear
cross-entropy, which never holds them. Leaves out: how samples become rows (see `packing`). Shape
letters: N answer tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear_cross_entropy

from boig_core.errors import TrainingDivergedError
from boig_core.llm.architecture import text_config
from boig_core.llm.packing import Layout, Rows
from boig_core.llm.tokens import Example
from boig_core.observability.logs import get_logger
from boig_core.training.engine import Engine
from boig_core.training.ranks import rank, world_size

log = get_logger(__name__)
_WIDE = 2**24
"""Logits held at a time, in elements (64 MiB in float32): smaller chunks, such as torch would
choose, take up to five times as long."""


class AnswerLoss:
    """Sum of the cross-entropy of answers' tokens, in nats, of a causal language model in an
    engine.

    Args:
        engine: with the model.
        layout: of samples in rows.
        micro: samples a forward pass.
    """

    def __init__(self, engine: Engine, layout: Layout, micro: int) -> None:
        self._engine, self._layout, self._micro = engine, layout, micro
        module: Any = engine.module
        self._head: Any = module.get_output_embeddings()
        self._vocab: int = text_config(module).vocab_size
        # Whole logits until `check` has seen that the model returns what its head gives.
        self._fuses = False

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        """The loss of one micro-batch."""
        return self.of_rows(self._layout(examples))

    def of_rows(self, rows: Rows) -> Tensor:
        """The loss of what one forward pass reads, the cheaper way."""
        return (
            self.chunked(rows)
            if len(rows.targets_N) * self._vocab > _WIDE and self._fuses
            else self.plain(rows)
        )

    def plain(self, rows: Rows) -> Tensor:
        """The loss by way of logits."""
        logits_NV = self._engine(**rows.inputs(self._engine.device)).logits
        return cross_entropy(
            logits_NV.float(), rows.targets_N.to(self._engine.device), reduction="sum"
        )

    def chunked(self, rows: Rows) -> Tensor:
        """The loss by way of the output head, without logits."""
        with _head_gives_loss(self._head, rows.targets_N.to(self._engine.device)):
            losses_N: Tensor = self._engine(**rows.inputs(self._engine.device)).logits
        return losses_N.float().sum()

    def check(self, examples: Sequence[Example]) -> None:
        """Find out whether the head may give the loss: some models go on to scale or cap its
        logits. Every rank must call it."""
        # The chunked loss takes a weight and a bias: all that a plain linear layer has, and no
        # other.
        if not isinstance(self._head, nn.Linear):
            return
        outputs: list[Tensor] = []
        hook = self._head.register_forward_hook(lambda head, inputs, output: outputs.append(output))
        with torch.no_grad():
            logits_NV = self._engine(**self._layout(examples).inputs(self._engine.device)).logits
        hook.remove()
        self._fuses = torch.equal(logits_NV, outputs[0])
        if not self._fuses:
            log.info(
                "%s: its loss is computed from whole logits", type(self._engine.module).__name__
            )

    def share(self, part: Sequence[Example], batch: Sequence[Example]) -> Tensor:
        """What one micro-batch adds to the loss of a whole batch: the shares of all its
        micro-batches sum to the loss a token."""
        # By the tokens of the whole step: means of each micro-batch or rank would weigh a token the
        # more, the fewer stand beside it. Every rank holds the batch, so counting costs no message.
        return self(part) / sum(len(example.answer_T) for example in batch)

    def of_step(self, batch: Sequence[Example]) -> list[Callable[[], Tensor]]:
        """This rank's micro-batch losses of a step's whole batch, scaled so that their mean over
        ranks is the batch's loss."""
        # Equally many on every rank, as `Engine.step` needs: the batch is a multiple of the ranks.
        parts = self._parts(batch[rank() :: world_size()])
        # Bound here: a plain closure would read the last part in each of them.
        return [lambda part=part: self.share(part, batch) * world_size() for part in parts]  # type: ignore[misc]

    @torch.no_grad()
    def validation(self, examples: Sequence[Example]) -> float:
        """Loss of held-out samples as one batch; not a number without any.

        Raises:
            TrainingDivergedError: it is not finite, so that nobody publishes the weights.
        """
        if not examples:
            return float("nan")
        mine = self._parts(examples[rank() :: world_size()])
        # ZeRO 3 needs every rank in each forward pass: one that has no sample left looks at any,
        # and does not count it.
        idle = len(self._parts(examples[:: world_size()])) - len(mine)
        # Without dropout, so that two validations differ by the weights alone.
        self._engine.module.eval()
        shares = [float(self.share(part, examples)) for part in [*mine, *[examples[:1]] * idle]][
            : len(mine)
        ]
        self._engine.module.train()
        # Every share is of all ranks' tokens, so that a plain sum is the loss a token.
        loss = float(self._engine.total(torch.tensor(shares, dtype=torch.float64).sum()))
        if not math.isfinite(loss):
            done = self._engine.steps_done
            raise TrainingDivergedError(
                f"validation loss after {done} steps",
                f"is {loss}",
                "lower the learning rate" if done else "take another base, or another llm.dtype",
            )
        return loss

    def _parts(self, examples: Sequence[Example]) -> list[Sequence[Example]]:
        return [
            examples[start : start + self._micro] for start in range(0, len(examples), self._micro)
        ]


@contextmanager
def _head_gives_loss(head: Any, targets_N: Tensor) -> Iterator[None]:
    """Let a model's output head take hidden states (N, H) to losses (N,); ZeRO 3 still gathers its
    weight once, when it is called."""

    def forward(hidden_NH: Tensor) -> Tensor:
        # Summed in float32 afterwards: a sum in bfloat16 would be half a percent off.
        rows = max(1, _WIDE // len(head.weight))
        # torch refuses a chunk size that differs from its own heuristic's, unless that is turned
        # off.
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
        return linear_cross_entropy(
            hidden_NH,
            head.weight,
            targets_N,
            linear_bias=head.bias,
            reduction="none",
            options=options,
        )

    # On the instance, so that calling the head still runs its hooks: in them ZeRO 3 gathers the
    # weight and `regression` listens. Deleting it uncovers the class's own.
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
