"""What a stage needs that cannot change its result: device, threads, tracker, stop requests."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from sft_exp.config.schema import Hardware
from sft_exp.core.method import Method
from sft_exp.core.tracker import About, Run, Tracker
from sft_exp.data import decoded
from sft_exp.data.corpus import Corpus, Dataset
from sft_exp.data.images import Images
from sft_exp.distributed.group import Group, first, present
from sft_exp.distributed.local import Engine
from sft_exp.distributed.select import engine_for
from sft_exp.errors import ConfigError, DeviceMemoryError, beyond_memory, first_line
from sft_exp.store.requests import plain
from sft_exp.training.loop import Plan

_corpora: dict[str, Corpus] = {}  # data sets that this process has read, by configuration


@dataclass
class Context:
    """What a stage needs to run besides its request; none of it changes a result."""

    hardware: Hardware
    device: torch.device
    tracker: Tracker = field(default_factory=Tracker)
    config: dict[str, Any] = field(default_factory=dict)  # the job's, for the tracker
    typed: Sequence[str] = ()  # the overrides that the user typed
    varying: Sequence[str] = ()  # those that distinguish the job within its sweep
    # name of a store folder -> description of its run in the tracker
    mirrored: dict[str, About] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)  # open tracker runs, by store folder
    group: Group | None = None  # the processes that compute this stage together

    @classmethod
    def on(
        cls,
        hardware: Hardware,
        tracker: Tracker,
        config: dict[str, Any] | None = None,
        typed: Sequence[str] = (),
        varying: Sequence[str] = (),
    ) -> "Context":
        """Claim the device and set the number of threads. Only the first process has a tracker."""
        local = int(os.environ.get("LOCAL_RANK", 0)) if present() else None
        device = pick(hardware.device, local)
        if device.type == "cuda":
            set_cuda_arithmetic(hardware.tf32)
        threads = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        limit = int(os.environ.get("OMP_NUM_THREADS", threads))
        torch.set_num_threads(
            min(threads, limit) if hardware.threads == "auto" else hardware.threads
        )
        return cls(
            hardware, device, tracker if first() else Tracker(), config or {}, typed, varying
        )

    @property
    def first(self) -> bool:
        """Whether this process writes the stage's results."""
        return self.group is None or self.group.rank == 0

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is true in any process; all processes get the same answer."""
        return list(flags) if self.group is None else self.group.any(*flags)

    def announce_stage(self, stage: str, folder: Path, request: str) -> "Context":
        """Tell the other processes which stage, request and folder to work on; returns itself."""
        if self.group and self.group.rank == 0:
            self.group.broadcast({"stage": stage, "folder": str(folder), "request": request})
        return self

    def engine(
        self, method: Method, nets: nn.ModuleDict, plan: Plan, data: Mapping[str, Images]
    ) -> Engine:
        """The engine that computes losses and gradients in as many processes as there are."""
        return engine_for(self.hardware.engine, self.group, method, nets, plan, data)

    def watch(self, folder: str) -> Run:
        """The tracker's run of a store folder; a no-op run if the folder is not mirrored."""
        if folder not in self.mirrored:
            return Run()
        if folder not in self.runs:
            about = self.mirrored[folder]
            run = self.runs[folder] = self.tracker.open(about, Stop.request)
            if run.where:
                self.tracker.show(about.folder, run.where)
        return self.runs[folder]

    def finish(self, folder: str, code: int = 0) -> None:
        """End the tracker's run of a store folder, if one is open, with an exit code."""
        if folder in self.runs:
            self.runs.pop(folder).finish(code)

    def corpus(self, dataset: Dataset) -> Corpus:
        """The data set on this context's device (`corpus`)."""
        return corpus(dataset, self.device)


def corpus(dataset: Dataset, device: torch.device | None = None) -> Corpus:
    """The data set, read once per process and moved to the device if its images are tensors.

    Raises:
        DataError: it cannot be read.
        DeviceMemoryError: memory does not hold it.
    """
    key = repr((plain(dataset), [getattr(dataset, f, None) for f in dataset.unhashed]))
    if key not in _corpora:
        try:
            _corpora[key] = dataset.load()
        except (RuntimeError, MemoryError) as error:
            if said := beyond_memory(error):
                raise DeviceMemoryError(f"reading the data set: {said}") from error
            raise
        decoded.keep(_corpora[key], dataset)
    dataset_corpus = _corpora[key]
    if device is not None:
        for split in ("train", "test", "extra"):
            if (
                (images := getattr(dataset_corpus, split)) is not None
                and isinstance(images.x, torch.Tensor)
                and images.x.device != device
            ):
                setattr(dataset_corpus, split, images.to(device))
    return dataset_corpus


def pick(name: str, local: int | None = None) -> torch.device:
    """The device of that name; `auto` prefers cuda, then mps, then cpu. ConfigError if unavailable.

    With several processes on a machine, each takes the GPU of its local rank `local`.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if name == "cuda" and local is not None:
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device `meta` exists but holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            "hardware.device",
            name,
            f"is not available here ({first_line(error)}); try auto or cpu",
        ) from error
    return device


def set_cuda_arithmetic(tf32: bool) -> None:
    """Choose deterministic kernels on NVIDIA GPUs, and whether products of float32 use TF32.

    An operation without a deterministic kernel warns. A killed and resumed run then agrees with an
    uninterrupted one up to rounding only.
    """
    # torch.compile reads these, and fails where `fp32_precision`, their successor, was set
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by the first product
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # that memory is always written before use


# signals that request a stop; Windows has the first two
STOPPING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")


class Stop:
    """A stop request, set by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 and read after each step.

    A second SIGINT exits the process at once.
    """

    requested = False

    @classmethod
    @contextmanager
    def handle_signals(cls) -> Iterator[None]:
        """Handle the signals inside the context and restore their former handlers afterwards.

        Python only delivers signals to the main thread; in others nothing is installed.
        """
        cls.requested = False
        former = {}
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                if number := getattr(signal, name, None):
                    former[number] = signal.signal(number, cls._handle_signal)
        try:
            yield
        finally:
            cls.requested = False  # it was for what ran in the context, not for what comes next
            for number, handler in former.items():
                signal.signal(number, handler)

    @classmethod
    def request(cls) -> None:
        """Request a stop, as a signal would."""
        cls.requested = True

    @classmethod
    def _handle_signal(cls, number: int, frame: FrameType | None) -> None:
        if cls.requested and number == signal.SIGINT:
            os._exit(130)
        cls.requested = True
