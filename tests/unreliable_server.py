"""A server on 127.0.0.1 that serves one file, and whose answers a test scripts in advance."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """The answers of the server, and the requests that it got.

    Attributes:
        content: the file.
        script: one function for each request; the last is used again for all further ones.
        asked: the headers of every request, and its path under "path".
        etag: of the file; "" for none.
    """

    content: bytes
    script: list[Callable[["Handler"], None]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    etag: str = '"one"'
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """One request; the methods below are the steps of a script."""

    server_of_test: Server

    def do_GET(self) -> None:
        server = self.server_of_test
        number = len(server.asked)
        server.asked.append({**self.headers, "path": self.path})
        server.script[min(number, len(server.script) - 1)](self)

    def log_message(self, *arguments: object) -> None:
        pass

    def start_of_range(self) -> int:
        """The first byte that was asked for; 0 if the file has another ETag now."""
        asked = self.headers.get("Range", "bytes=0-")
        current = self.headers.get("If-Range", self.server_of_test.etag)
        return int(asked[6:-1]) if current == self.server_of_test.etag else 0

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if self.server_of_test.etag:
            self.send_header("ETag", self.server_of_test.etag)
        self.end_headers()


def honest(handler: Handler) -> None:
    """Send the file, or the rest of it."""
    upto(None)(handler)


def upto(end: int | None, stall: float = 0.0) -> Callable[[Handler], None]:
    """Announce the whole rest of the file, send up to the byte `end`, and break off."""

    def answer(handler: Handler) -> None:
        content, start = handler.server_of_test.content, handler.start_of_range()
        if start == len(content) > 0:
            handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
            return
        place = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        handler.head(
            206 if start else 200, Content_Length=len(content) - start, **(place if start else {})
        )
        handler.wfile.write(content[start:end])
        handler.wfile.flush()
        time.sleep(stall)

    return answer


def ignoring_range(handler: Handler) -> None:
    content = handler.server_of_test.content
    handler.head(200, Content_Length=len(content))
    handler.wfile.write(content)


def announcing(length: int, content: bytes) -> Callable[[Handler], None]:
    """Lie about the length."""

    def answer(handler: Handler) -> None:
        handler.head(200, Content_Length=length)
        handler.wfile.write(content)

    return answer


def status(code: int, **headers: object) -> Callable[[Handler], None]:
    return lambda handler: handler.head(code, Content_Length=0, **headers)


@contextmanager
def serving(content: bytes, *script: Callable[[Handler], None]) -> Iterator[Server]:
    """Serve until the block ends."""
    server = Server(content, list(script))
    handler = type("OneHandler", (Handler,), {"server_of_test": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
