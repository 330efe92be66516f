"""Injected faults: processes that are killed at any change on disk, and checks of what they leave.

Cases run in processes forked from a single-threaded process that has imported everything (the
standard library's fork server), which takes 0.05 s instead of the seconds of a fresh start.
"""

import errno
import gc
import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

HERE = Path(__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
    "FORK_SERVER": "1",
}
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate"}
TINY = (
    "tracker=none", "encoder.hidden=[8]", "pretrain.steps=5", "finetune.steps=5", "draws=1", "controls=false", "val=holdout",
    "hardware.checkpoint_seconds=0",
)  # fmt: skip


def fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a module-level function in a forked process, in the present folder and environment.

    The fork server keeps the environment of whoever began it, which is of another test.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults"])
    kept = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    process = context.Process(target=with_environment, args=(dict(os.environ), function, arguments))
    process.start()
    os.environ.clear()
    os.environ.update(kept)
    return process


def with_environment(
    variables: dict[str, str], function: Callable[..., Any], arguments: tuple
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    if torch := sys.modules.get("torch"):
        # After a fork PyTorch renews its thread pool at the first use, and fails where two threads
        # are the first at once.
        torch.set_num_threads(torch.get_num_threads())
    function(*arguments)


def ended(process: Any, seconds: float = 120) -> int:
    """The exit code; minus the signal's number, if one ended it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{process} still ran after {seconds} s")
    return process.exitcode


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th change that a process makes on disk, counted from 0."""

    at: int
    # killed before the change, or with half of the file written; full: no space left on the device
    kind: str = "kill"


class Disk:
    """Counts every change that this process makes on disk below a folder, whoever makes it, and brings a fault about."""

    def __init__(self, root: Path, fault: Fault | None = None, count: Path | None = None):
        self.root, self.fault, self.count, self.n = str(root), fault, count, 0
        self.busy = False
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple) -> None:
        if self.busy or not (event in CHANGES or (event == "open" and writes(arguments))):
            return
        path = (
            os.path.abspath(os.path.join(base(event, arguments), arguments[0]))
            if isinstance(arguments[0], str | Path)
            else ""
        )
        if not path.startswith(self.root) or path.endswith(".lock"):
            return
        self.busy = True
        self.n += 1
        if self.count:
            self.count.write_text(str(self.n))
        if self.fault and self.n == self.fault.at + 1:
            if self.fault.kind == "full":
                self.busy = False
                raise OSError(errno.ENOSPC, "No space left on device", path)
            if event == "open":
                Path(path).write_bytes(b'{"step": 3, "lo')
            os.kill(os.getpid(), signal.SIGKILL)
        self.busy = False


def base(event: str, arguments: tuple) -> str:
    """The folder that a name is relative to: `shutil.rmtree` names files below an open folder."""
    below = (
        event in ("os.remove", "os.rmdir") and arguments[1] >= 0 and os.path.isdir("/proc/self/fd")
    )
    return os.readlink(f"/proc/self/fd/{arguments[1]}") if below else ""


def writes(arguments: tuple) -> bool:
    _, mode, flags = arguments
    return bool(mode and set(mode) & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))


def child(out: Path, prepare: Callable[[], None] | None = None) -> None:
    """Make this forked process what a case asks for; what it says goes into the file `out`."""
    said = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.fsync = lambda handle: None  # type: ignore[assignment]  # a killed process loses nothing that the kernel holds
    if prepare:
        prepare()


def sweeps(overrides: tuple[str, ...]) -> bool:
    return "-m" in overrides or any(o.startswith("study=") for o in overrides)


class Spare:
    """A sweep's worker that is forked before the command begins, instead of an interpreter that imports all anew.

    It is a child of the command, as the worker is, and has nothing of what the command and the case
    change in their process. It waits until the command asks for a worker, and ends unused with it.
    """

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair()
        self.used = False
        self.code: int | None = None
        self.stdin = self.stderr = None  # as of a process without pipes
        self.pid = os.fork()
        if self.pid == 0:
            self.line.close()
            self.work(theirs)
        theirs.close()

    def work(self, line: socket.socket) -> NoReturn:
        """In the spare process: be the worker that is asked for."""
        _, handles, *_ = socket.recv_fds(line, 1, 1)
        if not handles:
            os._exit(0)
        said = json.loads(line.makefile().readline())
        line.close()
        os.environ.clear()
        os.environ.update(said["environment"])
        os.chdir(said["folder"])
        from sft_exp.execution import child

        sys.argv = ["child", *said["words"][:-1], str(handles[0])]
        child.main()
        sys.exit()

    def stand_in(self) -> None:
        """Let the sweep of this process have this worker."""
        from sft_exp.sweep import sweeps

        sweeps.subprocess = SimpleNamespace(Popen=self.start, PIPE=subprocess.PIPE)  # type: ignore[assignment]

    def start(self, command: list[str], **how: Any) -> Any:
        """What `subprocess.Popen` returns; a second worker, and one with other paths, is a process of its own."""
        like_ours = how["env"].get("PYTHONPATH") == ENVIRONMENT["PYTHONPATH"]
        if self.used or how["stdin"] or how["stderr"] or not like_ours:
            return subprocess.Popen(command, **how)
        self.used = True
        words = command[command.index("sft_exp.execution.child") + 1 :]
        said = {"words": words, "environment": how["env"], "folder": os.getcwd()}
        socket.send_fds(self.line, [b"-"], how["pass_fds"])
        self.line.sendall(json.dumps(said).encode() + b"\n")
        return self

    def poll(self) -> int | None:
        return self.wait(os.WNOHANG)

    def wait(self, flags: int = 0) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, flags)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def cli(
    out: Path, prepare: Callable[[], None] | None, fault: Fault | None, *overrides: str
) -> None:
    """`python -m sft_exp OVERRIDES`."""
    child(out)
    if sweeps(overrides):
        Spare().stand_in()
    if prepare:
        prepare()
    if fault:
        Disk(Path.cwd(), fault)
    from sft_exp.__main__ import main

    sys.argv = ["sft_exp", *overrides]
    main()


