"""The server of the page: GET only, a few fixed addresses, slides by their number in the run.

No part of a request ever becomes a path: an address either matches one of `ROUTES` to the letter, or there is nothing.
"""

import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from milkit.errors import ConfigError, DataError, MilkitError
from milkit.viewer.access import HEADERS, Access
from milkit.viewer.files import SlideFile
from milkit.viewer.listed import ViewedRun
from milkit.viewer.maps import Maps
from milkit.viewer.pictures import SIDE, Pictures, most_zoom

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "/deep_zoom.js": ("deep_zoom.js", "text/javascript; charset=utf-8"),
    "/heat_map.js": ("heat_map.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Address to file of the package, and its type."""
N = "([0-9]{1,9})"
THUMB = 128
"""Pixels of a tile's picture in the list."""
IDLE_SECONDS = 60
"""After which a silent connection is closed."""


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    kind: str = "application/json"
    more: tuple[tuple[str, str], ...] = ()


def said(value: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(value, allow_nan=False).encode())


def refused(status: int, why: str) -> Answer:
    """An error in JSON."""
    return said({"error": why}, status)


class Viewer:
    """What the page can ask about a run.

    Args:
        run: what is listed.
        found: the file of each slide.
        maps: scores of tiles; or why there are none, in words.
    """

    def __init__(self, run: ViewedRun, found: Mapping[str, SlideFile], maps: Maps | str) -> None:
        self.run, self.found, self.maps = run, found, maps
        self.pictures = Pictures(found)
        self._page = {
            address: Answer(200, files("milkit.viewer").joinpath("page", name).read_bytes(), kind)
            for address, (name, kind) in PAGE.items()
        }
        self._routes: tuple[tuple[re.Pattern[str], Callable[..., Answer]], ...] = (
            (re.compile("/run"), self._listed),
            (re.compile(f"/slide/{N}"), self._slide),
            (re.compile(f"/slide/{N}/map"), self._map),
            (re.compile(f"/slide/{N}/square/{N}/{N}/{N}"), self._square),
            (re.compile(f"/slide/{N}/tile/{N}/{N}/{N}"), self._tile),
        )

    def close(self, seconds: float) -> bool:
        """Close the slides; whether no model is at work any more, for which it waits some seconds."""
        self.pictures.close()
        return isinstance(self.maps, str) or self.maps.close(seconds)

    def answer(self, path: str, query: Mapping[str, list[str]]) -> Answer:
        """What is at an address; errors are answers too."""
        if path in self._page:
            return self._page[path]
        for pattern, what in self._routes:
            match = pattern.fullmatch(path)
            if match is not None:
                numbers = tuple(map(int, match.groups()))
                if numbers and numbers[0] >= len(self.run.slides):
                    return refused(404, "There is no such slide.")
                try:
                    return what(query, *numbers)
                except MilkitError as error:
                    return refused(422, str(error))
        return refused(404, "There is nothing at this address.")

    def _listed(self, query: Mapping[str, list[str]]) -> Answer:
        run = self.run
        slides = [{**asdict(one), "missing": self.found[one.slide].reason} for one in run.slides]
        return said({
            "name": run.name, "kind": run.kind, "names": run.names, "selection": run.selection, "marks": run.marks,
            "slides": slides, "kinds": {} if isinstance(self.maps, str) else self.maps.kinds,
            "why_no_map": self.maps if isinstance(self.maps, str) else "",
        })  # fmt: skip

    def _slide(self, query: Mapping[str, list[str]], number: int) -> Answer:
        with self.pictures.slide(self._name(number)) as slide:
            (width, height), mpp = slide.size_px, slide.mpp
        zoom = most_zoom((width, height))
        return said({"width": width, "height": height, "mpp": mpp, "side": SIDE, "zoom": zoom})

    def _map(self, query: Mapping[str, list[str]], number: int) -> Answer:
        if isinstance(self.maps, str):
            raise DataError(self.maps)
        kind, label = query.get("kind", [""])[0], query.get("label", [""])[0]
        if kind not in self.maps.kinds or label not in ("", *self.run.names):
            raise ConfigError(f"There is no map of kind {kind!r} and class {label!r}; choose of those on the page.")
        return said(self.maps.map(self._name(number), kind, label or None))

    def _square(self, query: Mapping[str, list[str]], number: int, zoom: int, column: int, row: int) -> Answer:
        return _picture(self.pictures.square(self._name(number), zoom, column, row))

    def _tile(self, query: Mapping[str, list[str]], number: int, x: int, y: int, width_px: int) -> Answer:
        return _picture(self.pictures.region(self._name(number), x, y, width_px, THUMB))

    def _name(self, number: int) -> str:
        return self.run.slides[number].slide


def _picture(png: bytes | None) -> Answer:
    return refused(404, "The slide has no such part.") if png is None else Answer(200, png, "image/png")


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: "ViewerServer"
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "milkit", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer a request, if it may be asked."""
        access = self.server.access
        try:
            address = urlsplit(self.path)
            query = parse_qs(address.query, max_num_fields=8)
        except ValueError:
            return self._send(refused(404, "There is nothing at this address."))
        if not access.host_is_ours(self.headers.get("Host")):
            return self._send(refused(403, "This server answers to 127.0.0.1 and localhost only."))
        if address.path == "/" and "token" in query:
            if access.is_token(query["token"][0]):
                return self._send(Answer(303, b"", more=(("Location", "/"), ("Set-Cookie", access.cookie))))
            return self._send(refused(403, "The token is not this server's; open the address that `milkit view` said."))
        if not access.knows(self.headers.get("Cookie")):
            return self._send(refused(403, "Open the address that `milkit view` said; it holds a token."))
        if self.path != address.path + ("?" + address.query if address.query else ""):
            return self._send(refused(404, "There is nothing at this address."))  # an absolute one, or a fragment
        try:
            found = self.server.viewer.answer(address.path, query)
        except Exception as error:  # a bug of ours must neither end the server nor show its inside to the browser
            self.log_error("%s: %s", type(error).__name__, error)
            found = refused(500, "This went wrong; the terminal of `milkit view` says more.")
        return self._send(found)

    def _refuse(self) -> None:
        self.close_connection = True  # a body that was sent is not read
        self._send(Answer(405, refused(405, "Only GET is answered.").body, more=(("Allow", "GET"),)))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A request that is no HTTP, in the form of all errors."""
        self.close_connection, self.request_version = True, self.protocol_version
        self._send(refused(code, message or "This request cannot be read."))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in (*HEADERS.items(), *answer.more):
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if getattr(self, "command", "") != "HEAD":
            self.wfile.write(answer.body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: an address may hold the token."""


class ViewerServer(ThreadingHTTPServer):
    """Listens on the loopback.

    Raises:
        ConfigError: the port cannot be had.
    """

    daemon_threads = True
    # a port that another program listens on must not be shared with it
    allow_reuse_port = False

    def __init__(self, viewer: Viewer, port: int = 0) -> None:
        self.viewer = viewer
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"Port {port} cannot be listened on ({why}); leave out --port to take a free one."
            ) from None
        self.access = Access(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def serve_in_background(self) -> threading.Thread:
        """Start answering; `shutdown` ends it."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        return thread
