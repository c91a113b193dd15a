"""
What of a row counts as what its model is told, and what counts it.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gymcore.composition import Composition, compose, open_composition, write_composition
from gymcore.composition.locking.locked import plan_of, refuse_what_moved
from gymcore.composition.tokens import prompt_text, token_counter
from gymcore.discovery import Catalog
from gymcore.documents import YamlDocument
from gymcore.errors import PlanError, RunFolderError
from gymcore.plan import Plan

Compose = Callable[..., Composition]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"input": "one two"}, 2),
        ({"instructions": "be very brief", "input": "one two"}, 5),
        ({"instructions": None, "input": [{"role": "user", "content": "one"}]}, 1),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}]}, 2),
        ({"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": '{"a": "b c"}'}]}, 3),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "one two three"}]}, 3),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_text", "text": "a b"}]}]}, 2),
        ({"input": [{"type": "reasoning", "summary": []}, {"type": "item_reference", "id": "x"}]}, 0),
        ({"input": []}, 0),
    ],
)
def test_all_that_a_model_is_told_is_counted(params: dict[str, Any], words: int) -> None:
    """
    Instructions, messages, earlier calls and what came of them; a part that is no text counts nothing.
    """
    assert token_counter("words", "here")(prompt_text(params)) == words


def write_tokenizer(path: Path, *words: str) -> Path:
    """Write a `tokenizer.json` to which a few words are tokens, and all others are letter by letter."""
    models = pytest.importorskip("tokenizers.models", reason="needs gymcore[tokenizers]")
    from tokenizers import Tokenizer, pre_tokenizers

    pieces = ["[UNK]", *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *words]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_counts_as_it_says(tmp_path: Path) -> None:
    """
    What it knows is one token, and everything else is as many as it makes of it.
    """
    path = write_tokenizer(tmp_path / "tokenizer.json", "hello")

    count = token_counter(str(path), "here")

    assert [count(text) for text in ("hello hello", "hello abc", "")] == [2, 4, 0]
    assert count.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": 1}', None])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """
    The message says where it was asked for, and which file it is; nothing but what is meant counts tokens.
    """
    pytest.importorskip("tokenizers", reason="needs gymcore[tokenizers]")
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(PlanError) as caught:
        token_counter(str(path), "plan.yaml: mix.tokenizer")

    assert "plan.yaml: mix.tokenizer" in str(caught.value)
    assert str(path) in str(caught.value)


def _by_tokens(tokenizer: Path) -> dict[str, Any]:
    return {
        "environments": {"echo": {"split": "train", "weight": 1}, "shout": {"weight": 1}},
        "mix": {"size": 60, "weight_by": "tokens", "tokenizer": str(tokenizer)},
    }


def test_a_lock_knows_the_tokenizer_by_its_content(composed: Compose, tmp_path: Path) -> None:
    """
    Another file of the same content gives the same dataset; one that counts otherwise is told, and refused.
    """
    first = composed(_by_tokens(write_tokenizer(tmp_path / "first.json", "say")))
    same = composed(_by_tokens(write_tokenizer(tmp_path / "same.json", "say")))
    other = composed(_by_tokens(write_tokenizer(tmp_path / "other.json")))

    assert first.dataset.sha256() == same.dataset.sha256()
    [told] = refuse_what_moved(same, first.lock, Path("gym.lock"))
    assert told.startswith(f"mix: tokenizer {tmp_path}"[:60])
    with pytest.raises(RunFolderError) as caught:
        refuse_what_moved(other, first.lock, Path("gym.lock"))
    assert any(line.startswith("mix: tokenizer_sha256 ") for line in caught.value.differences)


def test_a_lock_alone_is_enough_where_a_tokenizer_counted(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    The plan that it tells of is one, and becomes the same.
    """
    first = composed(_by_tokens(write_tokenizer(tmp_path / "first.json", "say")))

    again = compose(Plan.from_document(YamlDocument(plan_of(first.lock))), catalog, environ={})

    assert again.lock == first.lock


def test_a_folder_is_played_without_its_tokenizer(composed: Compose, catalog: Catalog, tmp_path: Path) -> None:
    """
    What it has counted is in the order of the rows, which are there; composing needs it again.
    """
    path = write_tokenizer(tmp_path / "first.json", "say")
    first = composed(_by_tokens(path))
    write_composition(first, tmp_path / "run")
    path.unlink()

    assert open_composition(tmp_path / "run", catalog, environ={}).lock == first.lock
    with pytest.raises(PlanError, match="there is no tokenizer"):
        composed(_by_tokens(path))
