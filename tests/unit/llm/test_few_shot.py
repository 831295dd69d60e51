"""Few-shot prompting against a small server on loopback: what comes back, what is tried again, what
ends the stage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from boig_core.config import FewShot, parse_recipe
from boig_core.errors import EndpointError, InputError, PolicyError, RecipeError
from boig_core.llm.few_shot import (
    LONGEST_WAIT_S,
    Endpoint,
    _json_of,
    build_messages,
    choose,
    few_shot,
)
from boig_core.llm.generate import parse_or_none
from boig_core.verbalization.answer import print_answer
from boig_core.vocabulary import BUCKETS, PALETTE, Description, Sample
from ray_jobs.evaluate_llm import ask_endpoint, pick

MakeSamples = Callable[[int], list[Sample]]
Reply = tuple[int, dict[str, str], str]
LOOK = Description(
    {"Red": 1.0}, {"warm": 1.0, "neutral": 0.0, "cool": 0.0}, {"ball": (1.0, 2.0, 3.0, 4.0)}
)
KEY = "sk-very-secret"


def completion(text: str | None) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


GOOD = completion(print_answer(LOOK))


class Server:
    """Answers each request with the next reply of the list, and with the last one from then on."""

    def __init__(self, *replies: Reply) -> None:
        left, lock = list(replies), threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    outer.bodies.append(json.loads(body))
                    outer.keys.append(self.headers["authorization"])
                    code, headers, text = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(code if self.path == "/v1/chat/completions" else 404)
                for name, value in {**headers, "content-length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve(set_policy: Callable[..., None]) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []
    variables: dict[str, str | None] = {}

    def start(*replies: Reply, key: str | None = None) -> Server:
        servers.append(Server(*replies))
        variables[servers[-1].url] = key
        set_policy(endpoints=variables)
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def ask(server: Server, **changes: Any) -> tuple[tuple[str | None, str | None], list[float]]:
    """The answer to one request, and the seconds that would have been waited."""
    pauses: list[float] = []
    settings = FewShot(
        **{"base_url": server.url, "model": "m", "timeout_s": 5, "attempts": 3, **changes}
    )
    with Endpoint(settings, pause=pauses.append) as endpoint:
        return endpoint.ask([{"role": "user", "content": "hello"}]), pauses


def test_an_answer_comes_back_and_the_key_goes_along(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY + "\n")
    server = serve(GOOD, key="SOME_KEY")
    assert ask(server) == ((print_answer(LOOK), None), [])
    assert server.keys == [f"Bearer {KEY}"]
    assert server.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "response_format": {"type": "json_object"},
        "temperature": 0,
        "max_tokens": 600,
    }


def test_busy_and_failing_endpoints_are_asked_again_when_they_say(
    serve: Callable[..., Server],
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True)
    server = serve((429, {"retry-after": "7"}, "{}"), (503, {"retry-after": later}, "{}"), GOOD)
    assert ask(server) == ((print_answer(LOOK), None), [7.0, LONGEST_WAIT_S])
    server = serve((500, {}, "no"))
    (text, why), pauses = ask(server)
    assert (text, why, len(server.bodies)) == (None, "HTTP 500", 3)
    assert len(pauses) == 2
    assert all(0 <= pause <= 30 for pause in pauses)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((200, {}, "not JSON"), "the response is no chat completion"),
        ((200, {}, '{"choices": []}'), "the response is no chat completion"),
        (completion(None), "the model wrote no text"),
        ((413, {}, "{}"), "HTTP 413"),
    ],
)
def test_an_answer_that_is_none_has_a_reason(
    serve: Callable[..., Server], reply: Reply, why: str
) -> None:
    assert ask(serve(reply)) == ((None, why), [])


def test_what_an_endpoint_does_not_take_is_left_out_from_then_on(
    serve: Callable[..., Server],
) -> None:
    server = serve(
        (400, {}, "unknown field"),
        (400, {}, "use max_completion_tokens in place of max_tokens"),
        GOOD,
    )
    with Endpoint(FewShot(base_url=server.url, model="m")) as endpoint:
        for _ in range(2):
            assert endpoint.ask([])[0] == print_answer(LOOK)
    assert [sorted(body.keys() - {"model", "messages"}) for body in server.bodies] == [
        ["max_tokens", "response_format", "temperature"],
        ["max_tokens", "temperature"],
        ["temperature"],
        ["temperature"],
    ]
    assert ask(serve((400, {}, "the prompt is too long"))) == ((None, "HTTP 400"), [])


def test_an_endpoint_that_the_policy_does_not_list_is_sent_nothing(
    serve: Callable[..., Server], set_policy: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server, other = serve(GOOD, key="SOME_KEY"), serve(GOOD)
    set_policy(endpoints={server.url: "SOME_KEY"})
    with pytest.raises(PolicyError, match="is no endpoint"):
        ask(other)
    assert other.bodies == []


def test_a_refused_key_and_an_absent_endpoint_end_in_one_line(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with pytest.raises(InputError, match="refuses the key in SOME_KEY") as refused:
        ask(serve((401, {}, f"wrong key {KEY}"), key="SOME_KEY"))
    assert KEY not in str(refused.value)
    with pytest.raises(InputError, match="model m: is not known there"):
        ask(serve((404, {}, "{}")))
    gone = serve(GOOD, key="SOME_KEY")
    gone.stop()
    with pytest.raises(EndpointError, match="does not answer"):
        ask(gone)
    monkeypatch.setenv("SOME_KEY", "")
    with pytest.raises(InputError, match="environment variable SOME_KEY: holds no key"):
        ask(gone)


def test_a_request_that_times_out_is_tried_again(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, late = serve(GOOD), [httpx.ReadTimeout("late"), httpx.RemoteProtocolError("torn")]
    post = httpx.Client.post

    def first_late(*args: Any, **kwargs: Any) -> httpx.Response:
        if late:
            raise late.pop()
        return post(*args, **kwargs)

    monkeypatch.setattr(httpx.Client, "post", first_late)
    assert ask(server)[0] == (print_answer(LOOK), None)
    late += [httpx.ReadTimeout("late")] * 3
    assert ask(server)[0] == (None, "ReadTimeout")


def test_failures_are_counted_and_only_a_mute_endpoint_ends_the_stage(
    serve: Callable[..., Server], make_samples: MakeSamples
) -> None:
    samples = make_samples(60)
    train, asked = (
        [s for s in samples if s.split == "train"],
        [s for s in samples if s.split == "test"][:4],
    )

    def describe(server: Server) -> Any:
        settings = FewShot(base_url=server.url, model="m", concurrency=1, attempts=1)
        with Endpoint(settings) as endpoint:
            return few_shot(endpoint, settings, train, asked, 3, seed=0)

    fenced = completion(f"Here it is:\n```json\n{print_answer(LOOK)}\n```")
    result = describe(serve(fenced, completion("{}"), (500, {}, ""), GOOD))
    assert list(result.said.items()) == [
        (asked[0].id, LOOK),
        (asked[1].id, None),
        (asked[2].id, None),
        (asked[3].id, LOOK),
    ]
    assert result.failures == {"the text is no answer": 1, "HTTP 500": 1}
    with pytest.raises(EndpointError, match=r"answered none of 4 requests \(HTTP 500\)"):
        describe(serve((500, {}, "")))
    assert set(describe(serve(completion("I would rather not"))).said.values()) == {None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>\nmaybe {} or [1]\n</think>\n\nANSWER", LOOK),
        # The prompt has opened the thought.
        ("maybe {}\n</think>\n```json\nANSWER\n```", LOOK),
        ("<think></think>ANSWER", LOOK),
        ("[THINK]maybe {}[/THINK]ANSWER", LOOK),
        ("<think>one {}</think><think>two {}</think>ANSWER", LOOK),
        # Cut off by the limit: a draft is no answer.
        ("<think>I would say ANSWER, but", None),
    ],
)
def test_an_answer_stands_outside_of_a_thought(text: str, said: Description | None) -> None:
    assert parse_or_none(_json_of(text.replace("ANSWER", print_answer(LOOK)))) == said


def test_examples_come_from_all_buckets_the_same_at_every_call(make_samples: MakeSamples) -> None:
    samples = make_samples(240)
    pools = {
        bucket: [s for s in samples if s.split == "train" and s.bucket == bucket]
        for bucket in BUCKETS
    }
    asked = [s for s in samples if s.split == "test"]
    chosen = [choose(pools, sample, 5, seed=1) for sample in asked]
    assert [choose(pools, sample, 5, seed=1) for sample in reversed(asked)][::-1] == chosen
    for examples in chosen:
        assert sorted(str(s.bucket) for s in examples) == [
            "high",
            "high",
            "low",
            "medium",
            "medium",
        ]
        assert len({s.id for s in examples}) == 5
    assert len({tuple(s.id for s in examples) for examples in chosen}) > len(asked) // 2
    item, other = pools["high"][:2]
    assert choose(
        {**pools, "high": [item, other]}, replace(asked[0], image=item.image), 1, seed=1
    ) == [other]
    with pytest.raises(InputError, match="bucket high of the training split"):
        choose({**pools, "high": []}, asked[0], 3, seed=1)


def test_a_prompt_tells_the_vocabulary_the_examples_and_the_kpi_but_not_the_answer(
    make_samples: MakeSamples,
) -> None:
    first, second, asked = make_samples(3)
    asked = replace(asked, text="one\nKPI: 9 (high)", description=LOOK)
    messages = build_messages(asked, [first, second])
    assert [m["role"] for m in messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert all(
        name in messages[0]["content"] for name in (*PALETTE, "warm", "neutral", "cool", "coverage")
    )
    assert first.description
    assert messages[2]["content"] == print_answer(first.description)
    reported = messages[-1]["content"].splitlines()
    assert f"KPI: {asked.kpi:.0f} ({asked.bucket})" in reported
    assert "Text: one KPI: 9 (high)" in reported
    assert "Red" not in messages[-1]["content"]


def test_the_stage_asks_once_for_each_number_of_examples(
    serve: Callable[..., Server], make_samples: MakeSamples
) -> None:
    samples = make_samples(120)
    train = [s for s in samples if s.split == "train"]
    assert ask_endpoint(train, samples, parse_recipe({})) == ({}, {})
    server = serve(completion("no"), GOOD)
    few = {"base_url": server.url, "model": "m", "posts": 2, "shots": [3, 5], "concurrency": 1}
    answers, failures = ask_endpoint(
        train, samples, parse_recipe({"evaluation": {"few_shot": few}})
    )
    assert failures == {"few_shot_3": {"the text is no answer": 1}, "few_shot": {}}
    assert (
        list(answers["few_shot"]) == list(answers["few_shot_3"]) == [s.id for s in pick(samples, 2)]
    )
    assert [len(body["messages"]) for body in server.bodies] == [8] * 6 + [12] * 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base_url": "api.example.org/v1"}, "base_url"),
        ({"base_url": "https://me:secret@api.example.org/v1"}, "base_url"),
        (
            {"key": KEY},
            r"evaluation\.few_shot\.key: is not a key of the recipe",
        ),
        ({"shots": []}, "shots"),
        ({"key_env": "OPENAI_API_KEY"}, "key_env: is not a key of the recipe"),
    ],
)
def test_a_recipe_names_an_endpoint_without_its_key(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse_recipe(
            {
                "evaluation": {
                    "few_shot": {"base_url": "https://api.example.org/v1", "model": "m", **change}
                }
            }
        )
