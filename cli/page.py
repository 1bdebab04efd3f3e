"""The web phone's page over HTTP, for `imsalg lab` and the tests: a browser shows it, and JsSIP in it speaks
SIP over WebSocket with the proxy itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILES = Path(__file__).parent / "web"
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "phone.js": "text/javascript; charset=utf-8",
    "jssip.js": "text/javascript; charset=utf-8",  # made by `npm run build` in FILES
}


class Page:
    """A context manager. account: what the page's form begins with (server, user, domain, password).
    Raises OSError when the address cannot be had."""

    def __init__(self, host: str, port: int, account: Mapping[str, str]) -> None:
        files = {f"/{name}": (kind, (FILES / name).read_bytes()) for name, kind in TYPES.items()}
        files["/"] = files["/index.html"]
        files["/lab.json"] = ("application/json", json.dumps(account).encode())

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if (found := files.get(self.path.partition("?")[0])) is None:
                    return self.send_error(HTTPStatus.NOT_FOUND)
                kind, content = found
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content)
                return None

            def log_message(self, *_: object) -> None:
                pass

        # of a secure context where the host is loopback: microphones work
        self.url = f"http://{host}:{port}/"
        self._server = ThreadingHTTPServer((host, port), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @staticmethod
    def is_built() -> bool:
        """Whether JsSIP is there; else the page would be empty."""
        return (FILES / "jssip.js").exists()

    def __enter__(self) -> Page:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
