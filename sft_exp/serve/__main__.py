"""Serve a page that classifies dropped images, and a JSON endpoint, at http://127.0.0.1:8000.

    curl --data-binary @photo.png http://127.0.0.1:8000/predict

The model runs in ONNX Runtime: an exported .onnx or .ort file, a run's export, or a run's model
that is converted when the server starts. The server listens on this machine only unless `host` is
set; there is no authentication and no encryption.

    sft_exp serve outputs/latest
"""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args
from sft_exp.errors import ConfigError, require
from sft_exp.serve.app import LOOPBACK, app, model_of

CONNECTIONS = 256  # at a time


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run",)

    run: Path  # folder of a run, finetune-* folder of the store, .onnx or .ort file
    host: str = LOOPBACK[0]  # address to listen on
    port: int = 8000  # 0 = any free one
    megabytes: float = 10.0  # size limit of a file
    megapixels: float = 25.0  # size limit of a decoded image

    def __post_init__(self):
        require(0 <= self.port < 65536, "port", self.port, "0 to 65535")
        require(self.megabytes > 0, "megabytes", self.megabytes, "above 0")
        require(self.megapixels > 0, "megapixels", self.megapixels, "above 0")


def main(arguments: list[str] | None = None) -> int:
    return args.run("serve", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> int:
    try:
        import uvicorn

        port = available(
            arguments.host, arguments.port
        )  # before the model is loaded, which takes seconds
        most, pixels = int(arguments.megabytes * 1e6), int(arguments.megapixels * 1e6)
        service = app(model_of(arguments.run), most, arguments.host, pixels)
    except ImportError as error:
        print(
            f"sft_exp serve: {error.name} is missing: pip install 'sft_exp[serve]'", file=sys.stderr
        )
        return ConfigError.code
    shown = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"Serving at http://{shown}:{port}/ (Ctrl-C ends)", flush=True)
    uvicorn.run(
        service,
        host=arguments.host,
        port=port,
        log_level="warning",
        limit_concurrency=CONNECTIONS,
    )
    return 0


def available(host: str, port: int) -> int:
    """A port that can be listened on: this one, or for 0 a free one. ConfigError."""
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError("host", host, f"is no address of this machine ({error})") from error
    with socket.socket(kind, socket.SOCK_STREAM) as listener:
        if os.name == "posix":  # as the server does: a port that was closed just now is free
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()
        except OSError as error:
            problem = f"cannot be listened on at {host} ({error.strerror})"
            remedy = "take another port, or 0 for any free one"
            raise ConfigError("port", port, f"{problem}; {remedy}") from error
        free: int = listener.getsockname()[1]
        return free


if __name__ == "__main__":
    sys.exit(main())
