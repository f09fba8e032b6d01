"""Serves the page of runs that are going, at an address that has a secret in it: `report RUN ... --watch`."""

import hashlib
import html
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from recipe.holderpo.config.errors import ConfigError
from recipe.holderpo.report.events import EVENTS_FILE
from recipe.holderpo.report.page.write import page
from recipe.holderpo.report.record import METRICS_FILE, read_run

WATCHED = (METRICS_FILE, EVENTS_FILE, "config.yaml", "generations/*", "tokens/*", "transcripts/*/*")
WAITING = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3">
<title>HölderPO: waiting</title><p>Waiting: {}</p></html>"""


class Server(ThreadingHTTPServer):
    def handle_error(self, *of: Any) -> None:
        """A reader who goes before the answer is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*of)


class Watch:
    """The page of some runs, made again when their files have changed."""

    def __init__(self, run_dirs: Sequence[Path]) -> None:
        self.run_dirs = run_dirs
        self._lock = threading.Lock()  # a page of many runs takes seconds; two readers are to wait for one
        self._made: tuple[str, str] | None = None  # version, page

    def version(self) -> str:
        """Another one when a file that the page shows has changed."""
        found = hashlib.sha256()
        for file in sorted(file for run in self.run_dirs for pattern in WATCHED for file in run.glob(pattern)):
            with suppress(FileNotFoundError):  # written under another name first
                status = file.stat()
                found.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
        return found.hexdigest()

    def page(self) -> str:
        """Of the runs that have a record by now; without any, one that says so and comes again."""
        with self._lock:
            version = self.version()
            if self._made is None or self._made[0] != version:
                records, without = {}, list[str]()
                for run in self.run_dirs:
                    try:
                        records[run] = read_run(run)
                    except ConfigError as error:
                        without += error.lines
                if not records:
                    return WAITING.format(html.escape("; ".join(without)))
                self._made = version, page(records, version)
            return self._made[1]


def server(watch: Watch, host: str = "127.0.0.1", port: int = 0) -> tuple[Server, str]:
    """A server that is not serving yet, and the address of the page. A port of 0 is any that is free.

    Raises OSError where it cannot listen there."""
    secret = secrets.token_urlsafe(24)
    pages: dict[str, tuple[str, Callable[[], str]]] = {
        f"/{secret}/": ("text/html", watch.page),
        f"/{secret}/version": ("text/plain", watch.version),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.path.encode()
            found = next((made for path, made in pages.items() if secrets.compare_digest(path.encode(), asked)), None)
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            kind, make = found
            status = HTTPStatus.OK
            try:
                body = make().encode()
            except Exception as error:  # of a run that is being written; the reader asks again
                status, body = HTTPStatus.SERVICE_UNAVAILABLE, WAITING.format(html.escape(str(error))).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": f"{kind}; charset=utf-8",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: a request has the secret in it."""

    made = Server((host, port), Handler)
    return made, f"http://{host}:{made.server_port}/{secret}/"


def serve(run_dirs: Sequence[Path], host: str, port: int) -> None:
    """Until Ctrl-C.

    Raises:
        ConfigError: it cannot listen there.
    """
    try:
        made, address = server(Watch(run_dirs), host, port)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--at is '{host}:{port}', where nothing can be served: {error}") from None
    print(f"{address}\nCtrl-C ends it", flush=True)
    with made:
        try:
            made.serve_forever()
        except KeyboardInterrupt:
            print()
