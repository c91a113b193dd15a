"""
What plugins print is shown up to a bound, and then never again.
"""

from __future__ import annotations

import io
import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from gymcore.cli.talk import Talk, talk_shown

NOTICE = "(plugins have printed 10 characters; what they print from here on is not shown)"


@given(st.lists(st.text(alphabet="ab\n", max_size=8)))
def test_shows_the_first_characters_and_says_once_that_there_are_more(texts: list[str]) -> None:
    """
    However what is printed is cut into pieces; who prints never learns of it.
    """
    out = io.StringIO()
    talk = Talk(out, 10)

    assert [talk.write(text) for text in texts] == [len(text) for text in texts]

    whole = "".join(texts)
    assert out.getvalue() == (whole if len(whole) < 10 else f"{whole[:10]}\n{NOTICE}\n")


def test_everything_inside_goes_to_one_place_from_any_thread() -> None:
    """
    stdout, stderr and threads share one bound; afterwards both are what they were.
    """
    before, out = (sys.stdout, sys.stderr), io.StringIO()
    with talk_shown(out, 1000):
        threads = [threading.Thread(target=print, args=("x" * 99,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("y" * 99, file=sys.stderr)

    assert out.getvalue().count("x") == 990
    assert out.getvalue().count("what they print from here on is not shown") == 1
    assert "y" not in out.getvalue().partition("(")[0]
    assert (sys.stdout, sys.stderr) == before


def test_looks_like_the_stream_behind_it() -> None:
    """
    A library may ask for the encoding, or whether this is a terminal.
    """
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    talk = Talk(out)
    talk.writelines(iter(["a", "b"]))
    talk.flush()

    assert talk.encoding == "ascii"
    assert not talk.isatty()
    assert talk.buffer.getvalue() == b"ab"
