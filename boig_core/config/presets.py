"""Presets: what the exports of networks and agencies call our columns and the KPI, and how they
write dates.

Nothing but defaults of the section ``data``: whatever a recipe says itself counts. Leaves out: what
each export lacks and its user has to add (see the guide on posts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

Preset = Literal[
    "instagram", "facebook", "linkedin", "tiktok", "x-api", "adobe-stock", "shutterstock"
]
"""An export whose columns are known."""

_MONTH_FIRST: Final = {"dates": "month-first"}
PRESETS: Final[Mapping[Preset, Mapping[str, Any]]] = {
    "instagram": _MONTH_FIRST
    | {
        "kpi": "Likes",
        "columns": {
            "id": "Post ID",
            "account": "Account username",
            "company": "Account name",
            "timestamp": "Publish time",
            "text": "Description",
        },
    },
    # A page's number is often cut by a spreadsheet, its name is not.
    "facebook": _MONTH_FIRST
    | {
        "kpi": "Reactions",
        "columns": {
            "id": "Post ID",
            "account": "Page name",
            "timestamp": "Publish time",
            "text": "Title",
        },
    },
    # Of one page or account, which the file does not name.
    "linkedin": _MONTH_FIRST
    | {
        "kpi": "Likes",
        "columns": {
            "id": "Post link",
            "account": "=linkedin",
            "timestamp": "Created date",
            "text": "Post title",
        },
    },
    "tiktok": {
        "kpi": "Total likes",
        "columns": {
            "id": "Video link",
            "account": "=tiktok",
            "timestamp": "Post time",
            "text": "Video title",
        },
    },
    # Pages become rows under our names already.
    "x-api": {"kpi": "likes", "columns": {}},
    "adobe-stock": {
        "kpi": "downloads",
        "columns": {
            "id": "Filename",
            "account": "=adobe-stock",
            "text": "Title",
            "image": "Filename",
            "keywords": "Keywords",
        },
    },
    "shutterstock": {
        "kpi": "downloads",
        "columns": {
            "id": "Filename",
            "account": "=shutterstock",
            "text": "Description",
            "image": "Filename",
            "keywords": "Keywords",
        },
    },
}
"""Defaults of the section ``data`` by preset."""


def with_preset(tree: Any) -> Any:
    """The section ``data`` as it is written, over the preset that it names.

    Read again as it comes out, it comes out the same. What is no section or names no preset passes
    as it is, to be refused where its fields are checked.
    """
    preset = tree.get("preset") if isinstance(tree, Mapping) else None
    defaults = next((PRESETS[name] for name in PRESETS if name == preset), None)
    if defaults is None:
        return tree
    merged = {**defaults, **tree}
    if isinstance(tree.get("columns"), Mapping):
        merged["columns"] = {**defaults["columns"], **tree["columns"]}
    return merged
