"""A Hub on loopback: as much of the Hub's HTTP interface as huggingface_hub calls, and faults on demand.

    hub = FakeHub()                      # served at hub.url until hub.close()
    hub.fail("POST", r"/commit/", 503)   # answers so the next time; hub.drop(...) hangs up in the middle of the answer

Writing needs the token WRITER; READER may only read. `hub.requests` holds what was asked, without the tokens.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import huggingface_hub.constants as constants

WRITER, READER = "hf_writer_secret", "hf_reader_secret"
LFS = (".safetensors", ".parquet", ".bin", ".png")
KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass
class Blob:
    """A file's content and how git or LFS names it."""

    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.oid, "size": len(self.content), "pointerSize": 130}
        return entry


@dataclass
class Repo:
    """Commits, newest last, and the names that point to them."""

    repo_id: str
    kind: str
    private: bool = False
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)  # of commits

    def commit(self, files: dict[str, Blob], title: str, ref: str = "main", description: str = "") -> str:
        sha = hashlib.sha1(f"{self.repo_id} {len(self.commits)} {title}".encode()).hexdigest()
        self.commits.append((sha, title, files))
        self.refs[ref], self.descriptions[sha] = sha, description
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, Blob]] | None:
        sha = self.refs.get(revision, revision)
        return next(((found, files) for found, _, files in self.commits if found == sha), None)


class Server(ThreadingHTTPServer):
    """Remembers its connections, which clients keep open, so that it can be gone at once."""

    daemon_threads = True

    def __init__(self, hub):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        self.connections = []

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def close_connections(self):
        for connection in self.connections:
            with suppress(OSError):  # the client may have gone first
                connection.shutdown(socket.SHUT_RDWR)


