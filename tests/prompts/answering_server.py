"""A real HTTP server on this machine that answers chat completions as a test tells it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes, dict[str, str]]  # status, body, headers


def completion(*lines: str) -> Answer:
    """Returns the answer of a model that says these lines."""
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": "\n".join(lines)}}]}).encode(), {}


@contextlib.contextmanager
def answering(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Runs a server; yields its address and the requests so far, each with `path`, `key` and `body`.

    Args:
      answer: the answer to a request, given its number and body.
    """
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"path": self.path, "key": self.headers.get("Authorization"), "body": body})
            status, content, headers = answer(len(requests) - 1, body)
            with contextlib.suppress(OSError):  # the client has gone
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
