"""
A Python with a package of the name nemo_gym: as much of one as hosting asks for, and servers that do as they are told.

The interpreter is a real one, and so are the processes, the Unix socket and the HTTP server.
"""

from __future__ import annotations

import json
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["FakeNemoGym"]

_CONFIG_TYPES = """
from pydantic import BaseModel

class BaseServerConfig(BaseModel):
    host: str
    port: int
"""
_SERVER_UTILS = """
import os, sys
import yaml
from pydantic import BaseModel, ConfigDict

# What Hydra would do: read the command line of whoever has not said what the configuration is.
assert os.environ.get("NEMO_GYM_CONFIG_DICT"), f"Hydra would read {sys.argv}"
GLOBAL = yaml.safe_load(os.environ["NEMO_GYM_CONFIG_DICT"])
print("nemo_gym is imported, and says so on stdout")

class ServerClient(BaseModel):
    head_server_config: object
    global_config_dict: dict

class Config(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    host: str
    port: int
    entrypoint: str
    domain: str
"""
_OMEGACONF = """
import yaml

def _merged(one, other):
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    return {**one, **{key: _merged(one.get(key), value) for key, value in other.items()}}

class OmegaConf:
    @staticmethod
    def load(path):
        with open(path) as file:
            return yaml.safe_load(file)

    @staticmethod
    def create(value):
        return value

    @staticmethod
    def merge(*values):
        merged = {}
        for value in values:
            merged = _merged(merged, value)
        return merged

    @staticmethod
    def to_container(value, resolve):
        if resolve and "${" in str(value):
            raise LookupError("Interpolation key 'somewhere' not found")
        return value
"""
COUNTER = """
import json, os, subprocess, sys, tempfile
from contextlib import asynccontextmanager
from nemo_gym.server_utils import GLOBAL, Config
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

class Counter(BaseModel):
    config: Config
    server_client: object

    @classmethod
    def run_webserver(cls):
        raise AssertionError("this is not how it is hosted")

    def setup_webserver(self):
        self._state = {}
        return Starlette(
            lifespan=self.lifespan,
            routes=[
                Route("/seed_session", self.seed, methods=["POST"]),
                Route("/verify", self.verify, methods=["POST"]),
                Route("/{tool}", self.tool, methods=["POST"]),
            ],
        )

    def setup_exception_middleware(self, app):
        async def answer(request, error):
            return JSONResponse(repr(error), status_code=500)
        app.add_exception_handler(Exception, answer)

    @asynccontextmanager
    async def lifespan(self, app):
        if getattr(self.config, "lifespan", "") == "fails":
            raise RuntimeError("the lifespan cannot begin")
        Path = __import__("pathlib").Path
        if note := getattr(self.config, "note", None):
            Path(note).write_text("open")
        yield
        if note:
            Path(note).write_text("closed")

    async def seed(self, request):
        row = await request.json()
        session = str(len(self._state))
        self._state[session] = row.get("start", 0)
        reply = JSONResponse({})
        reply.set_cookie("session", session)
        return reply

    async def tool(self, request):
        name, arguments = request.path_params["tool"], await request.json()
        if name == "add":
            self._state[request.cookies["session"]] += arguments["n"]
            return PlainTextResponse("added")
        if name == "die":
            print("these are the last words", file=sys.stderr, flush=True)
            os._exit(7)
        if name == "flood":
            for _ in range(200):
                sys.stdout.write("x" * 100_000)
            print("after the flood", flush=True)
            return PlainTextResponse("flooded")
        if name == "about":
            child = subprocess.Popen(["sleep", "600"])
            about = {"pids": [os.getpid(), child.pid], "cwd": os.getcwd(), "environ": dict(os.environ)}
            about["kept"] = tempfile.mkdtemp()
            return JSONResponse({**about, "global": GLOBAL, "config": self.config.model_dump(), "argv": sys.argv})
        return JSONResponse({"detail": "Not Found"}, status_code=404)

    async def verify(self, request):
        row = await request.json()
        if row.get("crash"):
            raise KeyError("synonym_values")
        total = self._state[request.cookies["session"]]
        return JSONResponse({"reward": float(total == row.get("goal")), "total": total})

if __name__ == "__main__":
    Counter.run_webserver()
"""
GUESSING = (
    COUNTER.replace('Route("/seed_session", self.seed', 'Route("/reset", self.reset').replace(
        'Route("/verify", self.verify', 'Route("/step", self.step'
    )
    + """
async def _reset(self, request):
    row = await request.json()
    self._state["steps"] = 0
    return JSONResponse({"observation": row.get("first"), "info": {}})

async def _step(self, request):
    row = await request.json()
    self._state["steps"] += 1
    text = "".join(part["text"] for item in row["response"]["output"] for part in item["content"])
    if text == row["goal"]:
        info = {"guess": text, "seen": [text]}
        return JSONResponse({"observation": None, "reward": 1.0, "terminated": True, "info": info})
    return JSONResponse({"observation": f"not {text}" if text != "mute" else None, "reward": -0.25, "info": {}})

Counter.reset, Counter.step = _reset, _step
"""
)
YAML = """
{instance}:
  resources_servers:
    {name}:
      entrypoint: app.py
      domain: agent
      description: Counts.
{instance}_{agent}:
  responses_api_agents:
    {agent}:
      entrypoint: app.py
      resources_server: {{type: resources_servers, name: {instance}}}
      model_server: {{type: responses_api_models, name: policy_model}}
      max_steps: 3
      datasets:
      - {{name: example, type: example, jsonl_fpath: resources_servers/{name}/data/example.jsonl}}
      - {{name: train, type: train, jsonl_fpath: resources_servers/{name}/data/train.jsonl}}
"""
ROWS = [
    {"responses_create_params": {"input": f"Count to {goal}."}, "start": 0, "goal": goal, "unread": {"kept": True}}
    for goal in (1, 2)
]


class FakeNemoGym:
    """
    A virtual environment with such a package.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        packages = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
        ours = sysconfig.get_path("purelib")
        packages.joinpath("fake.pth").write_text(f"{self.site}\nimport site; site.addsitedir({ours!r})\n")
        texts = {"__init__": "", "config_types": _CONFIG_TYPES, "server_utils": _SERVER_UTILS}
        for name, text in texts.items():
            self.write(f"nemo_gym/{name}.py", text)
        self.write("omegaconf.py", _OMEGACONF)
        self.add("counter", COUNTER)

    def write(self, path: str, text: str) -> None:
        """Write a file of the packages."""
        file = self.site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def add(
        self,
        name: str,
        code: str,
        *,
        agent: str = "simple_agent",
        rows: list[dict[str, Any]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a resources server, whose YAML says `more` of it."""
        text = YAML.format(instance=f"{name}_instance", name=name, agent=agent)
        for key, value in (more or {}).items():
            text = text.replace("description: Counts.", f"description: Counts.\n      {key}: {json.dumps(value)}")
        folder = f"resources_servers/{name}"
        self.write(f"{folder}/app.py", code)
        self.write(f"{folder}/configs/{name}.yaml", text)
        self.write(f"{folder}/data/example.jsonl", "".join(json.dumps(row) + "\n" for row in rows or ROWS))
