"""A request that is made again while the server is busy or away.

Leaves out: which requests may be made twice (see `airflow_api`), and what a server's answer means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
)
from tenacity.wait import wait_base, wait_exponential

ANSWER_S: Final = 30.0
"""Longest wait for one answer, in seconds."""
BUSY: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses of a server that may do better soon; any other says what is wrong with the request."""


@dataclass(frozen=True)
class Patience:
    """How long and how often a request is made again.

    Attributes:
        seconds: after which no further try begins; three answers that do not come by default.
        pause: time between two tries; by default half a second, then twice as long each time.
    """

    seconds: float = 3 * ANSWER_S
    pause: wait_base = field(default_factory=lambda: wait_exponential(multiplier=0.5, max=10))

    def send(
        self, client: httpx.Client, method: str, path: str, body: Any = None, *, repeatable: bool
    ) -> httpx.Response:
        """The last answer that came.

        Args:
            client: of the server.
            method: of HTTP.
            path: below the client's base.
            body: is sent as JSON.
            repeatable: twice is as good as once. Any other request is made again only where nothing
                of it was sent.

        Raises:
            httpx.TransportError: the last try brought no answer.
        """
        unsent = retry_if_exception_type((httpx.ConnectError, httpx.ConnectTimeout))
        unanswered = retry_if_exception_type(httpx.TransportError)
        busy = retry_if_result(lambda answer: answer.status_code in BUSY)
        retrying = Retrying(
            retry=unanswered | busy if repeatable else unsent,
            stop=stop_after_delay(self.seconds),
            wait=self.pause,
            retry_error_callback=_last,
        )
        return retrying(client.request, method, path, json=body)


def _last(state: RetryCallState) -> httpx.Response:
    """The answer, or the exception, of the try with which patience ended."""
    assert state.outcome is not None
    answer: httpx.Response = state.outcome.result()
    return answer
