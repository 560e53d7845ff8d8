"""The report over HTTP: the files of one folder and nothing else, to whoever knows the password if there is one."""

import base64
import hmac
import threading
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from pipeline.layout import Report


class _Files(SimpleHTTPRequestHandler):
    """GET and HEAD of files below `directory`. No listing, no way out of it, also not through a link.

    `auth`: the "name:password" that a request must bring (RFC 7617), None to ask for none.
    """

    def __init__(self, *arguments: Any, auth: str | None, **options: Any) -> None:
        self._auth = auth
        super().__init__(*arguments, **options)

    def send_head(self) -> IO[bytes] | None:
        if not self._knows_password():
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", 'Basic realm="nearsafe", charset="UTF-8"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
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

    def _knows_password(self) -> bool:
        if self._auth is None:
            return True
        wanted = "Basic " + base64.b64encode(self._auth.encode()).decode("ascii")
        given = self.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode("ascii"))

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # the next flow replaces the page
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""


def serve_folder(folder: Path, host: str, port: int, auth: str | None = None) -> ThreadingHTTPServer:
    """Serve `folder` in a thread (port 0: any free one) until `shutdown` is called. The folder may come later."""
    server = ThreadingHTTPServer((host, port), partial(_Files, directory=str(folder), auth=auth))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
