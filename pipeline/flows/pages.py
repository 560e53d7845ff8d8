"""The report over HTTP, on loopback: the files of one folder and nothing else."""

import threading
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from pipeline.layout import Report

HOST = "127.0.0.1"


class _Files(SimpleHTTPRequestHandler):
    """GET and HEAD of files below `directory`. No listing, no way out of it, also not through a link."""

    def send_head(self) -> IO[bytes] | None:
        path = Path(self.translate_path(self.path))  # takes out every ".."
        folder = Path(self.directory).resolve()
        if path.is_dir():
            path = path / Report().page.name
        if not path.resolve().is_relative_to(folder) or not path.is_file():
            made = (folder / Report().page.name).is_file()
            hint = "No such file." if made else "There is no report yet: a flow's last stage makes it."
            self.send_error(HTTPStatus.NOT_FOUND, explain=hint)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # the next flow replaces the page
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""


def serve_folder(folder: Path, port: int) -> ThreadingHTTPServer:
    """Serve `folder` in a thread (0: any free port) until `shutdown` is called. The folder may come later."""
    server = ThreadingHTTPServer((HOST, port), partial(_Files, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
