"""
A model that says too much, and one that never answers: neither shows its key, and each is over in time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from pydantic import SecretStr

from gymcore import Model
from gymcore.composition.configuration import Options
from gymcore.composition.routes import ModelChoice
from gymcore.discovery import Plugin
from gymcore.doctor.endpoint import ask
from gymcore.errors import EndpointError
from gymcore.interfaces import Config, RolloutContext, option
from gymcore.responses import Request, Response

KEY = "sk-0123456789"


class Key(Config):
    api_key: SecretStr = SecretStr(KEY)
    headers: dict[str, SecretStr] = option({"x": SecretStr("of-a-header")})


class Blabs(Model[Key]):
    """Refuses everything, and shows its key."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        raise EndpointError(f"the key {KEY} is not known", where=f"http://x?key={KEY}", hints=["of-a-header, too"])


class Breaks(Model[Key]):
    """Has a mistake."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        raise KeyError(KEY)


class Sleeps(Model[Key]):
    """Is patient."""

    async def respond(self, request: Request, rollout: RolloutContext) -> Response:
        with suppress(EndpointError):
            await asyncio.sleep(3600)
        raise AssertionError

    def status(self) -> str:
        return f"waiting, with {KEY}"


@pytest.mark.parametrize(
    ("model", "found", "remark"),
    [
        (Blabs, "the key *** is not known", "***, too"),
        (Breaks, "raised KeyError: '***'", "try: pip install --force-reinstall mine; or tell its author"),
        (Sleeps, "gave no answer within 0.1 s", "waiting, with ***"),
    ],
)
def test_what_goes_wrong_is_told_without_the_key(model: type[Model[Key]], found: str, remark: str) -> None:
    """
    Whatever a plugin says of it, and however long it would wait.
    """
    choice = ModelChoice("policy", Plugin("model", "mine", "mine", "1", "mine:Mine"), model, Options(Key(), {}, {}))

    check = ask(choice, 0.1)

    assert (check.is_well, check.found) == (False, f"model 'policy' (mine) {found}")
    assert remark in check.remarks
    assert KEY not in str(check)
