"""A model hub on this machine: the part of the real one's API that huggingface_hub asks for models and files."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = 4096  # bytes from which a file is in large file storage: announced by its SHA-256


@dataclass
class Hub:
    """Files by repository and commit; `asked`: every request so far. `cut`: bytes after which a file breaks off."""

    repositories: dict[str, dict[str, Mapping[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    altered: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def add(self, name: str, commit: str, folder: Path, **more: bytes) -> None:
        """A commit with the files of a folder, and more."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repositories.setdefault(name, {})[commit] = files | more

    def got(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        asked = [path.partition("/resolve/")[2] for verb, path, _ in self.asked if verb == "GET"]
        return [path.partition("/")[2] for path in asked if path]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """The hub at a free port of this machine, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            hub.asked.append((self.command, path, self.headers.get("Range")))
            if path.startswith("/api/models/"):
                name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                self._info(name, revision)
            else:
                name, _, rest = path.lstrip("/").partition("/resolve/")
                commit, _, file = rest.partition("/")
                self._file(name, commit, file, body)

        def _info(self, name: str, revision: str) -> None:
            commits = hub.repositories.get(name)
            if name in hub.gated:
                return self._refuse(403, "GatedRepo")
            if commits is None:
                return self._refuse(404, "RepoNotFound")
            commit = list(commits)[-1] if revision == "main" else revision
            if commit not in commits:
                return self._refuse(404, "RevisionNotFound")
            siblings = [_sibling(file, data) for file, data in commits[commit].items()]
            self._send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings, "tags": []}).encode(), True)

        def _file(self, name: str, commit: str, file: str, body: bool) -> None:
            data = hub.repositories.get(name, {}).get(commit, {}).get(file)
            if data is None:
                return self._refuse(404, "EntryNotFound")
            etag = hashlib.sha256(data).hexdigest() if len(data) >= LARGE else _blob(data)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            data = hub.altered.get(file, data)
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0] or 0)
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206 if start else 200, data[start:], body, headers, self._cut(file, start) if body else None)

        def _cut(self, file: str, start: int) -> int | None:
            """Half an answer the first time, and none to those who ask for the rest."""
            return None if file not in hub.cut else 0 if start else hub.cut[file]

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"{}", True, {"X-Error-Code": code, "X-Error-Message": code})

        def _send(
            self, status: int, data: bytes, body: bool, headers: Mapping[str, str] | None = None, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(data[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler


def _sibling(name: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    lfs = {"lfs": {"sha256": digest, "size": len(data), "pointerSize": 134}} if len(data) >= LARGE else {}
    return {"rfilename": name, "size": len(data), "blobId": _blob(data), **lfs}


def _blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
