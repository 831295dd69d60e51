"""A proxy before Ray's Jobs API that can hold back an answer, or lead elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web


class Gate:
    """Passes requests on to Ray. After `hold`, the answer to the next submission is kept back until
    `release`: Ray has the job already."""

    def __init__(self, ray: str) -> None:
        self.held = threading.Event()
        self.address = ""
        self._ray = ray
        self._hold = False
        self._loop = asyncio.new_event_loop()
        self._free = asyncio.Event()
        self._free.set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def hold(self) -> None:
        self.held.clear()
        self._loop.call_soon_threadsafe(self._free.clear)
        self._hold = True

    def release(self) -> None:
        self._hold = False
        self._loop.call_soon_threadsafe(self._free.set)

    @contextmanager
    def led_to(self, address: str) -> Iterator[None]:
        """For a while requests go to another server than Ray's."""
        ray, self._ray = self._ray, address
        try:
            yield
        finally:
            self._ray = ray

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _pass_on(self, request: web.Request) -> web.Response:
        headers = {
            key: request.headers[key]
            for key in ("Authorization", "Content-Type")
            if key in request.headers
        }
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.request(
                    request.method,
                    self._ray + request.path_qs,
                    data=await request.read(),
                    headers=headers,
                ) as answer,
            ):
                body, status, kind = await answer.read(), answer.status, answer.content_type
        except aiohttp.ClientError as exc:
            return web.Response(status=502, text=str(exc))
        if self._hold and request.method == "POST" and request.path.rstrip("/") == "/api/jobs":
            self.held.set()
            await self._free.wait()
        return web.Response(body=body, status=status, content_type=kind)
