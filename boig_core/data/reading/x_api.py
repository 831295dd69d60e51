"""X API v2 payloads: pages of posts with their authors, media and counts in separate lists become
flat rows.

A page is one JSON object, a line of a ``.jsonl`` file. Its fields are those of the API's reference:
``data`` (posts, or one), ``includes.users``, ``includes.media``, ``public_metrics``. Leaves out:
talking to the API, looking up what another page includes (see `x_includes`), and what makes a row
good (see `posts`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

from boig_core.data.rejects import VERDICT, Code, Rejected

_COUNTS: Final = {
    "like_count": "likes",
    "retweet_count": "reposts",
    "reply_count": "comments",
    "quote_count": "quotes",
    "bookmark_count": "bookmarks",
    "impression_count": "impressions",
}
"""The API's counts by the name of the column that they become."""
_OWN_METRICS: Final = ("non_public_metrics", "organic_metrics", "promoted_metrics")
"""Counts that the API shows to a post's author alone; columns under their own names."""
_POST_FIELDS: Final = ("edit_history_tweet_ids", "author_id", "public_metrics")
"""Fields that only a post of the API has."""
_ENTITY: Final = re.compile("&(amp|lt|gt);")
_SIGNS: Final = {"amp": "&", "lt": "<", "gt": ">"}
"""The API escapes these three signs in texts, and no others."""

Kind = Literal["users", "media"]
"""A list of ``includes``."""
Lookup = Callable[[Kind, str], Mapping[str, Any]]
"""What another page of the export includes under a key; empty: none does."""


def is_page(fields: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a page of the API and no row of its own."""
    # A row of another export may have columns of these names, but has a text beside them.
    if "text" in fields:
        return False
    posts = fields.get("data")
    if posts is None:
        return _has_errors(fields) or "result_count" in _object(fields.get("meta"))
    if "includes" in fields or "meta" in fields or "matching_rules" in fields:
        return isinstance(posts, list) or (isinstance(posts, Mapping) and "id" in posts)
    first = posts[0] if isinstance(posts, list) and posts else posts
    return isinstance(first, Mapping) and any(name in first for name in _POST_FIELDS)


def rows_of(page: Mapping[str, Any], lookup: Lookup) -> Iterator[Any]:
    """One row per post, with the columns of `posts` and the counts; photographs alone, since a
    video's preview is not what was posted.

    What is known to be no good post carries its verdict. A page of errors alone is one reject.

    Args:
        page: as `is_page` knows it.
        lookup: asked for what the page itself does not include.
    """
    posts = page.get("data")
    if posts is None and _has_errors(page):
        errors = page.get("errors")
        error = _object(errors[0] if isinstance(errors, list) and errors else page)
        message = error.get("detail") or error.get("message") or error.get("title")
        yield Rejected("bad_json", f"the X API answered with errors in place of posts: {message}")
        return
    includes = _object(page.get("includes"))
    own: dict[Kind, dict[str, Mapping[str, Any]]] = {
        "users": _by(includes.get("users"), "id"),
        "media": _by(includes.get("media"), "media_key"),
    }

    def find(kind: Kind, key: Any) -> Mapping[str, Any]:
        return own[kind].get(str(key)) or lookup(kind, str(key))

    for post in posts if isinstance(posts, list) else [] if posts is None else [posts]:
        yield _row(post, find) if isinstance(post, Mapping) else post


def items_of(page: Mapping[str, Any]) -> Iterator[tuple[Kind, str, Mapping[str, Any]]]:
    """What a page includes, by kind and key."""
    includes = _object(page.get("includes"))
    for key, user in _by(includes.get("users"), "id").items():
        yield "users", key, {name: user.get(name) for name in ("username", "name")}
    for key, item in _by(includes.get("media"), "media_key").items():
        yield (
            "media",
            key,
            {name: item.get(name) for name in ("type", "url", "preview_image_url")},
        )


def _row(post: Mapping[str, Any], find: Callable[[Kind, Any], Mapping[str, Any]]) -> dict[str, Any]:
    original = _reposted(post)
    author = find("users", post["author_id"]) if "author_id" in post and not original else {}
    keys = _object(post.get("attachments")).get("media_keys")
    attached = {
        str(key): {} if original else find("media", key)
        for key in (keys if isinstance(keys, list) else [])
    }
    counts = _object(post.get("public_metrics"))
    row = {
        "id": post.get("id"),
        "account": author.get("username"),
        "company": _plain_text(author.get("name")),
        "timestamp": post.get("created_at"),
        # A long post is cut in `text`, and whole there.
        "text": _plain_text(_object(post.get("note_tweet")).get("text") or post.get("text")),
        # One that is not included is lost by itself, under a name that says which.
        "images": [
            item.get("url") or f"media_key:{key}"
            for key, item in attached.items()
            if not item or item.get("type") == "photo"
        ],
        **{ours: counts[theirs] for theirs, ours in _COUNTS.items() if theirs in counts},
        **{name: post[name] for name in _OWN_METRICS if name in post},
    }
    if verdict := _verdict(post, original, author, attached):
        row[VERDICT] = list(verdict)
    return row


def _verdict(
    post: Mapping[str, Any],
    original: str | None,
    author: Mapping[str, Any],
    attached: Mapping[str, Mapping[str, Any]],
) -> tuple[Code, str] | None:
    """What a post cannot be used for, in terms of the API rather than of our columns."""
    if original is not None:
        return "repost", f"reposts {original}, and is no post of the account"
    if not author:
        return (
            "missing_field",
            f"account is missing: author_id {post.get('author_id')} is in no includes.users"
            " (expansions=author_id)",
        )
    if not any(name in post for name in ("public_metrics", *_OWN_METRICS)):
        return "missing_field", "public_metrics is missing (tweet.fields=public_metrics)"
    if not attached:
        return None
    if not any(attached.values()):
        return (
            "missing_field",
            f"image is missing: {', '.join(attached)} is in no includes.media"
            " (expansions=attachments.media_keys)",
        )
    if all(item and item.get("type") != "photo" for item in attached.values()):
        item = next(iter(attached.values()))
        return (
            "missing_field",
            f"image is missing: {item.get('type')} and no photograph"
            f" (preview_image_url: {item.get('preview_image_url')})",
        )
    return None


def _reposted(post: Mapping[str, Any]) -> str | None:
    """Id of the post that this one repeats; one that quotes or answers another is a post."""
    references = post.get("referenced_tweets")
    for reference in references if isinstance(references, list) else []:
        if _object(reference).get("type") == "retweeted":
            return str(reference.get("id"))
    return None


def _plain_text(value: Any) -> Any:
    return _ENTITY.sub(lambda match: _SIGNS[match[1]], value) if isinstance(value, str) else value


def _has_errors(fields: Mapping[str, Any]) -> bool:
    """Whether an object is the API's refusal, or lists why it has no posts."""
    errors = fields.get("errors")
    listed = isinstance(errors, list) and bool(errors) and isinstance(errors[0], Mapping)
    return "id" not in fields and (listed or {"title", "detail", "type"} <= fields.keys())


def _by(items: Any, key: str) -> dict[str, Mapping[str, Any]]:
    rows = items if isinstance(items, list) else []
    # As texts, so that a key can be looked up whatever an export holds in its place.
    return {str(item.get(key)): item for item in rows if isinstance(item, Mapping)}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
