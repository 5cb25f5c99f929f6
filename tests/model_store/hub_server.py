"""A small Hugging Face hub on loopback: a model's description and its files, and all that can go wrong.

One thread per connection; the server's attributes are shared with the test, which reads and sets them while no
request is under way.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` (id -> file name -> bytes), each with one commit, `COMMIT`; use as a context manager."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        """Repository id -> commit, tag or branch -> file name -> bytes."""
        for repo_id, files in repositories.items():
            self.commit(repo_id, COMMIT, files)
        self.gated: set[str] = set()
        self.requests: list[str] = []
        """`METHOD path [Range]` of each request so far."""
        self.tokens: set[str | None] = set()
        """The Authorization headers of all requests so far."""
        self.cut_next: Callable[[str, int, int], int] = lambda _name, _start, end: end
        """Told a file and the range that is asked for: at which byte its connection is lost."""
        self.cuts: dict[str, int] = {}
        """File name -> bytes after which its next download loses the connection."""
        self.corrupt: set[str] = set()
        """Files whose bytes arrive changed."""
        self.longer: dict[str, int] = {}
        """File name -> how many bytes more than announced the hub says it sends, and sends if that is positive."""
        self.without_ranges = False
        """Every answer begins with the first byte."""
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what the tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo_id: str, commit: str, files: dict[str, bytes], branch: str = "main") -> None:
        """A new commit at the end of `branch`."""
        self.commits.setdefault(repo_id, {}).update({commit: files, branch: files})

    def commit_of(self, repo_id: str, revision: str) -> str:
        commits = self.commits[repo_id]
        return next(commit for commit, files in commits.items() if len(commit) == 40 and files is commits[revision])

    def downloads(self) -> list[str]:
        return [request for request in self.requests if request.startswith("GET") and "/resolve/" in request]


class HubRequest(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked_range = self.headers.get("Range")
        self.server.requests.append(" ".join(filter(None, (self.command, path, asked_range))))
        self.server.tokens.add(self.headers.get("Authorization"))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._serve_api("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        else:
            self._serve_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), asked_range)

    def _serve_api(self, repo_id: str, revision: str) -> None:
        if repo_id in self.server.gated:
            return self._refuse(403, "GatedRepo")
        if repo_id not in self.server.commits:
            return self._refuse(404, "RepoNotFound")
        if revision not in self.server.commits[repo_id]:
            return self._refuse(404, "RevisionNotFound")
        files = self.server.commits[repo_id][revision]
        siblings = [{"rfilename": name, **_blob(content)} for name, content in files.items()]
        commit = self.server.commit_of(repo_id, revision)
        model = {"id": repo_id, "sha": commit, "siblings": siblings, "cardData": {"license": "mit"}}
        return self._answer(json.dumps(model | {"private": False, "tags": [], "downloads": 0, "likes": 0}))

    def _serve_file(self, repo_id: str, commit: str, name: str, asked_range: str | None) -> None:
        content = self.server.commits[repo_id][commit][name]
        if name in self.server.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(asked_range.removeprefix("bytes=").rstrip("-")) if asked_range else 0
        if self.server.without_ranges:
            start, asked_range = 0, None
        longer = self.server.longer.get(name, 0)
        self.send_response(206 if asked_range else 200)
        self.send_header("Content-Length", str(len(content) + longer - start))
        if asked_range:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = self.server.cuts.pop(name, self.server.cut_next(name, start, len(content)))
        self.wfile.write((content + b"!" * longer)[start : end + longer])
        self.close_connection = end < len(content) or longer < 0

    def _refuse(self, status: int, code: str) -> None:
        self._answer(json.dumps({"error": code}), status, {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, body: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_args: Any) -> None:
        """Nothing on stderr."""


def _blob(content: bytes) -> dict[str, Any]:
    if len(content) <= 10_000:
        return {"size": len(content), "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
    # the hub keeps large files apart and announces their SHA-256; the blob is a pointer to it
    digest = hashlib.sha256(content).hexdigest()
    lfs = {"size": len(content), "sha256": digest, "pointerSize": 130}
    return {"size": len(content), "blobId": digest[:40], "lfs": lfs}
