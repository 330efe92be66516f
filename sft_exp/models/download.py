"""Downloads with a checksum and a short timeout, cached on disk."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch

from sft_exp.errors import DataError
from sft_exp.store import atomic_io

# seconds in which a server must answer; torch.hub would wait forever, others retry for half a
# minute
REACH = 4.0


def downloaded(url: str, name: str, sha256: str) -> Path:
    """A file in torch's cache, downloaded if it is missing.

    Raises:
        DataError: its SHA-256 does not begin with these digits, or the server does not answer.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        try:
            atomic_io.folder(file.parent)
            with answering():
                torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256)
        except (OSError, RuntimeError) as error:
            if isinstance(error, HTTPError):
                error.close()  # it holds the answer's socket
            raise DataError(
                f"{url} could not be downloaded ({error}); fetch it elsewhere and put it at {file}, or give "
                "pretrainer.init=<file>"
            ) from error
    return file


@contextmanager
def answering() -> Iterator[None]:
    """Inside, a server that is silent for REACH seconds causes a TimeoutError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(REACH)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def require_reachable(url: str) -> None:
    """OSError, within REACH seconds, unless the server of `url`, or the proxy before it, accepts
    connections."""
    address = urlsplit(url)
    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or {"http": 80}.get(address.scheme, 443)
    socket.create_connection((address.hostname or "", port), REACH).close()
