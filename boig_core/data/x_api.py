"""X API v2 payloads: pages of posts with their authors, media and counts in separate lists become
flat rows.

A page is one JSON object, a line of a ``.jsonl`` file. Its fields are those of the API's reference:
``data`` (posts), ``includes.users``, ``includes.media``, ``public_metrics``. Leaves out: talking to
the API, and what makes a row good (see `posts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_COUNTS: Final = {
    "like_count": "likes",
    "retweet_count": "reposts",
    "reply_count": "comments",
    "quote_count": "quotes",
    "bookmark_count": "bookmarks",
    "impression_count": "impressions",
}
"""The API's counts by the name of the column that they become."""


def is_page(fields: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a page of the API and no row of its own."""
    # A row of another export may have columns of these names, but has a text beside them.
    return (
        isinstance(fields.get("data"), list)
        and ("includes" in fields or "meta" in fields)
        and "text" not in fields
    )


def rows_of(page: Mapping[str, Any]) -> list[Any]:
    """One row per post, with the columns of `posts` and the counts; photographs alone, since a
    video's preview is not what was posted.

    A post that is no object, or whose author is not included, gives a row that `posts` rejects by
    what it lacks.
    """
    includes = page.get("includes")
    includes = includes if isinstance(includes, Mapping) else {}
    users, media = _by(includes.get("users"), "id"), _by(includes.get("media"), "media_key")
    return [
        _row(post, users, media) if isinstance(post, Mapping) else post for post in page["data"]
    ]


def _row(
    post: Mapping[str, Any], users: Mapping[Any, Any], media: Mapping[Any, Any]
) -> dict[str, Any]:
    author = users.get(_plain(post.get("author_id")), {})
    keys = _object(post.get("attachments")).get("media_keys")
    attached = [media.get(_plain(key), {}) for key in keys] if isinstance(keys, list) else []
    counts = _object(post.get("public_metrics"))
    return {
        "id": post.get("id"),
        "account": author.get("username"),
        "company": author.get("name"),
        "timestamp": post.get("created_at"),
        "text": post.get("text"),
        "images": [item.get("url") for item in attached if item.get("type") == "photo"],
        **{ours: counts[theirs] for theirs, ours in _COUNTS.items() if theirs in counts},
    }


def _by(items: Any, key: str) -> dict[Any, Mapping[str, Any]]:
    rows = items if isinstance(items, list) else []
    return {_plain(item.get(key)): item for item in rows if isinstance(item, Mapping)}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> str:
    """A key that can be looked up, whatever an export holds in its place."""
    return str(value)
