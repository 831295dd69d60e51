"""What pools of actors share: how work is handed to actors that may die, hang, join late or lose
their node.

An actor holds models, so it works on one item at a time. An item is a pure function of its
arguments: where its actor is lost it goes back to the others, which meanwhile go on, and Ray brings
the actor back as soon as a node has room. What a call raises is not tried again: the same input
would fail the same way. Leaves out: what actors do (see `rollouts`, `scoring`) and where they run
(see `placement`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray

from boig_core.cluster.placement import actor_options, nodes
from boig_core.config import Recipe, Resources, load_policy
from boig_core.errors import BoigError, ClusterError
from boig_core.observability.logs import get_logger

log = get_logger(__name__)

RESTARTS: Final = 3
"""Lost actors that are forgiven a chunk, and lost groups of workers that are forgiven a
training."""
START_S: Final = 600.0
"""Longest time without any actor of a kind: until one is placed and has opened its models."""
LOST: Final = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)
"""What Ray raises for an actor that is gone, and for a result that went with its node."""


def options(resources: Resources) -> dict[str, Any]:
    """Ray's options for an actor of a `Crew`: it comes back whenever there is room, and its work is
    handed out anew by the crew."""
    # Ray's own retry of a call would wait for this very actor, and the actor for a node, while
    # others stand idle (decision 0015).
    return {**actor_options(resources), "max_restarts": -1, "max_task_retries": 0}


def scorer_options(recipe: Recipe) -> dict[str, Any]:
    """Ray's options for a scorer; an empty runtime environment is left to the job's own.

    Raises:
        PolicyError: the policy has no runtime environment of the name that the recipe gives.
    """
    own = load_policy().runtime_env(recipe.reward.runtime_env)
    return {**options(recipe.scorer_resources), **({"runtime_env": own} if own else {})}


def settle(resources: Resources) -> str:
    """Fix the thread count of this process, on which the last bits depend, and name the device."""
    import torch

    torch.set_num_threads(max(1, int(resources.cpus)))
    return "cuda" if resources.gpus > 0 and torch.cuda.is_available() else "cpu"


@dataclass
class _Item:
    number: int
    start: Callable[[Any], Any]
    lost: int = 0


@dataclass(eq=False)
class Span:
    """Time in which an actor has an item, by `time.monotonic`; others may read it meanwhile.

    Attributes:
        began: when it was handed out.
        ended: None while the actor has it.
        lost: whether the actor was lost over it.
    """

    began: float
    ended: float | None = None
    lost: bool = False


@dataclass(frozen=True)
class _Call:
    actor: Any
    item: _Item | None  # None: whether the actor is there
    span: Span


class Crew:
    """Actors of one kind and the items that wait for them. `finished` does the work.

    Args:
        kind: names them in messages, as in ``rollouts of chunk 3``.
        actors: handles; one that is not there yet, or not any more, joins when its ``ready``
            answers.
        limit_s: longest time for an item.
        spans: gets a span for each time that an actor has an item.
    """

    def __init__(
        self, kind: str, actors: Sequence[Any], limit_s: float, spans: list[Span] | None = None
    ) -> None:
        self.kind, self.limit_s = kind, limit_s
        self._spans = spans
        self._waiting: deque[_Item] = deque()
        self._idle: list[Any] = []
        self._calls: dict[Any, _Call] = {}
        self._seen = time.monotonic()  # when an actor was there
        # An actor is asked for `ready` before it gets an item, so that the time in which it is
        # placed and opens its models counts against no item's limit.
        for actor in actors:
            self._await(actor)

    def add(self, number: int, start: Callable[[Any], Any]) -> None:
        """Add an item: its number, and the function that starts it on an actor and returns Ray's
        reference."""
        self._waiting.append(_Item(number, start))

    @property
    def busy(self) -> bool:
        """Whether any item waits or is under way."""
        # Questions whether an actor is there do not count: work may be done before the last actor
        # has come.
        return bool(self._waiting) or any(call.item for call in self._calls.values())

    @property
    def calls(self) -> list[Any]:
        """References of the calls under way."""
        return list(self._calls)

    def assign(self) -> None:
        """Give waiting items to idle actors."""
        while self._waiting and self._idle:
            item, actor = self._waiting.popleft(), self._idle.pop()
            call = _Call(actor, item, Span(time.monotonic()))
            self._calls[item.start(actor)] = call
            if self._spans is not None:
                self._spans.append(call.span)

    def take(self, ref: Any) -> Iterator[tuple[int, Any]]:
        """Number and result of a call that ended; nothing for one that is lost, or asked whether
        the actor is there.

        Raises:
            ClusterError: the item lost its actor more often than is forgiven, or no actor can come
                back.
            Exception: what the call raised, a `BoigError` as itself.
        """
        call = self._calls.pop(ref)
        try:
            result = ray.get(ref)
        except LOST as exc:
            if call.item is None:  # Ray asks an actor that may come back again and again
                log.warning("an actor for %s is gone for good: %s", self.kind, _first_line(exc))
                self._require_any()
            else:
                self._lose(call, call.item, f"lost its actor ({_first_line(exc)})")
            return
        except ray.exceptions.RayTaskError as exc:
            if isinstance(exc.cause, BoigError):
                raise exc.cause from exc
            raise
        # Any answer shows that an actor is there, that to `ready` too: late, lost and replaced
        # actors are one case, and all of them join here.
        self._seen = time.monotonic()
        self._idle.append(call.actor)
        if call.item is not None:
            call.span.ended = time.monotonic()
            yield call.item.number, result

    def expire(self) -> None:
        """Replace actors whose item takes too long.

        Raises:
            ClusterError: an item was lost more often than is forgiven, or no actor was there for
                `START_S`.
        """
        now = time.monotonic()
        for ref, call in list(self._calls.items()):
            if call.item is not None and now >= call.span.began + self.limit_s:
                # Forgotten before it is killed: the call then ends with an error, which would count
                # as a second loss of the same item.
                del self._calls[ref]
                # It comes back, so that a call that hangs costs the pool no actor.
                ray.kill(call.actor, no_restart=False)
                self._lose(call, call.item, f"took longer than {self.limit_s:g} s")
        # The time without any actor runs only while items wait and none can take them; an item that
        # takes long is the business of `limit_s`.
        if self._idle or not self.busy or any(call.item for call in self._calls.values()):
            self._seen = now
        elif now >= self._seen + START_S:
            rule = f"none was there for {START_S:g} s; the cluster is {nodes()}"
            raise ClusterError(
                f"{len(self._calls)} actors for {self.kind}", rule, "add nodes, or ask for less"
            )

    @property
    def patience(self) -> float:
        """Seconds until `expire` may have something to do."""
        working = [
            call.span.began + self.limit_s for call in self._calls.values() if call.item is not None
        ]
        return max(0.0, min(working, default=self._seen + START_S) - time.monotonic())

    def _await(self, actor: Any) -> None:
        # The one call that Ray repeats across restarts: whenever it answers, the actor is there
        # again.
        self._calls[actor.ready.options(max_task_retries=-1).remote()] = _Call(
            actor, None, Span(time.monotonic())
        )

    def _lose(self, call: _Call, item: _Item, why: str) -> None:
        what, seconds = f"{self.kind} of chunk {item.number}", time.monotonic() - call.span.began
        call.span.lost, call.span.ended = True, call.span.began + seconds
        item.lost += 1
        if item.lost > RESTARTS:
            raise ClusterError(
                what,
                f"{why}; {item.lost} actors were lost over it",
                "see their logs on the Ray dashboard",
            )
        log.warning("%s %s; done again, %.1f s are lost", what, why, seconds)
        # To the front: it is older than what waits, and whoever collects needs every chunk.
        self._waiting.appendleft(item)
        self._await(call.actor)

    def _require_any(self) -> None:
        if not self._calls and not self._idle:
            raise ClusterError(
                f"actors for {self.kind}",
                "are all gone for good",
                "see their logs on the Ray dashboard",
            )


def finished(*crews: Crew) -> Iterator[tuple[Crew, int, Any]]:
    """Results as they come, until no crew has work; work may be added between them.

    Raises:
        ClusterError: see `Crew`.
        Exception: what a call raised.
    """
    while any(crew.busy for crew in crews):
        # Deadlines come first: what an actor loses there is handed out at once, if another is idle.
        for crew in crews:
            crew.expire()
            crew.assign()
        of_ref = {ref: crew for crew in crews for ref in crew.calls}
        # No longer than until the next deadline: a call that hangs ends no wait by itself.
        done, _ = ray.wait(
            list(of_ref), num_returns=1, timeout=min(crew.patience for crew in crews)
        )
        for ref in done:
            for number, result in of_ref[ref].take(ref):
                yield of_ref[ref], number, result


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".:")
