"""
The loopback endpoint as an endpoint in trouble.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from gymcore.testing import LoopbackEndpoint, says, slow, status


def ask(endpoint: LoopbackEndpoint) -> int:
    """Ask once and return the status."""
    request = urllib.request.Request(f"{endpoint.base_url}/responses", json.dumps({"input": "Hi."}).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_answers_as_many_at_once_as_it_has_capacity_for() -> None:
    """
    Of six requests at once three are answered and three throttled; afterwards there is room again.
    """
    with LoopbackEndpoint(slow(0.5, says("Hi.")), capacity=3) as endpoint, ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(lambda _: ask(endpoint), range(6)))

        assert answers == [200] * 3 + [429] * 3
        assert ask(endpoint) == 200


def test_refuses_connections_during_an_outage_and_comes_back_at_the_same_address() -> None:
    """
    While it is down nobody listens; afterwards it answers as before.
    """
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        assert ask(endpoint) == 200
        with endpoint.outage(), pytest.raises(urllib.error.URLError, match="refused"):
            ask(endpoint)
        assert ask(endpoint) == 200

    assert len(endpoint.requests) == 2


def test_gives_everybody_the_same_answer_during_an_outage_of_that_kind() -> None:
    """
    A gateway with nothing behind it is asked, counts, and answers 503.
    """
    with LoopbackEndpoint(says("Hi.")) as endpoint:
        with endpoint.outage(status(503)):
            assert ask(endpoint) == 503
        assert ask(endpoint) == 200

    assert len(endpoint.requests) == 2
