"""A small Hugging Face hub on loopback: the routes that huggingface_hub's snapshot_download asks for.

One thread per connection; `requests` and `cuts` are shared with the test, which reads and sets them while no
request is under way.
"""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` (id -> file name -> bytes) at commit `COMMIT`; use as a context manager."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.repositories = repositories
        self.gated: set[str] = set()
        self.requests: list[str] = []
        """`METHOD path [Range]` of each request so far."""
        self.cuts: dict[str, int] = {}
        """File name -> bytes after which its next download loses the connection."""
        self.corrupt: set[str] = set()
        """Files whose bytes arrive changed."""
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self) -> list[str]:
        return [request for request in self.requests if request.startswith("GET") and "/resolve/" in request]


class HubRequest(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked_range = self.headers.get("Range")
        self.server.requests.append(" ".join(filter(None, (self.command, path, asked_range))))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._serve_api("/".join(parts[2:4]), parts[4:])
        else:
            self._serve_file("/".join(parts[:2]), "/".join(parts[4:]), asked_range)

    def _serve_api(self, repo_id: str, what: list[str]) -> None:
        if repo_id in self.server.gated:
            return self._refuse(403, "GatedRepo")
        if repo_id not in self.server.repositories:
            return self._refuse(404, "RepoNotFound")
        if what and what[1] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        files = self.server.repositories[repo_id]
        if what and what[0] == "tree":
            return self._answer(json.dumps([_tree_entry(name, content) for name, content in files.items()]))
        siblings = [{"rfilename": name, **_blob(content)} for name, content in files.items()]
        model = {"id": repo_id, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
        return self._answer(json.dumps(model | {"private": False, "tags": [], "downloads": 0, "likes": 0}))

    def _serve_file(self, repo_id: str, name: str, asked_range: str | None) -> None:
        content = self.server.repositories[repo_id][name]
        start = int(asked_range.removeprefix("bytes=").rstrip("-")) if asked_range else 0
        self.send_response(206 if asked_range else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if asked_range:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.server.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        end = self.server.cuts.pop(name, len(content))
        self.wfile.write(content[start:end])
        self.close_connection = end < len(content)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(json.dumps({"error": code}), status, {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, body: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def log_message(self, *_args: Any) -> None:
        """Nothing on stderr."""


def _blob(content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    blob: dict[str, Any] = {"size": len(content), "blobId": digest[:40]}
    if len(content) > 10_000:  # the hub keeps large files apart, and announces their SHA-256
        blob["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 130}
    return blob


def _tree_entry(name: str, content: bytes) -> dict[str, Any]:
    blob = _blob(content)
    entry = {"type": "file", "path": name, "oid": blob["blobId"], "size": len(content)}
    if lfs := blob.get("lfs"):
        entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 130}
    return entry
