"""Texts as people wrote them: links go, words stay, only broken letters are mended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boig_core.data.cells.texts import mask_links, mend, readable

L = "<hyperlink>"
GOOD_TEXTS = [
    "Ein Zelt für über 20 Grüße: größer, schöner, „süßer“ – und weiß wie Schnee…",
    "L’été dernier, à Noël, où ça ? « Très bien », dit-elle ; 50 € à Orléans.",
    "El niño comió jamón ibérico en Logroño. ¿Qué más? ¡Olé! Precio: 12 €",
    "AÇÃO, PROMOÇÃO E EMOÇÃO: NÃO PERCA! São Paulo é já amanhã.",
    "È più bello così, perché l’Italia è là. Città di Forlì",
    "Święta w Łodzi: zażółć gęślą jaźń, 5 zł",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Árvíztűrő tükörfúrógép – 3 000 Ft",
    "Şişli’de ılık bir gün, çok güzel: İstanbul’da değil mi?",
    "Съешь же ещё этих мягких французских булок, да выпей чаю — №1",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "נעים מאוד, שלום לכולם",
    "مرحبا بالعالم، كيف الحال؟ می‌خواهم",
    "秋の新作コートを全国の店舗で販売しています。軽くて暖かい素材！",
    "春节快乐！新品上市，全场八折～",
    "가을 신상 코트를 만나보세요 😊👩‍👩‍👧",
    "สวัสดีครับ ราคา ๑๒๓ บาท",
    "Smørrebrød på Ærø, Ångström & Øresund; Þór í Reykjavík",
    "naïve façade, coöperate, résumé © 2023 ® ™ ½ × ÷ ° ±",
]


@pytest.mark.parametrize("text", GOOD_TEXTS)
def test_a_good_text_is_never_altered(text: str) -> None:
    assert mend(text) == text
    assert mask_links(text) == text
    assert readable(text) == text


@pytest.mark.parametrize("text", GOOD_TEXTS)
def test_letters_that_meta_exports_decode_wrongly_are_mended(text: str) -> None:
    broken = text.encode().decode("latin-1")
    assert broken != text
    assert mend(broken) == text


def test_known_mojibake() -> None:
    assert mend("cafÃ©") == "café"
    assert mend("donâ€™t") == "don’t"


# Prose around a link, in scripts with spaces and without.
WORDS = st.sampled_from(["new", "秋の新作", "und", "さあ", "in Köln", "(neu)", "—", "😊", ""])


@pytest.mark.parametrize(
    "link",
    [
        "https://t.co/AbC123",
        "http://acme.com/x?y=1&z=2#top",
        "HTTPS://ACME.COM/X",
        "www.acme.co.uk/a_(b)",
        "pic.twitter.com/AbC123",
        "youtu.be/dQw4w9WgXcQ",
        "bit.ly/3xYz",
        "instagram.com/p/AbC_-1/",
        "https://acme.com",
        "https://müller.de/schön/weiß",
        "https://localhost:8000/a",
        "https://10.0.0.1/a.png",
        "https://spiegel.de/a,1518,b.html",
        "https://t.co/AbC\u2026",
    ],
)
@given(before=WORDS, after=WORDS)
def test_a_mask_takes_the_link_and_leaves_the_words(link: str, before: str, after: str) -> None:
    text = f"{before} {link} {after}"
    assert mask_links(text) == f"{before} {L} {after}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("新着 https://t.co/AbC123秋の新作", f"新着 {L}秋の新作"),
        ("https://t.co/x,und mehr", f"{L},und mehr"),
        ("https://acme.com/x,und mehr", f"{L},und mehr"),
        ("(https://acme.com/x).", f"({L})."),
        ("https://acme.com/가을에서", f"{L}가을에서"),
        ("see https://acme.com/x! Now", f"see {L}! Now"),
        ("see www.acme.com, now", f"see {L}, now"),
        ('<a href="https://acme.com/x">', f'<a href="{L}">'),
        ("[shop](https://acme.com/x) now", f"[shop]({L}) now"),
        ("https://acme.com。新作", f"{L}。新作"),
        ("newhttps://t.co/abc", f"new{L}"),
    ],
)
def test_where_a_link_ends(text: str, masked: str) -> None:
    assert mask_links(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "this and/or that",
        "Booking.com is new",
        "e.g./i.e. so",
        "me@acme.com/x",
        "1.2/3.4",
        "a://b",
        "Node.js/React",
        "24/7",
        "https:// alone",
    ],
)
def test_what_is_no_link_stays(text: str) -> None:
    assert mask_links(text) == text


def test_characters_that_no_one_sees() -> None:
    assert readable("a\x00b \x07c\ufeff\r\nd\u2028e") == "ab c d e"
    # They join emojis and part words of Persian.
    assert readable("👩\u200d👧 می\u200cخواهم") == "👩\u200d👧 می\u200cخواهم"


@pytest.mark.parametrize(
    "piece",
    [")", "(", ",", ",a", "a.", "www.", "https://", "https://a.b/", "Ã", "Ã©", "\u200b", "a"],
)
def test_no_text_takes_long(piece: str) -> None:
    """Of 65,536 characters, what looks at each of them from each takes minutes."""
    text = "https://a.com/" + piece * (65_000 // len(piece))
    assert L in mask_links(mend(text))