def line(
    out: Path, prepare: Callable[[], None] | None, fault: Fault | None, config: dict, choices: dict
) -> None:
    """All stages of one job, without the command line and the report: what a crash test repeats hundreds of times."""
    child(out, prepare)
    Disk(Path.cwd() / "outputs", fault, count=Path("changes").absolute())
    from sft_exp.config.build import experiment
    from sft_exp.errors import Failure
    from sft_exp.jobs import prepare
    from sft_exp.runs import pipeline
    from sft_exp.training.context import Context, Stop

    made = experiment(config, choices)
    try:
        with Stop.handle_signals():
            pipeline.run(prepare.prepare(made), Context.on(made.hardware, made.tracker))
    except Failure as error:
        print(error)
        sys.exit(error.code)


def run(
    function: Callable[..., None],
    *arguments: Any,
    prepare: Any = None,
    fault: Fault | None = None,
    seconds: float = 120,
) -> tuple[int, str]:
    """(exit code, what it said) of `cli` or `line` in a forked process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        code = ended(fork(function, out, prepare, fault, *arguments), seconds)
        return code, out.read_text()


def contents(store: Path) -> dict[str, dict[str, str]]:
    """Checksums of all files of all finished folders; of a checkpoint, what is in it: pickles of equal values may differ."""
    found = {
        seal.parent.name: json.loads(seal.read_text())["sha256"]
        for seal in sorted(store.glob("*/done.json"))
    }
    for checkpoint in store.glob("*/checkpoint.pt"):
        found[checkpoint.parent.name][checkpoint.name] = spelt(checkpoint)
    return found


def spelt(checkpoint: Path) -> str:
    import torch

    from sft_exp.training.checkpoints import load

    def spell(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return f"{value.dtype} {value.shape} {value.numpy().tobytes().hex()}"
        if isinstance(value, dict):
            return str({key: spell(v) for key, v in value.items()})
        return str([spell(v) for v in value]) if isinstance(value, list | tuple) else repr(value)

    return spell(load(checkpoint, torch.device("cpu")))


def leftovers(store: Path) -> list[Path]:
    """Files that no finished run may leave behind."""
    return [
        *store.rglob("*.tmp"),
        *(p for p in store.glob("work/**/*") if p.is_file()),
        *store.rglob("checkpoint.previous*"),
    ]


def find(pattern: str) -> list[Path]:
    """Paths, while other processes take some away, which `Path.glob` does not bear."""
    return [Path(found) for found in glob(pattern)]


@contextmanager
def memory() -> Iterator[Path]:
    """A folder on a file system in memory, where there is one: for tests with thousands of changes on disk."""
    memory_disk = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as folder:
        yield Path(folder)


def stepwise(kill_at: int = 0, signals: tuple[int, ...] = (), lose: str = "") -> None:
    """Prepare a child: training tells its steps in the file `steps` and checkpoints fall on the same ones each time (a
    second passes whenever the loop looks at the clock). At one step, counted over all stages, the process is killed or
    sends itself signals. With `lose`, a resumed training lacks a part of its state."""
    import torch

    from sft_exp.training import checkpoints, fit

    seconds, steps, train, restore = (
        itertools.count(),
        itertools.count(1),
        fit.train,
        checkpoints.restore,
    )

    def watched(*arguments: Any) -> Iterator[Any]:
        for step in train(*arguments):
            with Path("steps").open("a") as log:
                log.write(f"{step.done}\n")
            if (n := next(steps)) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            for number in signals if n == 4 else ():
                os.kill(os.getpid(), number)
            yield step

    def forgetful(*arguments: Any) -> tuple[int, list[str]]:
        done, rows = restore(*arguments)
        return (0 if lose == "step" else done), ([] if lose == "rows" else rows)

    if lose == "optimizer":
        torch.optim.Optimizer.load_state_dict = lambda self, state: None  # type: ignore[assignment]
    fit.time = SimpleNamespace(monotonic=lambda: next(seconds))  # type: ignore[assignment]
    fit.train, checkpoints.restore = watched, forgetful  # type: ignore[assignment]


def warm() -> None:
    """Pay once for all imports and first calls: by a whole run."""
    gc.disable()
    from sft_exp import api, cli  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        api.run([*TINY, "hardware=cpu"])  # a fork of a process that used a GPU cannot
        os.chdir(HERE)
    gc.enable()
    gc.freeze()  # else each fork's first collection of garbage would copy all that is imported


if "FORK_SERVER" in os.environ:
    warm()
