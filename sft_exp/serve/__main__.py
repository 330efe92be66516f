"""Serve a page to drop an image on, and the same as JSON, at http://127.0.0.1:8000.

    curl --data-binary @photo.png http://127.0.0.1:8000/predict

The model runs in ONNX Runtime: an exported .onnx or .ort file, the one a run has exported, or a run's
model turned into a graph when the server starts. Only this machine is answered unless `host` says
otherwise; there is no account and no encryption.

    sft_exp serve outputs/latest
"""

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
    megabytes: float = 10.0  # the largest file taken
    megapixels: float = 25.0  # the largest image decoded

    def __post_init__(self):
        require(0 <= self.port < 65536, "port", self.port, "0 to 65535")
        require(self.megabytes > 0, "megabytes", self.megabytes, "above 0")
        require(self.megapixels > 0, "megapixels", self.megapixels, "above 0")


def main(arguments: list[str] | None = None) -> int:
    return args.run("serve", __doc__ or "", Arguments, work, arguments)


def work(given: Arguments) -> int:
    try:
        import uvicorn

        largest = int(given.megabytes * 1e6), int(given.megapixels * 1e6)
        service = app(model_of(given.run), largest[0], given.host, largest[1])
    except ImportError as error:
        print(
            f"sft_exp.serve: {error.name} is missing: pip install 'sft_exp[serve]'", file=sys.stderr
        )
        return ConfigError.code
    uvicorn.run(
        service,
        host=given.host,
        port=given.port,
        log_level="warning",
        limit_concurrency=CONNECTIONS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
