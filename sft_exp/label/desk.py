"""The labelling page's server: it listens on this machine only and writes each answer to disk
before acknowledging it."""

import json
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sft_exp.errors import ConfigError, DataError, StorageError
from sft_exp.label import sheet
from sft_exp.store import atomic_io

HOST = "127.0.0.1"
MAX_BYTES = 1_000_000  # size of a request
MAX_CONNECTIONS = 32  # at a time, each with a thread; a browser opens six


class Desk(ThreadingHTTPServer):
    """The server of one sheet.

    GET / returns the page, and GET /answers the saved answers. POST /answers with {image: label}
    adds to them; a null label takes an answer back.

    Answers of several pages go to one file, which is replaced atomically: whenever the process is
    killed, the file holds every acknowledged answer. What the user changes in the file by hand stays.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int):
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                "port", port, f"cannot be listened on ({why}); take another, or 0 for any free one"
            ) from error
        self.connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.folder, self.sheet, self.lock = folder, sheet.load(folder), threading.Lock()
        self.answers = self.sheet.answers(folder / "labels.csv")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle the request in a new thread, or close the connection if there are too many."""
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def record(self, new: dict[str, str | None]) -> None:
        """Add answers, image -> label or None to take one back, and write labels.csv.

        Raises:
            ValueError: an image or a class is not on the sheet.
            DataError: labels.csv was edited and cannot be read.
        """
        for name, label in new.items():
            if name not in self.sheet.chosen or label not in (None, *self.sheet.classes):
                raise ValueError(f"{name}: {label}")
        file = self.folder / "labels.csv"
        with self.lock:
            if not file.exists():
                atomic_io.write(file, self.sheet.table(self.answers))
            # an answer of which the user saved an older file comes back
            edited = {**self.answers, **self.sheet.answers(file)}
            merged = {**edited, **new}
            atomic_io.write(file, self.sheet.updated(file, merged))
            self.answers = {name: label for name, label in merged.items() if label is not None}


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: Desk
    timeout = 10  # seconds that a client may pause within its request

    def do_GET(self) -> None:
        if not self.is_local():
            return
        if self.path == "/":
            self.reply(
                HTTPStatus.OK,
                (self.server.folder / "label.html").read_bytes(),
                "text/html; charset=utf-8",
            )
        elif self.path == "/answers":
            self.respond(HTTPStatus.OK, self.server.answers)
        else:
            self.respond(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        if not self.is_local():
            return
        size = self.headers.get("Content-Length", "")
        # Another site's page may post forms here but not JSON, for which its browser needs a CORS
        # preflight.
        if self.path != "/answers" or self.headers.get_content_type() != "application/json":
            self.respond(HTTPStatus.BAD_REQUEST, "only JSON to /answers")
        elif not (size.isdecimal() and len(size) < 10 and int(size) <= MAX_BYTES):
            self.respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES} bytes")
        else:
            try:
                self.server.record(dict(json.loads(self.rfile.read(int(size)))))
            except (ValueError, TypeError, RecursionError) as error:
                self.respond(HTTPStatus.BAD_REQUEST, f"not on this sheet: {error}")
            except (DataError, StorageError) as error:
                self.respond(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
            else:
                self.respond(HTTPStatus.OK, len(self.server.answers))

    def is_local(self) -> bool:
        """Whether the request is for this address and not from another site's page.

        If it is not, the response says so.
        """
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        names = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]
        if host in names and origin in (None, f"http://{host}"):
            return True
        self.respond(HTTPStatus.FORBIDDEN, "only from this machine")
        return False

    def respond(self, status: HTTPStatus, value: Any) -> None:
        """Respond with a value as JSON."""
        self.reply(status, json.dumps(value).encode(), "application/json")

    def reply(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        """Respond with content of this MIME type."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line per answer would bury the messages that matter."""
