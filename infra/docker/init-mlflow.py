"""One-off set-up of MLflow's users: `airflow`, who owns the registry's model, and `ray`, who owns
the curves. Their passwords are those of the environment, also after they have changed there.

Needs Python alone, and an MLflow server at `MLFLOW_TRACKING_URI` whose admin has
`MLFLOW_ADMIN_PASSWORD`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request

USERS = ("airflow", "ray")


def ask(path: str, method: str, body: dict[str, str]) -> int:
    """Asks MLflow as its admin.

    Args:
        path: what stands behind the server's ``/api/2.0/mlflow/users/``.
        method: of HTTP.
        body: sent as JSON.

    Returns:
        The answer's status.
    """
    login = f"admin:{os.environ['MLFLOW_ADMIN_PASSWORD']}".encode()
    request = urllib.request.Request(
        f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/users/{path}",
        data=json.dumps(body).encode(),
        method=method,
        headers={
            "Authorization": "Basic " + base64.b64encode(login).decode(),
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def main() -> None:
    """Makes each user, or gives one that is there the password of the environment."""
    for name in USERS:
        password = os.environ[f"MLFLOW_{name.upper()}_PASSWORD"]
        user = {"username": name, "password": password}
        status = ask("create", "POST", user)
        if status == 400:  # there is one of this name
            status = ask("update-password", "PATCH", user)
        if status != 200:
            sys.exit(
                f"MLflow's user {name}: was refused with HTTP {status}; 401 means that .env is newer"
                " than the volume `mlflow`: take MLFLOW_ADMIN_PASSWORD from the old .env"
            )


if __name__ == "__main__":
    main()
