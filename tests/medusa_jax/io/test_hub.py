"""Tests medusa_jax/io/hub.py with the real client: against a hub served here, and against none."""

import errno
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medusa_jax.errors import UserError
from medusa_jax.io.heads.load import find_heads, resolve_heads
from medusa_jax.io.hub import resolve, resolve_config

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMON = ["config.json", "tokenizer.json", "chat_template.jinja", "README.md", "evals/big.json"]
REPOS = {
    "org/safe": [
        *COMMON,
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "medusa_lm_head.pt",
    ],
    "org/bin-only": [*COMMON, "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
    "org/heads": ["config.json", "medusa_lm_head.pt", "README.md"],
    "org/export": [
        *("config.json", "medusa_lm_head.safetensors", "acceptance.json", "log.txt"),
        *("backbone/config.json", "backbone/model.safetensors", "backbone/tokenizer.json"),
    ],
    "org/gguf": ["README.md", "model-Q4.gguf", "model-Q8.gguf"],
    "org/gated": ["config.json", "model.safetensors"],
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The few routes of the Hugging Face hub that a download takes."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.respond()

    def do_GET(self):
        self.respond()

    def respond(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        if repo not in REPOS:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif is_api and "tree" in parts:
            self.send_json([self.entry(name) for name in REPOS[repo]])
        elif is_api:
            siblings = [{"rfilename": name} for name in REPOS[repo]]
            self.send_json({"id": repo, "sha": SHA, "siblings": siblings})
        elif repo == "org/gated":
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            name = "/".join(parts[4:])
            etag = {"ETag": f'"{self.entry(name)["oid"]}"', "X-Repo-Commit": SHA}
            self.send(200, name.encode(), etag)

    @staticmethod
    def entry(name: str) -> dict:
        """As the tree lists it; every file's content is its name."""
        oid = hashlib.sha1(name.encode()).hexdigest()
        return {"type": "file", "path": name, "size": len(name), "oid": oid}

    def send_json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub():
    """Address of a running hub; stopped at the end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


RESOLVE = """
import sys
from medusa_jax.errors import UserError
from medusa_jax.io.heads.load import resolve_heads
from medusa_jax.io.hub import resolve
for reference in sys.argv[1:]:
    is_heads = reference.startswith("heads:")
    try:
        print((resolve_heads if is_heads else resolve)(reference.removeprefix("heads:")))
    except UserError as error:
        print(f"UserError: {error}")
"""


def resolve_with(home: Path, endpoint: str, *references: str, **environment: str) -> list[str]:
    """One line of output for each reference, from a process with its own hub and cache."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", RESOLVE, *references],
        env=os.environ | settings | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == len(references), run.stdout
    assert "Traceback" not in run.stderr
    return lines


def contents(folder: str) -> set[str]:
    files = {path for path in Path(folder).rglob("*") if path.is_file()}
    names = {str(path.relative_to(folder)) for path in files}
    assert all((Path(folder) / name).read_text() == name for name in names)
    return names


def test_downloads_only_what_is_read(tmp_path, hub):
    safe, bin_only, heads = resolve_with(tmp_path, hub, "org/safe", "org/bin-only", "org/heads")
    text = {"config.json", "tokenizer.json", "chat_template.jinja"}
    assert contents(safe) == text | {
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "medusa_lm_head.pt",
    }
    assert contents(bin_only) == text | {
        "pytorch_model-00001-of-00001.bin",
        "pytorch_model.bin.index.json",
    }
    assert contents(heads) == {"config.json", "medusa_lm_head.pt"}

    nowhere = "http://127.0.0.1:9"
    references = ("org/safe", "org/bin-only", "org/heads")
    assert resolve_with(tmp_path, nowhere, *references) == [safe, bin_only, heads]
    assert resolve_with(tmp_path, hub, *references, HF_HUB_OFFLINE="1") == [safe, bin_only, heads]


def test_exported_heads_and_the_model_beside_them(tmp_path, hub):
    (heads,) = resolve_with(tmp_path, hub, "heads:org/export")
    own = {"config.json", "medusa_lm_head.safetensors", "acceptance.json"}
    assert contents(heads) == own
    model, again = resolve_with(tmp_path, hub, "org/export", "heads:org/export")
    assert (model, again) == (f"{heads}/backbone", heads)
    names = {str(path.relative_to(heads)) for path in Path(heads).rglob("*") if path.is_file()}
    files = {"config.json", "model.safetensors", "tokenizer.json"}
    assert names == own | {f"backbone/{name}" for name in files}
    offline = resolve_with(tmp_path, hub, "org/export", "heads:org/export", HF_HUB_OFFLINE="1")
    assert offline == [model, heads]


def test_a_repository_of_gguf_files(tmp_path, hub):
    (line,) = resolve_with(tmp_path, hub, "org/gguf")
    assert line.startswith("UserError: org/gguf holds GGUF files only: download one (hf download ")
    assert "org/gguf model-Q4.gguf) and pass its path" in line


@pytest.mark.parametrize("kind", [{}, {"model_type": "medusa"}])
def test_the_config_of_heads_with_a_backbone_is_the_backbones(tmp_path, monkeypatch, kind):
    """Of all formats: vLLM's names a type of its own."""
    for name, content in {"config.json": kind, "backbone/config.json": {"model_type": "x"}}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"medusa_num_heads": 2} | content))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **__: tmp_path / name)
    assert resolve_config("org/heads-with-backbone") == tmp_path / "backbone" / "config.json"


def test_unknown_and_gated(tmp_path, hub):
    unknown, gated = resolve_with(tmp_path, hub, "org/unknown", "org/gated")
    assert unknown.startswith("UserError: there is no folder org/unknown here")
    assert gated.startswith("UserError: ")
    assert "org/gated" in gated
    assert "licence" in gated


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_no_hub_and_no_cache(tmp_path, environment):
    start = time.monotonic()
    (line,) = resolve_with(tmp_path, "http://127.0.0.1:9", "org/safe", **environment)
    assert time.monotonic() - start < 20
    assert line.startswith("UserError: there is no folder org/safe here")
    assert "cannot provide it" in line


def test_the_real_hub_knows_no_such_model_or_is_out_of_reach():
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no folder medusa-jax-tests/does-not-exist-\d+ here"):
        resolve("medusa-jax-tests/does-not-exist-7156")
    assert time.monotonic() - start < 30


def test_local_paths(tmp_path, monkeypatch):
    assert resolve(str(tmp_path)) == tmp_path
    gguf = tmp_path / "model.Q8_0.GGUF"
    gguf.touch()
    assert resolve(str(gguf)) == gguf
    # A folder wins over a hub repository of the same name.
    (tmp_path / "org" / "safe").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/safe") == Path("org/safe")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/org/safe") == tmp_path / "org" / "safe"


@pytest.mark.parametrize(
    "reference",
    ["", "no-such-model", "./no/such", "/no/such", "a/b/c", "org/model.gguf", "../x", "org/a..b"],
)
def test_paths_that_do_not_exist(reference):
    with pytest.raises(UserError, match="does not exist") as error:
        resolve(reference)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("look", [resolve, resolve_config, resolve_heads, find_heads])
def test_what_cannot_be_looked_at(monkeypatch, tmp_path, look):
    """Such as somebody else's folder."""

    def refuse(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("is_dir", "is_file", "exists"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(UserError, match=r"cannot look at .* denied.*: name a path that you may"):
        look(str(tmp_path))


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "weights.zip"
    path.touch()
    with pytest.raises(UserError, match=r"neither a model folder nor a \.gguf file"):
        resolve(str(path))
