"""The server: one process, on the loopback, until it is stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reverie.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from reverie.show.gallery import Gallery

HOST = "127.0.0.1"


def check_extra() -> None:
    """Raises MissingExtra where the packages of the server are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "python_multipart")):
        raise MissingExtra("reverie show", "show")


def serve(galleries: Sequence[Gallery], port: int, ready: Callable[[str], None]) -> None:
    """Serve these folders until Ctrl-C, then bring their marks up to date.

    Args:
        port: 0 picks a free one.
        ready: called with the address, once it can be opened.
    Raises: InputError for a port that is taken or none.
    """
    import uvicorn

    from reverie.show.app import make_app

    with _listening(port) as listener:
        number = listener.getsockname()[1]
        app = make_app(galleries, number)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=3,
            )
        )
        try:
            ready(f"http://{HOST}:{number}/")
            with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
                server.run(sockets=[listener])
        finally:
            for gallery in galleries:
                if why := gallery.close():
                    print(f"{gallery.folder}: {why}", file=sys.stderr)


def _listening(port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port} is no port; give a number from 1 to 65535, or 0 for a free one")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"port {port} cannot be used ({error.strerror}); give another one, or --port 0 for a free one"
        ) from error
    listener.listen(128)
    return listener
