"""Models by hub id: what huggingface_hub fetches from a server that answers as the hub does."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback import running
from one_peace.checkpoints.registry import built_in_models
from one_peace.models import from_pretrained

pytest.importorskip("huggingface_hub")

NAME = "somebody/model"
COMMIT = "c" * 40
ASK = "import sys; from one_peace.checkpoints.registry import resolve; print(resolve(sys.argv[1]))"


class Hub(http.server.ThreadingHTTPServer):
    """Serves a folder as the repository `NAME`; `fetched` lists the files that were asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.fetched: set[str] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        files = self.server.files
        path = self.path.partition("?")[0].removeprefix("/")
        if path == f"api/models/{NAME}/revision/main":
            siblings = [{"rfilename": name} for name in files]  # what earlier versions of the client read
            self._answer_json({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings})
        elif path == f"api/models/{NAME}/tree/{COMMIT}":
            self._answer_json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
                    for name, content in files.items()
                ]
            )
        elif (name := path.removeprefix(f"{NAME}/resolve/{COMMIT}/")) in files:
            self.server.fetched.add(name)
            self._answer(files[name], {"ETag": f'"{_blob(files[name])}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    do_GET = do_HEAD

    def _answer_json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def _blob(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub(built_in_models()["one-peace-nano"])) as hub:
        yield hub


def ask(name: str, home: Path, hub: Hub) -> str:
    """The path of a model, or the error, of a fresh process: the client reads its settings when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(home),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
    }
    command = [sys.executable, "-c", ASK, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() if done.returncode == 0 else done.stderr


def test_model_comes_from_the_hub_once(hub: Hub, tmp_path: Path) -> None:
    found = ask(NAME, tmp_path / "home", hub)
    assert from_pretrained(found).fingerprint == from_pretrained("one-peace-nano").fingerprint
    parts = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}
    assert hub.fetched == parts < set(hub.files), "the files of a model, and no others"
    hub.fetched.clear()
    assert ask(NAME, tmp_path / "home", hub) == found and not hub.fetched


def test_model_that_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    assert re.search(r"DownloadError: somebody/else: no such path here.*404", ask("somebody/else", tmp_path, hub))
