"""Sweeps from Python: the command in a subprocess, so that it leaves the caller's signals, devices
and Hydra state alone."""

import subprocess
import sys
import time
import uuid
from pathlib import Path

from sft_exp import errors
from sft_exp.compare.notebook import RichComparison, compare

FAILED_JOBS = 6  # exit code of a sweep whose other jobs are done


def sweep(overrides: list[str], folder: str | Path | None = None) -> RichComparison:
    """Run `python -m sft_exp -m <overrides>` in `folder`; returns the comparison of its jobs.

    Jobs that fail are rows of the comparison and its `failures()`.

    Raises:
        ConfigError, DataError, StorageError: the sweep cannot begin; the message names the job.
        Interrupted: the sweep was stopped; the same call with the same `folder` continues it.
    """
    stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:4]}"
    where = Path(folder) if folder else Path("outputs/multirun") / stamp
    words = ["-m", *overrides, f"hydra.sweep.dir={where}"]
    lines = []
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "sft_exp", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:  # printed here, so that notebooks show it
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            process.terminate()  # its job saves a checkpoint and ends
            raise
    if (code := process.returncode) not in (0, FAILED_JOBS):
        raise failure(code, "".join(lines[-20:]).strip(), overrides)
    return compare([where])


def failure(code: int, text: str, overrides: list[str]) -> errors.Failure:
    """The failure that an exit code stands for."""
    if code == errors.ConfigError.code:
        return errors.ConfigError("overrides", " ".join(overrides), text)
    kinds = (errors.DataError, errors.NonFiniteError, errors.StorageError, errors.Interrupted)
    kind = next((kind for kind in kinds if kind.code == code), errors.Failure)
    return kind(text or f"the sweep ended with exit code {code}")
