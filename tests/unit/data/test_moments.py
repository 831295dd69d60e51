"""Times as exports write them: each listed form reads back equal, and no other time comes out."""

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.data.cells.moments import UnreadableMomentError, read_moment

MOMENTS = st.datetimes(datetime(1990, 1, 2), datetime(2099, 12, 30)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
# Each holds the whole time to the second.
FORMS = [
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%d %H:%M:%S+00",
    "%Y/%m/%d %H:%M:%S",
    "%Y年%m月%d日 %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y, %H:%M:%S",
    "%d %b %Y %H:%M:%S",
    "%d-%b-%Y %H:%M:%S",
    "%B %d, %Y at %I:%M:%S\u202f%p",
    "%a %b %d %H:%M:%S +0000 %Y",
    "%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)",
    "%I:%M:%S %p · %b %d, %Y",
    "%Y%m%dT%H%M%SZ",
    "%Y%m%d%H%M%S",
]
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@given(moment=MOMENTS, form=st.sampled_from(FORMS))
def test_a_time_in_any_form_reads_back_equal(moment: datetime, form: str) -> None:
    assert set(read_moment(moment.strftime(form)).values()) == {moment}


@given(moment=MOMENTS, unit=st.sampled_from(list(UNITS)), as_text=st.booleans())
def test_epochs_are_read_by_their_size(moment: datetime, unit: str, as_text: bool) -> None:
    number = int(moment.timestamp()) * UNITS[unit]
    # Ten digits may be a day and an hour, too: 2023053114.
    if unit == "s" and re.fullmatch(
        r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])([01]\d|2[0-3])", str(number)
    ):
        with pytest.raises(UnreadableMomentError, match="year, month, day and hour"):
            read_moment(str(number) if as_text else number)
    else:
        assert set(read_moment(str(number) if as_text else number).values()) == {moment}


@given(moment=MOMENTS, hours=st.integers(-12, 14))
def test_mail_dates_with_their_offset(moment: datetime, hours: int) -> None:
    local = moment.astimezone(timezone(timedelta(hours=hours)))
    assert set(read_moment(format_datetime(local)).values()) == {moment}


@given(moment=MOMENTS, sign=st.sampled_from("/-"), month_first=st.booleans())
def test_a_date_that_can_be_two_is_both(moment: datetime, sign: str, month_first: bool) -> None:
    day, month = f"{moment.day:02}", f"{moment.month:02}"
    parts = [month, day] if month_first else [day, month]
    readings = read_moment(f"{sign.join(parts)}{sign}{moment.year} {moment:%H:%M:%S}")
    order = "month-first" if month_first else "day-first"
    assert readings[order] == moment  # type: ignore[index]
    assert len(set(readings.values())) == (2 if moment.day <= 12 and day != month else 1)


@given(number=st.integers(-(10**20), 10**20) | st.floats() | st.text("0123456789", max_size=25))
def test_no_number_is_a_time_long_ago(number: Any) -> None:
    """Epoch milliseconds read as digits of a date were the year 1612."""
    try:
        readings = read_moment(number)
    except UnreadableMomentError:
        return
    assert all(1990 <= moment.year <= 2100 for moment in readings.values())


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (45077, "spreadsheet"),
        ("45077.604", "spreadsheet"),
        ("1.68E+12", "lost its last digits"),
        ("5/31/23", "two digits"),
        ("2023-05-31 10:00 PST", "time zone"),
        ("2023053114", "seconds since 1970 or"),
        ("0001-01-01T00:00:00+05:00", "calendar"),
        ("0000-00-00 00:00:00", "calendar"),
        ("2023-02-30", "calendar"),
        ("31/13/2023", "month"),
        ("05.31.2023", "calendar"),
        ("2023-05-31 14:30 PM", "time of the day"),
        ("99999-01-01", "forms"),
        ("yesterday", "forms"),
        (True, "no time"),
        (float("inf"), "calendar"),
        (0, "1990"),
        ("9" * 5000, "too long"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), "calendar"),
    ],
)
def test_what_is_no_time_says_why(value: Any, why: str) -> None:
    with pytest.raises(UnreadableMomentError, match=why):
        read_moment(value)


def test_compact_days_stay_days() -> None:
    assert set(read_moment(20230531).values()) == {datetime(2023, 5, 31, tzinfo=UTC)}
    assert set(read_moment("20230531").values()) == {datetime(2023, 5, 31, tzinfo=UTC)}
