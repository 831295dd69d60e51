"""Which of a file's columns is which of ours, by names that surely mean it.

Leaves out: proposing and trying them (see `suggestions`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from boig_core.config import Column
from boig_core.data.preview import ColumnValues

NAMES: Final[Mapping[Column, str]] = {
    "id": """
        id postid mediaid tweetid assetid contentid contentnumber videoid itemid photoid
        imageid shortcode permalink posturl postlink link url filename imagefile
        imagepath image imageurl
    """,
    "account": """
        account accountusername username accountname pagename handle screenname profile
        profilename user owner author authorusername contributor contributorid
        contributorname photographer accountid pageid creator
    """,
    "timestamp": """
        timestamp publishtime publishedtime publishedat createdat createdtime datetime
        postedat postedon postdate posttime publishdate publishedon datepublished date
        created createdate creationdate createddate posted uploaddate dateuploaded
        uploadedat releasedate submissiondate time
    """,
    "text": """
        text caption description message posttext posttitle tweettext fulltext body
        content title name
    """,
    "image": """
        image images imageurl imageurls imagepath imagefile mediaurl mediaurls media
        photo photos photourl picture pictures pictureurl displayurl thumbnailurl
        thumbnail filename filepath file path url
    """,
}
"""Names that surely mean a column, the surest first, in small letters and without signs."""
KPIS: Final = """
    likes like likecount likescount favoritecount favouritecount favorites reactions
    reactioncount totalreactions engagement engagements downloads downloadcount forwards
    sales shares clicks views viewcount
    """
_POWER: Final = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+")


def match_column(
    columns: Mapping[str, ColumnValues], names: str, distinct: bool = False
) -> str | None:
    """The column whose name comes first among ``names``, which white space parts; nested ones
    after all others.

    Args:
        columns: of a file.
        names: as in `NAMES`.
        distinct: only of a column whose values all differ.
    """
    usable = {
        name: values
        for name, values in columns.items()
        if values.filled
        and not (distinct and (len(values.distinct) < values.filled or is_lossy(values)))
    }
    whole = {plain_name(name): name for name in reversed(usable)}
    last = {plain_name(name.rsplit(".", 1)[-1]): name for name in reversed(usable) if "." in name}
    # The id of an author is none of a post.
    for known in (whole, {} if distinct else last):
        for name in names.split():
            if name in known:
                return known[name]
    return None


def match_by_values(
    columns: Mapping[str, ColumnValues], ours: Column, distinct: bool = False
) -> str | None:
    """The column of a file that is ours: by its values where these say it, such as names of images,
    else by its name alone.

    Args:
        columns: of a file.
        ours: one of `NAMES`.
        distinct: as of `match_column`.
    """
    kind = {"image": "images", "timestamp": "times"}.get(ours)
    sure = {
        name: values
        for name, values in columns.items()
        if kind is not None and values.filled and getattr(values, kind) == values.filled
    }
    if (name := match_column(sure, NAMES[ours], distinct)) is not None:
        return name
    if len(sure) == 1:
        return next(iter(sure))
    return match_column(columns, NAMES[ours], distinct)


def has_values(columns: Mapping[str, ColumnValues], name: str) -> bool:
    """Whether a column is there, and not empty."""
    return name in columns and columns[name].filled > 0


def is_lossy(values: ColumnValues | None) -> bool:
    """Whether ids went through a spreadsheet that keeps 15 digits."""
    return values is not None and any(map(_POWER.fullmatch, values.examples))


def plain_name(name: str) -> str:
    """A column's name in small letters and without signs; of a nested one as a whole."""
    return re.sub(r"[\W_]+", "", name).casefold()
