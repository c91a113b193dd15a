"""
What the processes of a virtual environment see of the environment variables.
"""

from __future__ import annotations

from pathlib import Path

from gymcore.interpreters.clean_environ import environ_of_installers, environ_of_interpreter

HERE = {
    "PATH": "/usr/bin",
    "HOME": "/home/me",
    "PYTHONPATH": "/mine",
    "PYTHONHASHSEED": "0",
    "VIRTUAL_ENV": "/mine/.venv",
    "PIP_INDEX_URL": "https://me:password@index.example/simple",
    "PIP_TARGET": "/elsewhere",
    "UV_PYTHON": "3.9",
    "HTTPS_PROXY": "http://proxy.example",
    "https_proxy": "http://proxy.example",
    "POLICY_API_KEY": "sk-1",
    "HF_TOKEN": "hf-1",
}


def test_an_interpreter_sees_its_own_place_and_no_key() -> None:
    """
    Its folder comes first on PATH, and nothing of this interpreter is in its way.
    """
    assert environ_of_interpreter(Path("/cache/venv/bin/python"), HERE, ("HF_TOKEN",)) == {
        "PATH": "/cache/venv/bin:/usr/bin",
        "HOME": "/home/me",
        "PYTHONHASHSEED": "0",
        "VIRTUAL_ENV": "/cache/venv",
        "HF_TOKEN": "hf-1",
    }


def test_an_installer_sees_its_index_and_its_proxy_and_no_other_key() -> None:
    """
    What would have it install elsewhere is left out.
    """
    assert environ_of_installers(HERE) == {
        "PATH": "/usr/bin",
        "HOME": "/home/me",
        "PYTHONHASHSEED": "0",
        "PIP_INDEX_URL": "https://me:password@index.example/simple",
        "HTTPS_PROXY": "http://proxy.example",
        "https_proxy": "http://proxy.example",
    }