class FakeHub:
    """The server, its repositories and blobs, and the faults that wait to happen."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.faults: list[dict] = []
        self.server = Server(self)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.server.close_connections()

    def fail(self, method: str, path: str, status: int, times: int = 1) -> None:
        """The next `times` requests whose path matches are answered with this status."""
        self.faults.append({"method": method, "path": path, "status": status, "times": times})

    def drop(self, method: str, path: str, times: int = 1) -> None:
        """The next `times` matching requests are hung up on: half of a body that was asked for, or no answer."""
        self.faults.append({"method": method, "path": path, "status": None, "times": times})

    def say(self, method: str, path: str, content: bytes, times: int = 1) -> None:
        """The next `times` matching requests are answered with this, and 200."""
        self.faults.append({"method": method, "path": path, "status": 200, "content": content, "times": times})

    def fault_of(self, method: str, path: str) -> dict | None:
        for fault in self.faults:
            if fault["times"] and fault["method"] == method and re.search(fault["path"], path):
                fault["times"] -= 1
                return fault
        return None

    def asked(self, method: str, path: str = "") -> list[str]:
        """Paths of the requests so far, of one method and matching a pattern."""
        return [found for asked, found in self.requests if asked == method and re.search(path, found)]

    def files(self, repo_id: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, but for .gitattributes."""
        _, files = self.repos[(kind, repo_id)].at(revision)
        return {name: blob.content for name, blob in files.items() if name != ".gitattributes"}

    def put(self, repo_id: str, files: dict[str, bytes], kind: str = "model") -> None:
        """Makes a repository with these files, whatever their names."""
        repo = self.repos.setdefault((kind, repo_id), Repo(repo_id, kind))
        repo.commit({name: Blob(content, name.endswith(LFS)) for name, content in files.items()}, "put")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def handle_any(self):
        url, hub = urlsplit(self.path), self.server.hub
        path, body = unquote(url.path), self.read_body()
        hub.requests.append((self.command, path))
        self.hang_up = False
        fault = hub.fault_of(self.command, path)
        if fault is not None and fault["status"] is not None:
            return self.answer(fault.get("content", {"error": "a fault"}), fault["status"])
        self.hang_up = fault is not None
        if self.hang_up and self.command != "GET":
            return self.cut()
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                if method == "POST" and not path.endswith(("/paths-info", "/validate-yaml")) and not self.may_write():
                    return None
                return function(self, hub, body, query, **match.groupdict())
        hub.unknown.append((self.command, path))
        return self.error(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def may_write(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (WRITER, READER):
            self.answer({"error": "Invalid username or password."}, 401)
        elif token == READER:
            self.answer({"error": "Forbidden"}, 403, {"X-Error-Message": "You don't have the rights"})
        return token == WRITER

    def may_see(self, repo: Repo) -> bool:
        return not repo.private or self.headers.get("Authorization", "").removeprefix("Bearer ") in (WRITER, READER)

    def answer(self, content, status: int = 200, headers: dict | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_response(status)
        for name, value in ({"Content-Length": len(body), "Content-Type": kind} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.hang_up:
            self.wfile.write(body[: len(body) // 2])
            self.cut()
        elif self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def error(self, status: int, code: str, headers: dict | None = None) -> None:
        self.answer({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code} | (headers or {}))


def of_repo(function):
    """A route of one repository, at one revision if its path names one."""

    def route(handler, hub, body, query, kind, repo_id, revision=None, **rest):
        repo = hub.repos.get((kind, repo_id))
        if repo is None or not handler.may_see(repo):
            return handler.error(404 if handler.headers.get("Authorization") else 401, "RepoNotFound")
        found = repo.at(revision or "main")
        if found is None:
            return handler.error(404, "RevisionNotFound")
        return function(handler, hub, body, query, repo, *found, revision=revision, **rest)

    return route


def create(handler, hub, body, query):
    asked = json.loads(body)
    kind, repo_id = asked.get("type", "model"), f"{asked.get('organization') or 'me'}/{asked['name']}"
    answer = {"url": f"{hub.url}/{KINDS[kind]}{repo_id}", "name": repo_id, "id": repo_id}
    if (kind, repo_id) in hub.repos:
        return handler.answer(answer | {"error": "You already created this repo"}, 409)
    private = asked.get("visibility") == "private" or asked.get("private", False)
    repo = hub.repos[(kind, repo_id)] = Repo(repo_id, kind, private)
    repo.commit({".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit")
    return handler.answer(answer)


@of_repo
def preupload(handler, hub, body, query, repo, sha, files, revision):
    modes = []
    for file in json.loads(body)["files"]:
        mode = {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
            "shouldIgnore": False,
        }
        if file["path"] in files:
            mode["oid"] = files[file["path"]].oid
        modes.append(mode)
    handler.answer({"files": modes})


def lfs_batch(handler, hub, body, query):
    objects = []
    for wanted in json.loads(body)["objects"]:
        link = {"href": f"{hub.url}/lfs/{wanted['oid']}", "header": {}}
        check = {"href": f"{hub.url}/lfs-verify"}
        known = wanted["oid"] in hub.blobs
        objects.append(wanted if known else wanted | {"actions": {"upload": link, "verify": check}})
    handler.answer({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})


def lfs_put(handler, hub, body, query, oid):
    if hashlib.sha256(body).hexdigest() != oid:
        return handler.error(400, "BadOid")
    hub.blobs[oid] = body
    return handler.answer(b"")


def lfs_verify(handler, hub, body, query):
    handler.answer({}, 200 if json.loads(body)["oid"] in hub.blobs else 404)


@of_repo
def commit(handler, hub, body, query, repo, sha, files, revision):
    lines = [json.loads(line) for line in body.splitlines()]
    files = dict(files)
    for line in lines[1:]:
        change = line["value"]
        if line["key"] == "file":
            files[change["path"]] = Blob(base64.b64decode(change["content"]), False)
        elif line["key"] == "lfsFile":
            files[change["path"]] = Blob(hub.blobs[change["oid"]], True)
        elif line["key"] == "deletedFile":
            del files[change["path"]]
    header, proposed = lines[0]["value"], "create_pr" in query
    number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
    sha = repo.commit(files, header["summary"], f"refs/pr/{number}" if proposed else revision, header["description"])
    url = f"{hub.url}/{KINDS[repo.kind]}{repo.repo_id}"
    answer = {"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", "hookOutput": ""}
    handler.answer(answer | ({"pullRequestUrl": f"{url}/discussions/{number}"} if proposed else {}))


@of_repo
def info(handler, hub, body, query, repo, sha, files, revision):
    facts = {"_id": "0", "id": repo.repo_id, "sha": sha, "private": repo.private, "tags": [], "downloads": 0}
    facts |= {"likes": 0, "gated": False, "disabled": False, "siblings": [{"rfilename": name} for name in files]}
    handler.answer(facts | ({"modelId": repo.repo_id} if repo.kind == "model" else {}))


@of_repo
def tree(handler, hub, body, query, repo, sha, files, revision, folder=None):
    start = f"{folder.strip('/')}/" if folder else ""
    deep = query.get("recursive", "false").lower() == "true"
    inside = [name for name in files if name.startswith(start)]
    if start and not inside:
        return handler.error(404, "EntryNotFound")
    entries, folders = [], set()
    for name in inside:
        parts = name.removeprefix(start).split("/")
        folders |= {start + "/".join(parts[:depth]) for depth in range(1, len(parts)) if deep or depth == 1}
        if deep or len(parts) == 1:
            entries.append(files[name].entry(name))
    return handler.answer([{"type": "directory", "path": name, "oid": "0", "size": 0} for name in folders] + entries)


@of_repo
def paths_info(handler, hub, body, query, repo, sha, files, revision):
    try:
        paths = json.loads(body)["paths"]
    except ValueError:
        paths = parse_qs(body.decode()).get("paths", [])
    handler.answer([files[path].entry(path) for path in paths if path in files])


@of_repo
def make_branch(handler, hub, body, query, repo, sha, files, revision, branch):
    repo.refs[branch] = sha
    handler.answer({})


@of_repo
def resolve(handler, hub, body, query, repo, sha, files, revision, name):
    if name not in files:
        return handler.error(404, "EntryNotFound", {"X-Repo-Commit": sha})
    blob = files[name]
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    if blob.is_lfs:
        headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": len(blob.content)}
    part = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if part is None:
        return handler.answer(blob.content, headers=headers)
    first, last = int(part[1]), min(int(part[2] or len(blob.content)), len(blob.content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(blob.content)}"
    return handler.answer(blob.content[first : last + 1], 206, headers)


def _resolve(handler, hub, body, query, folder, **names):
    kind = next(kind for kind, prefix in KINDS.items() if prefix == (folder or ""))
    return resolve(handler, hub, body, query, kind=kind, **names)


API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo_id>[^/]+/[^/]+)"
FILE = r"/(?P<folder>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
ROUTES = [
    ("GET", r"/api/agent-harnesses", lambda handler, hub, body, query: handler.error(404, "EntryNotFound")),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", lambda handler, hub, body, query: handler.answer({"errors": [], "warnings": []})),
    ("POST", API + r"/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", r"/.*\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("POST", r"/lfs-verify", lfs_verify),
    ("POST", API + r"/commit/(?P<revision>[^/]+)", commit),
    ("POST", API + r"/paths-info/(?P<revision>[^/]+)", paths_info),
    ("POST", API + r"/branch/(?P<branch>[^/]+)", make_branch),
    ("GET", API, info),
    ("GET", API + r"/revision/(?P<revision>[^/]+)", info),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(?P<folder>/.+)?", tree),
    ("HEAD", FILE, _resolve),
    ("GET", FILE, _resolve),
]


@contextmanager
def serving(tmp_path, monkeypatch):
    """A Hub that this process's clients ask, logged in as WRITER, with empty caches and no wait between tries."""
    server = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    try:
        yield server
    finally:
        server.close()


def environment_of(server: FakeHub, home) -> dict[str, str]:
    """The environment of a new process that asks this Hub, with an empty cache in `home`."""
    names = ("HABA_DEBUG", "HF_HUB_OFFLINE", "HF_TOKEN")
    return {name: value for name, value in os.environ.items() if name not in names} | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
    }
