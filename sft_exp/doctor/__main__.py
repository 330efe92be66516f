"""Pack what a bug report needs into one zip file.

    sft_exp doctor outputs/latest

It holds the run's configuration, log, status with the traceback, and results.json; versions of the
packages; facts of the machine; names and sizes of the run's store folders. It holds no data, no
images and no weights. Values of secret environment variables, user names in paths and the name of
the machine are replaced. Names of files and folders of yours may occur: the files in it are text,
so look before you send it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sft_exp.config import args
from sft_exp.doctor.bundle import collect, zipped
from sft_exp.store import atomic_io


@dataclass
class Arguments:
    positional: ClassVar[tuple[str, ...]] = ("run",)

    run: Path = Path("outputs/latest")  # folder of a run, finished or not
    out: Path | None = (
        None  # the zip file, or its folder; null = sft_exp-doctor-RUN.zip in this folder
    )


def main(arguments: list[str] | None = None) -> int:
    return args.run("doctor", __doc__ or "", Arguments, work, arguments)


def work(arguments: Arguments) -> None:
    files = collect(arguments.run)
    name = f"sft_exp-doctor-{arguments.run.resolve().name}.zip"
    out = arguments.out or Path(name)
    out = out / name if out.is_dir() else out
    atomic_io.write(out, zipped(files))
    for entry, text in files.items():
        print(f"{len(text):>9,}  {entry}")
    print(out)


if __name__ == "__main__":
    sys.exit(main())
