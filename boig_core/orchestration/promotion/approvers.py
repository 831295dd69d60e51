"""Who may answer an approval: the policy's approvers, but nobody who triggered a run of the chain.

With nobody left the promotion ends before anyone is asked, since Airflow lets everybody answer a
question that names no one. Leaves out: putting the question (see `approval`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.configuration import conf

from boig_core.config import Policy
from boig_core.config.policy import Approver
from boig_core.errors import InputError, PolicyError


def require_names() -> None:
    """Check that Airflow tells people apart.

    Raises:
        InputError: the simple auth manager is in its all-admins mode, in which everybody is the
            same admin, and whom a question names does not count.
    """
    if conf.getboolean("core", "simple_auth_manager_all_admins", fallback=False):
        raise InputError(
            "[core] simple_auth_manager_all_admins",
            "is on, so nobody has a name, and anybody could approve",
            "turn it off, and give each person a user",
        )


def approvers(policy: Policy, triggered_by: Mapping[str, str]) -> tuple[Approver, ...]:
    """Whom to ask.

    Args:
        policy: of this installation, read now.
        triggered_by: each person who triggered a run of the chain, with that run.

    Raises:
        PolicyError: nobody is left.
    """
    struck = _folded(triggered_by)
    left = tuple(person for person in policy.approvers if _run_of(person, struck) is None)
    if left:
        return left
    if not policy.approvers:
        rule = f"names nobody ({policy.source})"
    else:
        runs = (f"{person.name} triggered {_run_of(person, struck)}" for person in policy.approvers)
        rule = f"leaves nobody who may approve ({policy.source}): {', '.join(runs)}"
    raise PolicyError(
        "approvers of the policy",
        rule,
        "have the operator name somebody who has triggered no run of the chain, then clear the task approval",
    )


def require_allowed(
    policy: Policy, triggered_by: Mapping[str, str], user: Mapping[str, Any] | None
) -> Approver:
    """Check who answered, by the policy and the chain as they are now; returns them as the auth
    manager knows them.

    Args:
        policy: of this installation, read now.
        triggered_by: as of `approvers`.
        user: ``{"id", "name"}`` as the auth manager gives them.

    Raises:
        PolicyError: this person may not approve.
    """
    allowed = {person.id for person in approvers(policy, triggered_by)}
    if user and str(user.get("id")) in allowed:
        person = Approver(id=str(user["id"]), name=str(user.get("name") or user["id"]))
        # Once more by their own name, under which runs are triggered: the policy may give another.
        if _run_of(person, _folded(triggered_by)) is None:
            return person
    who = "nobody" if not user else f"{user.get('name')} (id {user.get('id')})"
    raise PolicyError(
        f"answer of {who}",
        f"does not count: it must be one of {policy.line('approvers')} who triggered no run of the chain",
        "clear the task approval, and have one of them answer",
    )


def _folded(triggered_by: Mapping[str, str]) -> dict[str, str]:
    """Auth managers differ in whether upper case tells names apart; here it never does."""
    return {name.casefold(): run for name, run in triggered_by.items()}


def _run_of(person: Approver, struck: Mapping[str, str]) -> str | None:
    """Run that a person triggered; None: none of the chain."""
    return struck.get(person.name.casefold()) or struck.get(person.id.casefold())
