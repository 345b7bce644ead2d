import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.captions.checks import check, clean, same


@pytest.mark.parametrize(
    "text",
    [
        "a red circle",
        "一只黑猫坐在窗台上",
        "قطة حمراء على السجادة",
        "می‌خواهم یک گربه",  # needs its zero-width non-joiner
        "👩‍👩‍👧 on the beach",  # needs its zero-width joiners
        "🐈",
        "3 dogs",
        "the logo of www.example.org on a wall",
    ],
)
def test_captions_of_any_script_pass_unchanged(text):
    assert check(text) == (unicodedata.normalize("NFC", text), None)


@pytest.mark.parametrize(
    ("dirty", "tidy"),
    [
        ("a\x00 b\x07c", "a bc"),
        ("  two\t\n words\u3000here ", "two words here"),
        ("\ufeffstart", "start"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("sa\u00adfe \u202egnp.exe\u202c", "safe gnp.exe"),
        ("lone \ud800 surrogate", "lone surrogate"),
    ],
)
def test_what_is_removed(dirty, tidy):
    assert check(dirty) == (tidy, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "empty"),
        (" \n\u200b", "empty"),
        ("x" * 301, "longer than 300 characters"),
        ("one two three " * 20 + "word", "more than 60 words"),
        ("123 456!", "no letters"),
        ("...", "no letters"),
        ("https://example.org/cat.jpg", "a web address, not a text"),
        ("someone@example.org", "a web address, not a text"),
        ("IMG_1234.JPG", "a file name, not a text"),
        ("DSC01234", "a file name, not a text"),
        ("caf\ufffd au lait", "characters lost in decoding"),
    ],
)
def test_what_is_refused(text, reason):
    assert check(text)[1] == reason


def test_limits_are_inclusive():
    assert check("ab cd", max_chars=5, max_words=2)[1] is None
    assert check("ab cd", max_chars=4)[1] == "longer than 4 characters"
    assert check("ab cd", max_words=1)[1] == "more than 1 words"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_cleaning_twice_is_cleaning_once_and_leaves_nothing_invisible(text):
    tidy = clean(text)
    assert clean(tidy) == tidy
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in tidy)
    assert tidy == tidy.strip()
    assert "  " not in tidy


def test_same():
    assert same("A red circle.") == same("a Red circle")
    assert same("a red circle") != same("a red circles")
