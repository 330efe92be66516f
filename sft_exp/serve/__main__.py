"""A page to drop an image on, and the same as JSON: `python -m sft_exp.serve run=outputs/latest`, then http://127.0.0.1:8000.

    curl --data-binary @photo.png http://127.0.0.1:8000/predict

The model runs in ONNX Runtime: an exported .onnx or .ort file, the one a run has exported, or a run's model turned into a graph
when the server starts. Only this machine is answered unless `host` says otherwise; there is no account and no encryption.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sft_exp.errors import ConfigError, Failure
from sft_exp.serve.app import LOOPBACK, app, model_of

if TYPE_CHECKING:
    pass


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sft_exp.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run",
        required=True,
        help="run=...: folder of a run, a finetune-* folder, an .onnx or .ort file",
    )
    parser.add_argument("--host", default=LOOPBACK[0], help="host=...: address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port=...")
    parser.add_argument(
        "--megabytes", type=float, default=10.0, help="megabytes=...: the largest file taken"
    )
    given = sys.argv[1:] if arguments is None else arguments
    args = parser.parse_args([f"--{a}" if "=" in a and not a.startswith("-") else a for a in given])
    try:
        import uvicorn

        service = app(model_of(Path(args.run)), int(args.megabytes * 1e6), args.host)
    except ImportError as error:
        print(
            f"sft_exp.serve: {error.name} is missing: pip install 'sft_exp[serve]'", file=sys.stderr
        )
        return ConfigError.code
    except Failure as error:
        print(f"sft_exp.serve: {error}", file=sys.stderr)
        return error.code
    uvicorn.run(service, host=args.host, port=args.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
