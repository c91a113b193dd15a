"""
What messages may not show, in whichever form it comes back.
"""

import html
import json
from urllib.parse import quote

import pytest
from gym_plugin_openai_model.mask import Mask, secrets_in_query
from hypothesis import example, given, settings
from hypothesis import strategies as some

KEY = 'sk-"SECRET"/0123+456\\789&'


@pytest.mark.parametrize(
    "write",
    [str, json.dumps, lambda key: json.dumps(json.dumps(key)), html.escape, quote, lambda key: quote(key, safe="")],
    ids=["plain", "JSON", "JSON in JSON", "HTML", "URL", "URL without slashes"],
)
def test_finds_a_key_however_it_is_written(write):
    """
    A key is masked plain and escaped.
    """
    shown = Mask([KEY]).over(f"you sent {write(KEY)}!", 1000)

    assert "SECRET" not in shown
    assert "789" not in shown
    assert shown.startswith("you sent ")


@pytest.mark.parametrize(
    ("secret", "returned"),
    [
        ("Bearer sk-SECRET", "key sk-SECRET"),
        ("Basic c2VjcmV0OlNFQ1JFVA==", "c2VjcmV0OlNFQ1JFVA is wrong"),
        ("session=SECRET; theme=dark", "session SECRET has expired"),
        ('session="SECRET"', "session SECRET has expired"),
        ("SECRET-one two", "SECRET-one"),
        ("one,SECRET-two", "SECRET-two"),
    ],
)
def test_finds_every_word_of_a_secret(secret, returned):
    """
    A server that takes a header apart may send any part of it back.
    """
    shown = Mask([secret]).over(returned, 1000)

    assert "SECRET" not in shown
    assert "c2V" not in shown
    assert "***" in shown


def test_leaves_the_rest_of_a_message_alone():
    """
    Names of schemes and cookies, and parts of a few letters, stay readable.
    """
    text = "Bearer or Basic? The session of v1 has no id: 401"

    assert Mask(["Bearer sk-SECRET", "Basic x", "session=abcdef; v=1; id=no"]).over(text, 1000) == text
    assert Mask([""]).over(text, 1000) == Mask([]).over(text, 1000) == text


@example(before=0, repeats=2, length=9, after=0)
@settings(deadline=None)
@given(
    before=some.integers(0, 300), repeats=some.integers(0, 5), length=some.integers(1, 100), after=some.integers(0, 300)
)
def test_a_cut_leaves_no_half_of_a_secret(before, repeats, length, after):
    """
    Wherever a text is cut, no beginning of a secret is left, and what is wanted of a text without secrets is there.
    """
    secret = "sk-0123456789abcdef"
    text = " " * before + secret * repeats + " " * after
    mask = Mask([secret])

    for shown in (mask.over(text, length), mask.over_utf8(text.encode(), length)):
        assert "s" not in shown
        if not repeats:
            assert len(shown) >= min(length, len(text))


def test_looks_only_at_what_may_be_shown():
    """
    Of a reply of hundreds of megabytes no more is decoded and searched than a message can hold.
    """
    assert len(Mask(["SECRET"]).over_utf8("ä".encode() * 10_000_000, 80)) <= 200


def test_values_of_a_query_are_secrets_but_for_a_version():
    """
    A key in a base URL is secret as it is written and as it is meant; a version is what readers of errors look for.
    """
    url = "https://host/v1?api-version=2024-02-01&key=SECRET%2Bone&n=1&token=SECRET+two&empty="

    assert set(secrets_in_query(url)) == {"SECRET%2Bone", "SECRET+one", "SECRET+two", "SECRET two"}
    assert list(secrets_in_query("https://host/v1")) == []
