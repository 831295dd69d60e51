"""Few-shot prompting: a general language model behind an OpenAI-compatible endpoint describes posts
after a few examples.

The baseline that needs no training. It is told what BoigLLM is told, and what it cannot know: the
palette, the tones and the answer's shape. Its examples come from the training split, of all buckets
in turn, another draw for each post. Leaves out: what its answers are worth (see `metrics`).
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from time import sleep
from typing import Any, Final, Self

import httpx
import numpy as np
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from boig_core.config import FewShot, load_policy
from boig_core.data.fetching.fetch import retry_after
from boig_core.errors import EndpointError, InputError
from boig_core.llm.chat import without_thoughts
from boig_core.llm.control_tokens import as_text_anywhere
from boig_core.llm.generate import parse_or_none
from boig_core.verbalization.answer import print_answer
from boig_core.verbalization.templates import print_kpi
from boig_core.vocabulary import BUCKETS, PALETTE, TONES, Bucket, Description, Sample

LONGEST_WAIT_S: Final = 120.0
"""Longest wait that a Retry-After is granted."""
_NOT_AN_ANSWER: Final = "the text is no answer"

INSTRUCTION: Final = f"""\
You predict how the image of a social media post looks, given the post and how well it did. Its KPI is a number such as its
likes; high, medium and low say how it ranks among the posts of the same account.

Write one JSON object and nothing else:
{{"color and tones": {{"colors": {{NAME: {{"coverage": SHARE}}}}, "tones": {{{", ".join(f'"{tone}": SHARE' for tone in TONES)}}}}},
 "objects": {{NAME: [x1, y1, x2, y2]}}}}

