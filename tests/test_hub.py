"""Checkpoints named by their id on the hub: out of the hub's cache, and from a server that answers as the hub does."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from checkpoints import SMALL_VOCABULARY, make_checkpoint
from memrerank import Reranker
from memrerank.manifest import read_manifest
from memrerank_export.errors import CheckpointError
from memrerank_export.hub import find_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DESCRIPTION = {"config.json", "tokenizer.json", "modules.json", "1_LogitScore/config.json"}
NEVER_FETCHED = (
    "README.md",
    "generation_config.json",
    "model.onnx",
    "modeling_reranker.py",
    "onnx/model.onnx",
    "original/consolidated.safetensors",
    "original/model.safetensors",
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "training_args.bin",
)
REMEDY = "copy its folder here and give that folder"

SEPARATOR = "\x1e"
RUN_ALL = f"""
import json, sys
from memrerank_export.cli import main
for arguments in json.loads(sys.argv[1]):
    print(end=f"{SEPARATOR}{{main(arguments)}}{SEPARATOR}")
    print(end="{SEPARATOR}", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint that declares its score tokens; not to be written to."""
    folder = tmp_path_factory.mktemp("hub") / "whole"
    return make_checkpoint(folder, layers=1, vocab=SMALL_VOCABULARY, logit_score=(5, 6))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint in several files; not to be written to."""
    folder = tmp_path_factory.mktemp("hub") / "sharded"
    return make_checkpoint(folder, layers=1, vocab=SMALL_VOCABULARY, shard_size="50KB")


@pytest.fixture
def cache(checkpoint: Path, tmp_path: Path) -> Path:
    """The hub's cache with `checkpoint` as org/reranker, and its small files alone as org/described."""
    for name, ignored in (("reranker", []), ("described", ["*.safetensors"])):
        folder = tmp_path / "hub" / f"models--org--{name}"
        shutil.copytree(checkpoint, folder / "snapshots" / COMMIT, ignore=shutil.ignore_patterns(*ignored))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


# A server that answers as the hub does


class Hub(ThreadingHTTPServer):
    """Serves files of repositories at one commit, which the branch main and the tag v1 name."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]], gated: str) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories = repositories
        self.gated = gated
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, name: str) -> set[str]:
        """The files of a repository that were asked for."""
        start = f"/{name}/resolve/{COMMIT}/"
        return {path.removeprefix(start) for path in self.asked if path.startswith(start)}


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        name, kind, revision, file = self._parse(path)
        files = self.server.repositories.get(name)
        if name == "org/private":  # or one that is not there, to whoever is not logged in
            self._send(401, **{"X-Error-Message": "Invalid username or password."})
        elif files is None:
            self._send(404, **{"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", "v1", COMMIT):
            self._send(404, **{"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        elif kind == "revision":
            listed = [{"rfilename": file} for file in files]
            self._send_json({"id": name, "sha": COMMIT, "siblings": listed})
        elif kind == "tree":
            self._send_json([{"type": "file", "path": file, "size": len(files[file]), "oid": file} for file in files])
        elif name == self.server.gated:
            self._send(401, **{"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        else:
            self._send_file(files[file])

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""

    def _parse(self, path: str) -> tuple[str, str, str, str]:
        """The repository, what is asked of it, at which revision, of which file."""
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)/?(.*)", path)
        assert found is not None, path
        name, kind, revision, file = found.groups()
        return name, kind, revision, file

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    def _send_file(self, body: bytes) -> None:
        self._send(200, body, **{"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(checkpoint: Path, sharded: Path) -> Iterator[Hub]:
    """The server, with org/whole, org/sharded and org/gated."""
    whole = files_in(checkpoint)
    server = Hub({"org/whole": whole, "org/sharded": files_in(sharded), "org/gated": whole}, gated="org/gated")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint, among others that a repository may have."""
    own = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return dict.fromkeys(NEVER_FETCHED, b"not to be fetched") | own


# Exports in a process of their own, as huggingface_hub reads the environment when it is imported

Command = tuple[object, ...]


def export_all(settings: dict[str, object], *commands: Command) -> list[tuple[int, str, str]]:
    """Run memrerank-export with these arguments, one after the other: exit codes, standard output and error."""
    own = {key: value for key, value in os.environ.items() if not key.upper().startswith("HF_") and "PROXY" not in key}
    quiet = {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    listed = json.dumps([[str(argument) for argument in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, listed],
        capture_output=True,
        text=True,
        timeout=120,
        env=own | quiet | {key: str(value) for key, value in settings.items()},
    )
    assert done.returncode == 0, done.stderr
    out, err = done.stdout.split(SEPARATOR), done.stderr.split(SEPARATOR)
    return list(zip(map(int, out[1::2]), out[0::2], err, strict=False))


def reasons(settings: dict[str, object], *commands: Command) -> list[str]:
    """The one line of each command, all of which must exit with 1."""
    found = export_all(settings, *commands)
    assert [(code, out, err.count("\n")) for code, out, err in found] == [(1, "", 1)] * len(commands)
    assert all(err.startswith("memrerank-export: ") for _, _, err in found)
    return [err for _, _, err in found]


# The cache


def test_a_cached_repository_is_exported_offline_at_its_commit(cache: Path, tmp_path: Path) -> None:
    settings = {"HF_HOME": cache.parent, "HF_HUB_OFFLINE": 1}
    branch, commit = tmp_path / "branch", tmp_path / "commit"
    done = export_all(
        settings,
        ("org/reranker", branch, "--no-fidelity"),
        ("org/reranker", commit, "--no-fidelity", "--revision", COMMIT),
    )
    assert [code for code, _, _ in done] == [0, 0], done
    for output in (branch, commit):
        source = read_manifest(output).source
        assert (source["checkpoint"], source["revision"]) == ("org/reranker", COMMIT)
        assert source["score_tokens"] == [5, 6]
        assert Reranker.load(output).score("why?", ["because"]).shape == (1,)
    assert read_manifest(branch) == read_manifest(commit)


def test_what_is_not_in_the_cache_is_an_error_offline(cache: Path, tmp_path: Path) -> None:
    settings = {"HF_HUB_CACHE": cache, "HF_HOME": tmp_path / "elsewhere", "HF_HUB_OFFLINE": 1}
    output = tmp_path / "artifact"
    revision, repository, name, weights = reasons(
        settings,
        ("org/reranker", output, "--revision", "v9"),
        ("org/other", output),
        ("org/not--a--name", output),
        ("org/described", output),
    )
    assert "org/reranker at revision v9 cannot be fetched" in revision
    assert "org/other cannot be fetched" in repository
    assert "org/not--a--name cannot be fetched" in name
    assert all(REMEDY in reason for reason in (revision, repository, name))
    assert f"{COMMIT} lacks model.safetensors" in weights
    assert not output.exists()


def test_a_dry_run_needs_no_weights_in_the_cache(cache: Path, tmp_path: Path) -> None:
    settings = {"HF_HOME": cache.parent, "HF_HUB_OFFLINE": 1}
    [(code, out, err)] = export_all(settings, ("org/described", tmp_path / "artifact", "--dry-run"))
    assert (code, err) == (0, "")
    assert "Nothing was written" in out


# The hub


def test_only_the_files_that_an_export_needs_are_fetched(hub: Hub, sharded: Path, tmp_path: Path) -> None:
    settings = {"HF_HOME": tmp_path / "home", "HF_ENDPOINT": hub.url}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = export_all(
        settings,
        ("org/whole", whole, "--no-fidelity", "--revision", "v1"),
        ("org/sharded", parts, "--no-fidelity"),
    )
    assert [code for code, _, _ in done] == [0, 0], done
    shards = {path.name for path in sharded.glob("model*")}
    assert len(shards) > 2
    assert hub.fetched("org/whole") == DESCRIPTION | {"model.safetensors"}
    assert hub.fetched("org/sharded") == {"config.json", "tokenizer.json"} | shards
    assert "/api/models/org/whole/revision/v1" in hub.asked
    assert "/api/models/org/sharded/revision/main" in hub.asked
    assert [read_manifest(output).source["revision"] for output in (whole, parts)] == [COMMIT, COMMIT]


def test_a_dry_run_fetches_no_weights(hub: Hub, tmp_path: Path) -> None:
    settings = {"HF_HOME": tmp_path / "home", "HF_ENDPOINT": hub.url}
    whole, parts = export_all(
        settings,
        ("org/whole", tmp_path / "artifact", "--dry-run"),
        ("org/sharded", tmp_path / "artifact", "--dry-run", "--revision", "v1"),
    )
    assert [whole[0], parts[0]] == [0, 0], (whole, parts)
    assert hub.fetched("org/whole") == DESCRIPTION
    assert hub.fetched("org/sharded") == {"config.json", "tokenizer.json"}
    assert "/api/models/org/sharded/revision/v1" in hub.asked
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_what_the_hub_refuses_is_an_error_with_the_cause(hub: Hub, tmp_path: Path) -> None:
    settings = {"HF_HOME": tmp_path / "home", "HF_ENDPOINT": hub.url}
    output = tmp_path / "artifact"
    gated, private, missing, revision = reasons(
        settings,
        ("org/gated", output),
        ("org/private", output),
        ("org/missing", output),
        ("org/whole", output, "--revision", "v9"),
    )
    assert "org/gated cannot be fetched" in gated
    assert "org/private cannot be fetched" in private
    assert "org/missing cannot be fetched" in missing
    assert "org/whole at revision v9 cannot be fetched" in revision
    assert all(REMEDY in reason for reason in (gated, private, missing, revision))
    assert "access is restricted" in gated.lower()
    assert "unauthorized" in private.lower()
    assert "not found" in missing.lower()
    assert "revision not found" in revision.lower()
    assert not output.exists()


def test_a_hub_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, but not listening: connections to it are refused
        closed.bind(("127.0.0.1", 0))
        settings = {"HF_HOME": tmp_path / "home", "HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        [reason] = reasons(settings, ("org/reranker", tmp_path / "artifact"))
    assert "There is no folder org/reranker here, and org/reranker cannot be fetched" in reason
    assert REMEDY in reason
    assert not (tmp_path / "artifact").exists()


def test_an_error_of_the_transport_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class TransportError(Exception):
        """As the ones of httpx, which huggingface_hub 1 lets through when a download breaks off: no OSError."""

    def breaks_off(*arguments: object, **options: object) -> str:
        raise TransportError("peer closed connection without sending complete message body")

    monkeypatch.setattr("huggingface_hub.snapshot_download", breaks_off)
    with pytest.raises(CheckpointError, match=rf"org/reranker cannot be fetched.*peer closed.*{REMEDY}"):
        find_checkpoint("org/reranker", None)


# Folders, and what is neither


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the hub fails."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.usefixtures("no_hub")
def test_a_folder_is_taken_before_a_repository_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "reranker").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    origin = find_checkpoint("org/reranker", None)
    assert (origin.folder.resolve(), origin.name, origin.revision) == (tmp_path / "org" / "reranker", "reranker", None)


@pytest.mark.usefixtures("no_hub")
def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} is a folder, which has no revision v1; leave --revision"):
        find_checkpoint(str(tmp_path), "v1")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "name",
    ["a/file", "reranker", "org/reranker/main", "org/", "/reranker", "../reranker", "my org/reranker", "org\\reranker"],
)
def test_what_cannot_be_a_repository_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither a folder nor the id of a repository on the hub .* give the"):
        find_checkpoint(name, None)
