"""Reports, data cards and their pictures from the store, for people who are logged in to Airflow
and may read the DAG that made them.

Serves a file only if a committed manifest of the api-server's ``BOIG_STORE`` lists it, with the
very bytes that the manifest names. Leaves out: making the pages, and everything that no page shows
(tables, models, logs).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote, urlsplit

from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.configuration import conf
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import RedirectResponse

from boig_core import environment
from boig_core.errors import InfrastructureError, UserError
from boig_core.storage import manifest, store

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
"""What is served, by the name's end; anything else is not."""
HEADERS: Final = {
    # Pages hold text that comes from posts: no script runs and nothing is fetched from elsewhere,
    # whatever a post says.
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # who has logged out sees nothing any more
}
_NAME: Final = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,255}")


def create_app() -> FastAPI:
    """The app that the plugin mounts. Each family of outputs asks for read access to the DAG that
    makes it."""
    app = FastAPI(title="boig", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(HTTPException, _login_or_error)
    app.middleware("http")(_under_policy)

    def reads(dag: str) -> list[Any]:
        return [Depends(requires_access_dag("GET", param_dag_id=dag))]

    @app.get("/reports/{version}/{path:path}", dependencies=reads("boig_sd"))
    def report(version: str, path: str) -> Response:
        return serve(("reports", version), path)

    # Before the route below, which would take these pages, too, and ask for another DAG's access.
    @app.get(
        "/evaluations/comparison/{version}/{path:path}", dependencies=reads("boig_experiments")
    )
    def comparison(version: str, path: str) -> Response:
        return serve(("evaluations", "comparison", version), path)

    @app.get("/evaluations/{name}/{version}/{path:path}", dependencies=reads("boig_sd"))
    def evaluation(name: str, version: str, path: str) -> Response:
        return serve(("evaluations", name, version), path)

    @app.get("/datasets/{name}/{version}/{path:path}", dependencies=reads("boig_ingest"))
    def dataset(name: str, version: str, path: str) -> Response:
        return serve(("datasets", name, version), path)

    return app


def serve(output: tuple[str, ...], path: str) -> Response:
    """A file of an output.

    Args:
        output: the output's folder below the store's root, name by name.
        path: of the file, as the output's manifest spells it.

    Raises:
        HTTPException: 404, no committed output lists such a file, or it is not of a kind that is
            shown; 503, the store is away.
    """
    root, media = environment.STORE.read(), TYPES.get(PurePosixPath(path).suffix.lower())
    if not root:
        raise HTTPException(
            404,
            "BOIG_STORE is not set where Airflow's api-server runs; set it to the store that Ray writes to",
        )
    # Each name on its own: a name of dots alone would lead out of the output's folder.
    if media is None or not all(_NAME.fullmatch(name) for name in (*output, *path.split("/"))):
        raise HTTPException(
            404, f"{path}: only pages and pictures of an output are shown ({', '.join(TYPES)})"
        )
    try:
        data = manifest.read_file(store.join(store.normalize(root), *output), path)
    except UserError as exc:
        raise HTTPException(404, str(exc)) from exc
    except InfrastructureError as exc:
        raise HTTPException(503, str(exc)) from exc
    return Response(data, media_type=media)


async def _under_policy(
    request: Request, answer: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Every answer has the headers, errors and redirects too: their texts name what was asked
    for."""
    response = await answer(request)
    response.headers.update(HEADERS)
    return response


async def _login_or_error(request: Request, exc: Exception) -> Response:
    """A browser without a valid login is sent to Airflow's login, and from there back; everyone
    else gets the error as JSON."""
    assert isinstance(exc, HTTPException)
    if exc.status_code == 401 and "text/html" in request.headers.get("accept", ""):
        base = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        return RedirectResponse(f"{base}/api/v2/auth/login?next={quote(request.url.path)}")
    return await http_exception_handler(request, exc)
