"""
What another process may see of the environment variables of this one: where things are, how they are spelt, and no key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["allowed_environ", "environ_of_installers", "environ_of_interpreter"]

_ALLOWED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|TMPDIR|TEMP|TMP|VIRTUAL_ENV|CONDA_PREFIX"
    r"|PYTHON\w*|LD_LIBRARY_PATH|DYLD_\w+|CUDA_\w+|NVIDIA_\w+|ROCR_\w+|HIP_\w+|OMP_\w+|MKL_\w+|OPENBLAS_\w+"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|XDG_\w+|HF_HOME|NLTK_DATA|SYSTEMROOT"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_OF_THIS_INTERPRETER = re.compile(r"PYTHON(PATH|HOME|STARTUP|EXECUTABLE|USERBASE|PLATLIBDIR)|VIRTUAL_ENV|CONDA_PREFIX")
_OF_INSTALLERS = re.compile(
    r"PIP_\w+|UV_\w+|NETRC|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_\w+|SSH_AUTH_SOCK|(HTTP|HTTPS|ALL|NO|FTP)_PROXY",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"PIP_(TARGET|PREFIX|ROOT|USER|PYTHON|REQUIREMENT|DRY_RUN|REPORT|LOG)|UV_(PYTHON|SYSTEM_PYTHON|PROJECT\w*)"
)
"""What would have an installer put things somewhere else, or install something else."""


def allowed_environ(environ: Mapping[str, str], named: tuple[str, ...] = ()) -> dict[str, str]:
    """
    Return what a process of a plugin may see of the process environment.

    Args:
        environ: The environment of this process.
        named: Variables that the plan lets through by name.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in named or (_ALLOWED.fullmatch(name) and not _SECRET.search(name))
    }


def environ_of_interpreter(python: Path, environ: Mapping[str, str], named: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the same for the interpreter of a virtual environment, where nothing of this one is in its way."""
    allowed = allowed_environ(environ, named)
    kept = {name: value for name, value in allowed.items() if name in named or not _OF_THIS_INTERPRETER.fullmatch(name)}
    path = ":".join(part for part in (str(python.parent), kept.get("PATH", "")) if part)
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(python.parent.parent)}


def environ_of_installers(environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return the same for pip and uv: also what they are told by variables, which may hold the password of an index.

    What builds a package sees it too, as always; the keys of models and of anything else it does not see.
    """
    allowed = {
        name: value for name, value in allowed_environ(environ).items() if not _OF_THIS_INTERPRETER.fullmatch(name)
    }
    own = {
        name: value
        for name, value in environ.items()
        if _OF_INSTALLERS.fullmatch(name) and not _ELSEWHERE.fullmatch(name)
    }
    return {**allowed, **own}
