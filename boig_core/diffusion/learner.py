"""DDPO: align the diffusion model with a reward, one epoch of rollouts, rewards, advantages and
policy updates after the other.

Every rank runs `Learner.fit`; rank 0 alone asks for rollouts, with `ddpo.ahead` before the update
that precedes them, and hands each rank its equal slice. Runs under Ray Train, ``torchrun`` and one
plain process. Leaves out: where rollouts and rewards run (`rollout.Rollouts`) and what an update
makes of them (`policy_update`). Shape letters: B images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from boig_core.config import Recipe
from boig_core.diffusion.lora import (
    Adapter,
    engine_dtype,
    make_trainable,
    read_adapter,
)
from boig_core.diffusion.objectives import (
    OBJECTIVES,
    Rewarded,
)
from boig_core.diffusion.pipeline import load_base, text_encoders
from boig_core.diffusion.policy_update import SHUFFLE, PolicyUpdate, RankBatch
from boig_core.diffusion.prompt_cuts import count_cuts, limited_tokenizers
from boig_core.diffusion.rehearsal import rehearse
from boig_core.diffusion.rollout import Rollouts, epoch_chunks
from boig_core.diffusion.state import AlignmentState, Average
from boig_core.diffusion.trajectory import Trajectory, concatenate
from boig_core.diffusion.watch import image_metrics, prompt_means, reward_metrics
from boig_core.errors import InputError, ScorerError
from boig_core.observability.logs import get_logger
from boig_core.storage.job import Stage
from boig_core.training.checkpoint import Checkpoints
from boig_core.training.engine import Engine
from boig_core.training.engine_config import EngineConfig
from boig_core.training.monitors import MONITORS, WATCHED, Trip, check, quality
from boig_core.training.ranks import rank, world_size
from boig_core.training.work import digest, work_of
from boig_core.vocabulary import Sample

log = get_logger(__name__)


def join_rewards(
    epoch: int, results: Sequence[tuple[Trajectory, NDArray[np.float64]]]
) -> NDArray[np.float64]:
    """An epoch's rewards (B), in the order of its chunks.

    Raises:
        ScorerError: a chunk's rewards are not one finite number per image, or all of them have no
            finite spread.
    """
    parts = []
    # Chunk by chunk: one that lacks a reward and one that has too many make the right sum, and each
    # image between them would be given another's.
    for trajectory, rewards in results:
        try:
            values_B = np.asarray(rewards, dtype=np.float64)
        except (TypeError, ValueError):
            values_B = np.array(np.nan)
        # One NaN would reach every advantage through the spread of the batch.
        if values_B.shape != (len(trajectory),) or not np.isfinite(values_B).all():
            raise ScorerError(
                f"rewards of epoch {epoch}",
                f"must be {len(trajectory)} finite numbers for {len(trajectory)} images",
                "see the scorer's log",
            )
        parts.append(values_B)
    joined_B = np.concatenate(parts)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(joined_B.std())
    # Over a spread that is not finite every advantage is 0 or no number.
    if not math.isfinite(spread):
        raise ScorerError(
            f"rewards of epoch {epoch}, {joined_B.min():g} to {joined_B.max():g}",
            "lie so far apart that their spread is no number",
            "see the scorer's log",
        )
    return joined_B


@dataclass(frozen=True)
class PendingRollouts:
    """Rollouts that were asked for: the policy that makes them, and what waits for them."""

    adapter: Adapter
    wait: Callable[[], list[tuple[Trajectory, NDArray[np.float64]]]]


class Learner:
    """One rank of the training.

    Args:
        recipe: `sd.base` and `ddpo` are read.
        samples: whose texts are the prompts; high-KPI training samples.
        rollouts: where experience comes from; needed by rank 0 alone.
        checkpoints: where the state goes.
        report: called by rank 0 after each epoch with its number and metrics.
        by_prompt: called by rank 0 after each epoch's rollouts with its number, and each prompt
            with the mean of its rewards.
        probe: called by rank 0 every `ddpo.probe_every` epochs, before the update, with the epoch
            and the policy; what it says of the policy stands in the epoch's row.
    """

    def __init__(
        self,
        recipe: Recipe,
        samples: Sequence[Sample],
        rollouts: Rollouts | None,
        checkpoints: Checkpoints,
        report: Callable[[int, dict[str, float]], None],
        by_prompt: Callable[[int, list[tuple[str, float]]], None] = lambda *_: None,
        probe: Callable[[int, Adapter], dict[str, float]] | None = None,
    ) -> None:
        if not samples:
            raise InputError(
                "high-KPI training samples: 0",
                "DDPO prompts are their texts",
                "ingest more posts or lower data.floors",
            )
        self.config, self.seed, self.samples = recipe.ddpo, recipe.seed, samples
        self.work = work_of(Stage.DDPO, recipe, lambda: digest(samples))
        self.rollouts, self.checkpoints, self.report = rollouts, checkpoints, report
        self.by_prompt, self.probe = by_prompt, None if recipe.ddpo.probe_every is None else probe
        self.base = recipe.sd.base
        self.pipe: Any = load_base(recipe.sd)
        make_trainable(self.pipe.unet, self.config.lora_rank, self.seed)
        updates = self.config.epochs * self.config.inner_epochs * self.config.updates
        self.engine = Engine.create(
            self.pipe.unet,
            EngineConfig(
                lr=self.config.lr,
                steps=updates,
                warmup=0.0,
                schedule="constant",
                # Betas and weight decay as in ddpo-pytorch.
                betas=(0.9, 0.999),
                weight_decay=1e-4,
                grad_clip=self.config.grad_clip,
                zero_stage=self.config.zero_stage,
                dtype=engine_dtype(recipe.sd.dtype, self.config.lora_rank),
            ),
        )
        self.engine.module.eval()  # dropout would part the scored policy from the sampled one
        # The engine moves the UNet alone. The autoencoder stays where it is: a learner decodes
        # nothing.
        for encoder in text_encoders(self.pipe):
            encoder.to(self.engine.device)
        self.history: dict[str, tuple[float, ...]] = {}
        self.rows: list[dict[str, float]] = []
        self.trips: list[Trip] = []
        self.average = (
            Average(self.pipe.unet, self.config.ema) if self.config.ema is not None else None
        )
        self.best = AlignmentState(self.engine, average=self.average)
        self.update = PolicyUpdate(self.config, self.seed, self.pipe, self.engine, self.average)
        texts, ids = [sample.text for sample in samples], [sample.id for sample in samples]
        self.cuts = count_cuts(limited_tokenizers(self.pipe), texts, ids)
        self.pending: PendingRollouts | None = None

    def fit(self) -> Adapter:
        """Train from the newest checkpoint, or the start, to the last epoch or a monitor's stop.

        Returns:
            The trained weights, or their moving average; on rank 0 those of the best epoch, when a
            monitor that keeps it ended the training.
        """
        start = self._restore()
        ended = time.monotonic()
        for epoch in range(start, self.config.epochs):
            # A restored training may have been stopped already: its checkpoint says so.
            if self._stopped():
                break
            before, begun = ended, time.monotonic()
            part, metrics = self._experience(epoch)
            sampled = time.monotonic()
            # Before the update, like the rollouts: a row is about the weights that its epoch begins
            # with.
            metrics |= self._probe(epoch)
            probed = time.monotonic()
            # Once per process: it may have another precision or device than the samplers. Before
            # the update, after which a ratio other than 1 is no fault.
            if epoch == start:
                self.update.check_ratio(part, self.best.ahead)
            # After the probe, since the pools serve one call at a time (`RayRollouts`), and before
            # the update, beside which the next epoch is to be sampled.
            self._ask_ahead(epoch + 1)
            if self.config.recompute_logprobs or self.update.is_stale(part):
                part = self.update.recomputed(part)
            if self.config.ahead:
                metrics |= self.update.staleness(part)
            # Before the update: the row's numbers belong to the weights that are offered here.
            if rank() == 0 and self.config.monitors.keeps_best:
                self._offer(metrics)
            metrics |= self.update.run(epoch, part)
            # What lies between here and the next epoch's start is told as `seconds_between`:
            # monitors, report and checkpoint.
            ended = time.monotonic()
            images = self.config.prompts * self.config.images_per_prompt
            metrics |= {
                "seconds_rollouts": sampled - begun,
                "seconds_update": ended - probed,
                "seconds_probe": probed - sampled,
                "seconds_between": begun - before,
                "images_per_s": images / (sampled - begun + ended - probed),
            }
            # Before the report and the checkpoint, since both carry what the monitors found.
            stopped = self._watch(metrics)
            if rank() == 0:
                self.report(epoch, metrics)
            self._save(epoch + 1, stopped)
        self.checkpoints.wait()
        keep = any(trip.action == "keep_best" for trip in self.trips)
        if keep and self.best.adapter is not None:
            return self.best.adapter
        return self._candidate()

    def _ask_ahead(self, epoch: int) -> None:
        """Have the next epoch sampled while this one's update goes on, where the recipe wants
        it."""
        # In the checkpoint, too: a restart has to sample that epoch with these same weights. None
        # on other ranks, so that rank 0 alone writes them.
        self.best.ahead = self._policy() if self.config.ahead and rank() == 0 else None
        sampled_ahead = self.best.ahead is not None and epoch < self.config.epochs
        self.pending = self._ask(epoch) if sampled_ahead else None

    def _save(self, epochs: int, stopped: bool) -> None:
        """A checkpoint after so many epochs, where one is due; a node that drains is left then."""
        due = epochs % self.config.checkpoint_every == 0 or epochs == self.config.epochs
        # All three are the same on every rank: `save` is a collective, in which one rank alone
        # would hang.
        if due or stopped or self.engine.leaving:
            trips = [trip.state() for trip in self.trips]
            state = {"history": self.history, "rows": self.rows, "trips": trips}
            self.checkpoints.save(self.best, epochs, state)
        if self.engine.leaving:
            self.checkpoints.leave()

    def _probe(self, epoch: int) -> dict[str, float]:
        due = rank() == 0 and epoch % (self.config.probe_every or 1) == 0
        return self.probe(epoch, self._candidate()) if due and self.probe is not None else {}

    def _offer(self, metrics: dict[str, float]) -> None:
        value = quality(metrics, probed=self.probe is not None)
        if value is not None:
            self.best.offer(value, self._candidate)

    def _stopped(self) -> bool:
        return any(trip.action in ("stop", "keep_best") for trip in self.trips)

    def _watch(self, metrics: dict[str, float]) -> bool:
        """Ask the monitors about an epoch, on rank 0; every rank learns whether the training ends,
        so that none waits for ever."""
        if rank() == 0:
            self.rows.append({name: metrics[name] for name in WATCHED if name in metrics})
            tripped, known = (
                check(self.config.monitors, self.rows),
                {trip.monitor for trip in self.trips},
            )
            metrics |= {
                f"monitor_{name}": float(name in {trip.monitor for trip in tripped})
                for name in MONITORS
            }
            for trip in tripped:
                if trip.monitor not in known:  # a warning that is repeated each epoch is not read
                    log.warning("%s", trip)
                    self.trips.append(trip)
        agreed: list[Any] = [(self.rows, self.trips)]
        if world_size() > 1:
            dist.broadcast_object_list(agreed, src=0)
        self.rows, self.trips = agreed[0]
        return self._stopped()

    def _restore(self) -> int:
        """Weights, optimizer, RNG, per-prompt statistics and what the monitors saw, of the newest
        checkpoint; returns the first epoch."""
        restored = self.checkpoints.restore(self.best, self.work)
        if rank() == 0:
            self.cuts.tell()
            # What a checkpoint came of has been rehearsed.
            if restored is None:
                rehearse(self.pipe, self.base)
        if restored is None:
            return 0
        self.history = {
            prompt: tuple(rewards) for prompt, rewards in restored.state["history"].items()
        }
        self.rows = [dict(row) for row in restored.state["rows"]]
        self.trips = [Trip(**trip) for trip in restored.state["trips"]]
        return restored.step

    def _policy(self) -> Adapter:
        return read_adapter(self.engine.module, self.engine.steps_done)

    def _candidate(self) -> Adapter:
        """What would be published now: the moving average of the weights, or the policy."""
        return (
            self._policy() if self.average is None else self.average.adapter(self.engine.steps_done)
        )

    def _ask(self, epoch: int) -> PendingRollouts:
        """Ask for an epoch's rollouts: under the weights from before the last update, where the
        recipe samples ahead."""
        if self.rollouts is None:
            raise ValueError("rank 0 needs rollouts")
        adapter = self.best.ahead or self._policy()
        return PendingRollouts(
            adapter,
            self.rollouts.begin(adapter, epoch_chunks(self.config, self.samples, self.seed, epoch)),
        )

    def _experience(self, epoch: int) -> tuple[RankBatch, dict[str, float]]:
        """Rollouts, rewards and advantages of an epoch on rank 0; this rank's slice on every
        rank."""
        slices: list[RankBatch | None] = [None] * world_size()
        metrics: dict[str, float] = {}
        if rank() == 0:
            pending = self.pending or self._ask(epoch)
            results = pending.wait()
            # Rollouts by other weights would raise nothing later: their ratios would be wrong in
            # silence.
            for trajectory, _ in results:
                trajectory.require(pending.adapter.version, pending.adapter.checksum)
            whole = concatenate([trajectory for trajectory, _ in results])
            rewards_B = join_rewards(epoch, results)
            groups_B = whole.indices_B // self.config.images_per_prompt
            rewarded = Rewarded(
                rewards_B, whole.prompts_B, groups_B, self.history, self.config.clip_advantage
            )
            advantages_B, self.history = OBJECTIVES[self.config.objective](rewarded)
            slices = list(self._slices(epoch, whole, advantages_B))
            metrics = reward_metrics(rewards_B, advantages_B, self.config.images_per_prompt)
            metrics |= image_metrics(whole.images_BHWC, self.config.images_per_prompt)
            self.by_prompt(
                epoch, prompt_means(rewards_B, whole.prompts_B, self.config.images_per_prompt)
            )
        received: list[RankBatch | None] = [None]
        if world_size() == 1:
            received = slices
        else:
            # Advantages need the whole epoch, an update needs a rank's share: rank 0 compares, and
            # each rank is sent what it trains on.
            dist.scatter_object_list(received, slices if rank() == 0 else None, src=0)
        if received[0] is None:
            raise ValueError("rank 0 sent nothing")
        return received[0], metrics

    def _slices(
        self, epoch: int, whole: Trajectory, advantages_B: NDArray[np.float64]
    ) -> list[RankBatch]:
        """Equal slices, shuffled, so that any number of ranks makes each update from the same
        images."""
        order = np.random.default_rng((SHUFFLE, self.seed, epoch)).permutation(len(whole))
        # Into updates first, and each update into ranks: the other way round the images of an
        # update would depend on the number of ranks.
        updates = np.split(order, self.config.updates)
        slices = []
        for r in range(world_size()):
            rows = np.concatenate([update[r :: world_size()] for update in updates])
            slices.append(RankBatch(whole.take(rows.tolist(), images=False), advantages_B[rows]))
        return slices