Name three to five colors, the largest first, each with the share of the image that it covers. Only these names are colors:
{", ".join(PALETTE)}.
Shares have two digits; those of the colors sum to 1, and so do those of the tones. Objects are what the image shows, each with its box in
whole pixels: x to the right, y down, x1 <= x2, y1 <= y2, within the image."""


@dataclass(frozen=True)
class Answers:
    """What an endpoint said.

    Attributes:
        said: by sample id; None: failed, or could not be parsed.
        failures: how often, by reason.
    """

    said: Mapping[str, Description | None]
    failures: Mapping[str, int]


class _Again(Exception):
    """A request that is worth another try; ``wait_s`` where the endpoint has named a time."""

    def __init__(self, reason: str, *, answered: bool, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.answered, self.wait_s = answered, wait_s


class Endpoint:
    """A chat model behind HTTP; safe to share between threads.

    Args:
        settings: address, model and limits.
        pause: waits between tries, in seconds.

    Raises:
        PolicyError: the policy does not list the endpoint.
        InputError: no URL, or the environment lacks the key that the policy names.
    """

    def __init__(self, settings: FewShot, pause: Callable[[float], None] = sleep) -> None:
        variable = load_policy().key_variable(settings.base_url)
        key = os.environ.get(variable, "").strip() if variable else ""
        # Nothing but visible ASCII makes a header, and else the first request would fail on it.
        if variable and not re.fullmatch(r"[\x21-\x7e]+", key):
            raise InputError(
                f"environment variable {variable}",
                "holds no key",
                "export the endpoint's key under this name",
            )
        self._settings, self._pause, self._variable = settings, pause, variable
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"
        try:
            httpx.URL(self._url)
        except httpx.InvalidURL as exc:
            raise InputError(
                settings.base_url, f"is no URL ({exc})", "see evaluation.few_shot.base_url"
            ) from exc
        self._http = httpx.Client(
            timeout=settings.timeout_s, headers={"Authorization": f"Bearer {key}"} if key else {}
        )
        # Not every endpoint takes all of these: what one refuses is left out of all later requests.
        self._wishes: dict[str, Any] = {
            "response_format": {"type": "json_object"}, "temperature": 0, "max_tokens": settings.max_tokens,
        }  # fmt: skip

    def ask(self, messages: Sequence[Mapping[str, str]]) -> tuple[str | None, str | None]:
        """The model's text, or None and why there is none.

        Raises:
            InputError: the endpoint refuses the key, or knows no such model or address.
            EndpointError: nothing answers there.
        """
        backoff = wait_random_exponential(0.5, 30)

        def wait(state: RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            asked = failure.wait_s if isinstance(failure, _Again) else None
            return backoff(state) if asked is None else min(asked, LONGEST_WAIT_S)

        retrying = Retrying(
            retry=retry_if_exception_type(_Again),
            stop=stop_after_attempt(self._settings.attempts),
            wait=wait,
            sleep=self._pause,
            reraise=True,
        )
        try:
            return retrying(self._post, messages)
        except _Again as exc:
            # Where nothing listens, every other post would fail as well; an endpoint that is up and
            # slow, or busy, loses this post alone.
            if not exc.answered:
                raise EndpointError(
                    self._settings.base_url,
                    f"does not answer ({exc})",
                    "see that it runs and can be reached",
                ) from exc
            return None, str(exc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _post(self, messages: Sequence[Mapping[str, str]]) -> tuple[str | None, str | None]:
        settings, wishes = self._settings, self._wishes
        try:
            answer = self._http.post(
                self._url, json={"model": settings.model, "messages": list(messages), **wishes}
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise _Again(type(exc).__name__, answered=False) from exc
        except httpx.HTTPError as exc:
            raise _Again(type(exc).__name__, answered=True) from exc
        code = answer.status_code
        # Busy or broken at the moment; any other refusal would come again.
        if code == 429 or code >= 500:
            raise _Again(
                f"HTTP {code}",
                answered=True,
                wait_s=retry_after(answer.headers.get("retry-after"), datetime.now(UTC)),
            )
        # What the endpoint says of a key stays out of the message: some repeat a part of it.
        if code in (401, 403):
            named = f"the key in {self._variable}" if self._variable else "requests without a key"
            raise InputError(
                settings.base_url,
                f"refuses {named} (HTTP {code})",
                "see endpoints in the policy and the variable that it names",
            )
        # No post would fare better, so this ends the stage instead of failing post by post.
        if code == 404:
            raise InputError(
                f"{self._url}, model {settings.model}",
                "is not known there (HTTP 404)",
                "see evaluation.few_shot",
            )
        # An error usually names the field; if it names none, JSON mode is left out first.
        refused = next((name for name in wishes if name in answer.text), "response_format")
        if code in (400, 422) and refused in wishes:
            # Replaced, never changed: another thread may be sending it. Each round has one wish
            # less.
            self._wishes = {name: value for name, value in self._wishes.items() if name != refused}
            return self._post(messages)
        if code != 200:
            return None, f"HTTP {code}"
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            return None, "the response is no chat completion"
        return (text, None) if isinstance(text, str) else (None, "the model wrote no text")


def few_shot(
    endpoint: Endpoint,
    settings: FewShot,
    train: Sequence[Sample],
    asked: Sequence[Sample],
    shots: int,
    seed: int,
) -> Answers:
    """Descriptions of posts by an endpoint that is shown ``shots`` examples before each.

    Args:
        endpoint: that answers.
        settings: how many requests are open at a time.
        train: described, each with a bucket.
        asked: samples whose own description is not looked at.
        shots: examples a prompt.
        seed: of the choice of examples.

    Raises:
        InputError: the endpoint refuses the key or the model, or there are too few examples.
        EndpointError: nothing answers, or no request got an answer.
    """
    # An unrelated image with a KPI that was drawn would be a false example.
    pools = {
        bucket: [
            s for s in train if s.bucket == bucket and s.description is not None and not s.negative
        ]
        for bucket in BUCKETS
    }

    def one(sample: Sample) -> tuple[Description | None, str | None]:
        text, why = endpoint.ask(build_messages(sample, choose(pools, sample, shots, seed)))
        said = None if text is None else parse_or_none(_json_of(text))
        return said, why if text is None else _NOT_AN_ANSWER if said is None else None

    with ThreadPoolExecutor(settings.concurrency) as threads:
        requests = [threads.submit(one, sample) for sample in asked]
        try:
            answers = [request.result() for request in requests]
        except BaseException:
            # Else the pool would make all requests that still wait in line before it ends.
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    failures = Counter(why for _, why in answers if why is not None)
    # A text that is no answer is the model's doing, and counts in its results; an endpoint that
    # never gave a text is out of order.
    refused = sum(count for why, count in failures.items() if why != _NOT_AN_ANSWER)
    if asked and refused == len(asked):
        raise EndpointError(
            settings.base_url,
            f"answered none of {refused} requests ({failures.most_common(1)[0][0]})",
            "see its log and limits",
        )
    return Answers(
        {sample.id: said for sample, (said, _) in zip(asked, answers, strict=True)}, dict(failures)
    )


def choose(
    pools: Mapping[Bucket, Sequence[Sample]], sample: Sample, shots: int, seed: int
) -> list[Sample]:
    """Examples for one sample: the same at every call, the buckets in turn, none about the same
    post or image.

    Raises:
        InputError: a bucket has too few.
    """
    # By the sample's id, so that its examples do not depend on which posts are asked about.
    rng = np.random.default_rng([seed, zlib.crc32(sample.id.encode())])
    chosen: list[Sample] = []
    for turn in range(shots):
        bucket = BUCKETS[turn % len(BUCKETS)]
        drawn = (pools[bucket][i] for i in rng.permutation(len(pools[bucket])))
        taken = {s.id for s in chosen}
        fit = next(
            (
                s
                for s in drawn
                if s.id not in taken and s.post != sample.post and s.image != sample.image
            ),
            None,
        )
        if fit is None:
            raise InputError(
                f"bucket {bucket} of the training split",
                f"is too small for {shots} examples",
                "lower evaluation.few_shot.shots",
            )
        chosen.append(fit)
    # Shuffled, or the same bucket would stand nearest to the question in every chat.
    return [chosen[i] for i in rng.permutation(shots)]


def build_messages(sample: Sample, examples: Sequence[Sample]) -> list[dict[str, str]]:
    """The chat about one sample: the instruction, each example with its answer, the post."""
    messages = [{"role": "system", "content": INSTRUCTION}]
    for example in examples:
        messages += [
            {"role": "user", "content": _facts(example)},
            {"role": "assistant", "content": print_answer(example.seen)},
        ]
    asked = [*messages, {"role": "user", "content": _facts(sample)}]
    return [{**message, "content": as_text_anywhere(message["content"])} for message in asked]


def _facts(sample: Sample) -> str:
    lines = {
        "Company": sample.company,
        "Date": sample.timestamp[:10],
        "Text": sample.text,
        "Caption": sample.caption or "",
        "Keywords": ", ".join(sample.keywords),
        "Image": f"{sample.width} x {sample.height} pixels",
        "KPI": f"{print_kpi(sample.kpi)} ({sample.bucket})",
    }
    # Each on one line: a post must not be able to write fields of its own, such as a KPI.
    return "\n".join(
        f"{name}: {' '.join(value.split())}" for name, value in lines.items() if value.strip()
    )


def _json_of(text: str) -> str:
    """What stands between the outermost braces: models like to add words and fences, and a thought
    may hold a draft."""
    text = without_thoughts(text)
    match = re.search(r"\{.*\}", text, re.DOTALL)
    return match.group() if match else text
