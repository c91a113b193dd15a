"""
What the scripts that write a page of the reference share: its sentences, and writing it or comparing it.
"""

import argparse
import re
import sys
from pathlib import Path

REFERENCE = Path(__file__).parent / "reference"


def sentences(text: str) -> str:
    """
    Return a text with a line for each sentence.
    """
    return re.sub(r"(?<=[a-z0-9)`*:\"\]][.;]) (?=[A-Z`])", "\n", text)


def write_or_compare(name: str, text: str) -> int:
    """
    Write a page of the reference, or with `--check` compare it with the one that is there; return the exit code.
    """
    page = REFERENCE / name
    parser = argparse.ArgumentParser(description=f"Write docs/reference/{name}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page differs")
    if not parser.parse_args().check:
        page.write_text(text, encoding="utf-8")
        return 0
    if page.is_file() and page.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{page} is not what docs/{Path(sys.argv[0]).name} would write; run it again\n")
    return 1
