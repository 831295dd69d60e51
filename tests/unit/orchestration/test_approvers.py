"""Who may answer an approval: an approver of the policy who triggered nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.config import Policy
from boig_core.config.policy import Approver
from boig_core.errors import InputError, PolicyError
from boig_core.orchestration.promotion.approvers import (
    approvers,
    require_allowed,
    require_names,
)

PEOPLE = ("ann", "Ann", "bob", "7", "straße")
people = st.builds(Approver, id=st.sampled_from(PEOPLE), name=st.sampled_from(PEOPLE))


def policy(*names: str) -> Policy:
    return Policy(approvers=tuple(Approver(id=name, name=name) for name in names))


@given(st.lists(people, max_size=4), st.dictionaries(st.sampled_from(PEOPLE), st.just("d/r")))
def test_nobody_who_triggered_a_run_is_asked_or_may_answer(
    listed: list[Approver], triggered_by: dict[str, str]
) -> None:
    struck = {name.casefold() for name in triggered_by}
    expected = [p for p in listed if not {p.id.casefold(), p.name.casefold()} & struck]
    rules = Policy(approvers=tuple(listed))
    if not expected:
        with pytest.raises(PolicyError, match="approvers of the policy"):
            approvers(rules, triggered_by)
    else:
        assert list(approvers(rules, triggered_by)) == expected
    allowed = {person.id for person in expected}
    for person in listed:
        user = {"id": person.id, "name": person.name}
        if person.id in allowed and person.name.casefold() not in struck:
            assert require_allowed(rules, triggered_by, user) == person
        else:
            with pytest.raises(PolicyError):
                require_allowed(rules, triggered_by, user)


def test_an_empty_list_says_who_was_struck_and_what_to_do() -> None:
    triggered_by = {"ann": "boig_ingest/r1", "bob": "boig_promote/r2"}
    with pytest.raises(PolicyError) as caught:
        approvers(policy("Ann", "bob"), triggered_by)
    text = str(caught.value)
    assert "Ann triggered boig_ingest/r1, bob triggered boig_promote/r2" in text
    assert "name somebody who has triggered no run of the chain" in text
    assert "\n" not in text
    with pytest.raises(PolicyError, match="names nobody"):
        approvers(policy(), {})


@pytest.mark.parametrize(
    "user", [None, {}, {"id": "eve", "name": "eve"}, {"id": "eve", "name": "ann"}, {"name": "ann"}]
)
def test_an_answer_counts_by_the_id_that_the_auth_manager_gives(
    user: dict[str, str] | None,
) -> None:
    with pytest.raises(PolicyError, match="does not count"):
        require_allowed(policy("ann"), {}, user)


def test_another_name_in_the_policy_hides_nobody() -> None:
    rules = Policy(approvers=(Approver(id="7", name="Ann Lee"),))
    user = {"id": "7", "name": "ann"}
    assert require_allowed(rules, {}, user) == Approver(**user)
    with pytest.raises(PolicyError, match="answer of ann"):
        require_allowed(rules, {"ann": "boig_sd/r"}, user)


def test_where_everybody_is_the_same_admin_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    require_names()
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
    with pytest.raises(InputError, match="nobody has a name"):
        require_names()
