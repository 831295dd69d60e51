"""Texts as people wrote them: links masked, wrongly decoded letters mended, control characters
taken out.

A good text passes as it is. Leaves out: what counts as a text (see `values`), and how long one may
be (see `posts`).
"""

from __future__ import annotations

import re
from typing import Final

from boig_core.data.cells.values import without_controls
from boig_core.vocabulary import LINK

_LETTER: Final = "A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff\u0590-\u05ff\u0600-\u06ff"
"""Letters of scripts that part words by spaces. In others a sentence goes on right after a link, so
there a letter is none of the link's."""
_PATH: Final = rf"[{_LETTER}0-9\-._~:/?#\[\]@!$&'()*+,;=%|]"
_HOST: Final = r"(?:[^\W_][\w-]*\.)+[A-Za-z]{2,24}(?![A-Za-z])"
_REST: Final = rf"(?::\d{{2,5}})?(?:[/?#]{_PATH}*)?\u2026?"
_SHORT_HOSTS: Final = """
t.co pic.twitter.com pic.x.com twitter.com x.com youtu.be youtube.com bit.ly bitly.com j.mp goo.gl ow.ly buff.ly tinyurl.com is.gd dlvr.it
ift.tt trib.al shorturl.at rb.gy cutt.ly t.ly lnkd.in fb.me fb.watch m.me wa.me t.me ig.me instagr.am instagram.com facebook.com
linkedin.com tiktok.com vm.tiktok.com pin.it redd.it amzn.to amzn.eu a.co etsy.me ebay.us spoti.fi apple.co linktr.ee lnk.to lnk.bio
smarturl.it forms.gle g.co g.page discord.gg twitch.tv patreon.com on.fb.me youtube.be naver.me reurl.cc v.douyin.com
"""
_DOMAINS: Final = "com|net|org|info|shop|store|app|dev|co|io|de|fr|it|es|nl|at|ch|uk|eu|jp|cn|kr|br|in|ru|pl|se|us|ca|au"
_LINKS: Final = re.compile(
    rf"(?:https?://(?:{_HOST}|\[[0-9a-f:.]+\]|[\w.-]*?[a-z0-9](?![\w.-])|[a-z0-9.-]+){_REST}"
    # Without a scheme only what cannot be anything else: no `and/or`, no `Booking.com`.
    rf"|(?<![A-Za-z0-9_@./-])(?:www\.{_HOST}{_REST}"
    rf"|(?:{'|'.join(re.escape(host) for host in _SHORT_HOSTS.split())})/{_PATH}+\u2026?"
    rf"|(?:[a-z0-9][a-z0-9-]*\.)+(?:{_DOMAINS})/{_PATH}+\u2026?))",
    re.IGNORECASE,
)
_SHORTENED: Final = re.compile(
    r"(?:https?://)?(?:t\.co|pic\.twitter\.com|pic\.x\.com)/[A-Za-z0-9]+\u2026?", re.IGNORECASE
)
"""Links whose end is known: letters and digits alone."""
_NEXT_WORD: Final = re.compile(rf"[,;!](?=[{_LETTER}]{{2,}}(?:[\s,.;:!?]|$))")


def mask_links(text: str) -> str:
    """A text with `vocabulary.LINK` in place of each link; the words and signs after it stay."""
    return _LINKS.sub(_masked, text) if "/" in text or "www." in text.lower() else text


def _masked(match: re.Match[str]) -> str:
    link = match[0]
    if known := _SHORTENED.match(link):
        return LINK + link[known.end() :]
    # "https://acme.com/x,and": the address ends before a word, but not in "/a,1518,b.html".
    if word := _NEXT_WORD.search(link):
        link = link[: word.start()]
    end = len(link)
    # Counted once: a text may be nothing but brackets.
    surplus = {
        ")": link.count(")") - link.count("("),
        "]": link.count("]") - link.count("["),
    }
    while (last := link[end - 1]) in ".,;:!?'*|" or surplus.get(last, 0) > 0:
        surplus[last] = surplus.get(last, 0) - 1
        end -= 1
    return LINK + match[0][end:]


def mend(text: str) -> str:
    """A text whose letters were decoded as those of another encoding, as they were meant:
    ``cafÃ©`` becomes ``café``. Any other text comes back as it is."""
    if text.isascii():
        return text
    # Its import takes a moment, which exports in ASCII alone are spared.
    import ftfy

    return ftfy.fix_encoding(text)


def readable(text: str) -> str:
    """A text on one line: runs of white space become a space, control characters go."""
    return " ".join(without_controls(text).replace("\ufeff", "").split())
