"""Start several processes on this machine through torch's elastic launcher, as torchrun does."""

import os
import signal
import sys
import threading
import uuid
from signal import Signals
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sft_exp.errors import Interrupted, LostRank

ELASTIC = (Signals.SIGINT, Signals.SIGTERM)  # signals that torch's launcher hears


def start(count: int, module: str, *arguments: str) -> tuple[bool, str]:
    """Run `python -m module arguments` in `count` processes, as one group, and wait.

    Returns whether a process was killed, and the cause of the end; empty if all succeeded.

    Raises:
        Interrupted: a signal stopped them.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    plan = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(),
    )
    handlers = {number: signal.getsignal(number) for number in ELASTIC}
    try:
        elastic_launch(plan, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        # Processes that exited because another was lost are not the cause, though their exit may be
        # noticed at the same time.
        rank, failure = min(
            error.failures.items(), key=lambda f: (f[1].exitcode == LostRank.code, f[1].timestamp)
        )
        code = failure.exitcode
        how = f"was killed by {Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        return code < 0, f"process {rank} (pid {failure.pid}) {how}"
    except SignalException as error:
        restore(handlers)  # a second signal must not raise while we say what the first one did
        raise Interrupted(
            f"stopped by {Signals(error.sigval).name}; the same command continues"
        ) from error
    finally:
        restore(handlers)
    return False, ""


def restore(handlers: dict[Signals, Any]) -> None:
    """Give signals back to those who heard them before torch's launcher, which keeps them."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
