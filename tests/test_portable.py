"""The code imports, runs, stores and sweeps without features that Windows and macOS lack."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from faults import child, run

from sft_exp.data import images
from sft_exp.store import atomic_io, store
from sft_exp.sweep import sweeps, worker
from sft_exp.training.context import Stop

UNIX = ("fcntl", "grp", "pwd", "resource", "termios")  # modules
WITHOUT = f"""
import importlib, json, os, pkgutil, shutil, signal, socket, sys, types
import hydra, filelock, matplotlib.figure, rich, safetensors.torch, torch, torchvision, wandb
import torch.distributed.checkpoint, torch.distributed.launcher.api, torch.distributed.fsdp, torchmetrics
import sklearn.datasets, sklearn.linear_model, sklearn.svm
for name in {UNIX!r}:
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "SIGALRM"):
    delattr(signal, name)
for name in ("fork", "getuid", "geteuid", "sched_getaffinity", "killpg", "setsid", "statvfs"):
    delattr(os, name)
shutil.disk_usage = lambda path: types.SimpleNamespace(free=10**9)  # there it has no need of statvfs
import sft_exp
for module in pkgutil.walk_packages(sft_exp.__path__, "sft_exp."):
    if not module.name.endswith("__main__") and "hydra_plugins" not in module.name:
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert error.name not in {UNIX!r}, (module.name, error)
words = ["debug=tiny", "controls=false", "tracker=none", "report=false", "store=store"]
result = sft_exp.run(words) if "run" in sys.argv else {{"test": ["accuracy"]}}
print(json.dumps(sorted(result["test"])))
"""


def without_unix(out, prepare, fault, what):
    """In a process that has imported the libraries, and now imports this package again."""
    child(out, prepare)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sft_exp"]:
        del sys.modules[name]
    sys.argv = ["", what]
    exec(WITHOUT, {})  # noqa: S102


@pytest.mark.parametrize("what", ["import", pytest.param("run", marks=pytest.mark.slow)])
def test_it_imports_and_runs_without_what_only_unix_has(what):
    """Libraries are imported before: they have their own ways."""
    code, said = run(without_unix, what)
    assert code == 0, said
    assert "accuracy" in json.loads(said.splitlines()[-1])


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Windows")


def test_stop_and_workers_hear_the_signals_there_are(monkeypatch):
    for name in ("SIGUSR1", "SIGUSR2"):
        monkeypatch.delattr(signal, name)
    before = signal.getsignal(signal.SIGTERM)
    with Stop.handle_signals():
        signal.raise_signal(signal.SIGTERM)
        assert Stop.requested
    assert not Stop.requested, "a later command in this process would stop as well"
    assert signal.getsignal(signal.SIGTERM) is before
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        images._ignore_signals(0)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
    with sweeps.preemptible() as launcher:
        launcher()


def test_no_process_is_ended_by_the_question_whether_it_lives(windows, monkeypatch):
    """On Windows os.kill(pid, 0) ends a process."""

    def kill(*_):
        raise AssertionError("os.kill was called")

    monkeypatch.setattr(os, "kill", kill)
    assert not store.has_ended(Path(f"work/1.{os.getppid()}.{platform.node()}"))
    assert store.has_ended(Path(f"work/1.{os.getpid()}.{platform.node()}"))
    assert not store.has_ended(Path(f"work/1.{os.getpid()}.elsewhere"))


def test_folders_are_not_opened_and_files_are_opened_for_writing(windows, monkeypatch, tmp_path):
    real = os.open

    def strict(path, flags, *rest):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        assert flags & os.O_RDWR, "FlushFileBuffers needs the right to write"
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", strict)
    atomic_io.sync(tmp_path)
    (tmp_path / "file").write_text("x")
    atomic_io.sync(tmp_path / "file")


def test_a_file_is_moved_over_another(monkeypatch, tmp_path):
    """Path.rename refuses that on Windows."""

    def rename(self, target):
        raise FileExistsError(17, "exists")

    monkeypatch.setattr(Path, "rename", rename)
    for name in "ab":
        (tmp_path / name).write_text(name)
    atomic_io.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"


def test_a_seal_names_files_alike_everywhere(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("x")
    atomic_io.seal(tmp_path, {})
    assert list(json.loads((tmp_path / "done.json").read_text())["sha256"]) == ["sub/file"]


def test_a_worker_takes_its_socket_from_stdin_where_none_are_inherited(monkeypatch):
    """As `socket.share` and `socket.fromshare` do on Windows, by a socket that is passed under its number."""
    started = {}

    class Shared(socket.socket):
        def share(self, pid):
            started["pid"] = pid
            return str(os.dup(self.fileno())).encode()

    class Stdin:
        def __init__(self):
            self.content, self.closed = b"", False

        def write(self, content):
            self.content += content

        def close(self):
            self.closed = True

    class Process:
        pid, stderr = 7, None

        def __init__(self, command, pass_fds, stdin, env, stderr):
            assert (command[-1], list(pass_fds), stdin) == ("-", [], subprocess.PIPE)
            self.stdin = started["stdin"] = Stdin()

    a, b = socket.socketpair()
    pair = a, Shared(b.family, b.type, b.proto, b.detach())
    monkeypatch.setattr(socket, "socketpair", lambda: pair)
    monkeypatch.setattr(subprocess, "Popen", Process)
    ours = sweeps.Worker(None)
    assert started["pid"] == 7
    assert started["stdin"].closed

    class Buffer:
        @staticmethod
        def read():
            return started["stdin"].content

    monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": Buffer}))
    monkeypatch.setattr(
        socket, "fromshare", lambda told: socket.socket(fileno=int(told)), raising=False
    )
    with worker.channel("-") as theirs:
        theirs.sendall(b"an answer\n")
    assert ours.line.readline() == "an answer\n"
    ours.line.close()
    a.close()
