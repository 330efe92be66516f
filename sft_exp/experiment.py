"""What one experiment is, as typed data: the root of the config and of every request to the store. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from sft_exp.errors import ConfigError, require

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Target:
    """A library's class and the options it is built with: a `_target_` node as plain data."""

    path: str
    options: dict[str, Any]


@dataclass
class Budget:
    """How long and in what pieces one trains."""

    epochs: int = 10  # passes over the data
    steps: int | None = None  # instead of epochs
    max_steps: int | None = None  # an end to what epochs ask for
    batch_size: Any = 64  # rows a step over all processes, or `all`
    piece: int | None = None  # rows a backward pass, for batches too large for memory; null = the whole batch

    def __post_init__(self):
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        require(self.steps is None or self.steps >= 0, "steps", self.steps, "0 or more, or null")
        require(self.max_steps is None or self.max_steps > 0, "max_steps", self.max_steps, "above 0, or null")
        ok = self.batch_size == "all" or (isinstance(self.batch_size, int) and self.batch_size > 0)
        require(ok, "batch_size", self.batch_size, "a whole number above 0, or `all`")
        require(self.piece is None or self.piece > 0, "piece", self.piece, "above 0, or null")

    def size(self, n: int) -> int:
        """Rows a step for a data set of n."""
        return n if self.batch_size == "all" else min(int(self.batch_size), n)

    def total(self, n: int) -> int:
        """Steps for a data set of n; what is left of an epoch that its batches do not fill is dropped."""
        if self.steps is not None:
            return self.steps
        wanted = self.epochs * (n // max(1, self.size(n)))
        return wanted if self.max_steps is None else min(wanted, self.max_steps)


@dataclass
class Features:
    """Which of the encoder's maps are fine-tuned, and how maps with a height and a width become vectors."""

    maps: Any = None  # list of names or positions (-1 the last); null = what the pretrainer keeps
    pool: str = "avg"  # avg or max
    grid: int = 1  # pooled to grid x grid

    def __post_init__(self):
        ok = self.maps is None or (isinstance(self.maps, list) and self.maps and all(isinstance(m, int | str) for m in self.maps))
        require(bool(ok), "maps", self.maps, "a list of names or positions, e.g. [-1] or [conv3,code], or null")
        require(self.pool in ("avg", "max"), "pool", self.pool, "avg or max")
        require(self.grid > 0, "grid", self.grid, "above 0")


@dataclass
class Hardware:
    """Where and how fast. Only `precision` can change a result beyond rounding, and only it is hashed."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    threads: Any = "auto"  # CPU threads of this process; auto = the cores it may use
    precision: str = "fp32"  # fp32, or bf16 by autocast
    compile: bool = False  # torch.compile the losses
    memory: float = 4.0  # GB of images held as tensors; larger sets are decoded as they are used
    workers: int = 2  # processes that decode those
    checkpoint_seconds: float = 10.0  # between checkpoints of a stage

    def __post_init__(self):
        require(
            self.threads == "auto" or (isinstance(self.threads, int) and self.threads > 0),
            "threads",
            self.threads,
            "a number above 0, or auto",
        )
        require(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        require(self.memory > 0, "memory", self.memory, "above 0")
        require(self.workers >= 0, "workers", self.workers, "0 or more")
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, "0 or more")


@dataclass
class Experiment:
    """One job: every group's choice, and the contract's keys. Group fields are Any, so that a user's own YAML fits."""

    pretrainer: Any = None
    encoder: Any = None
    task: Any = None
    strategy: Any = None
    optim: Any = None
    pretrain_optim: Any = None
    schedule: Any = None
    pretrain_schedule: Any = None
    dataset: Any = None
    hardware: Hardware = field(default_factory=Hardware)
    tracker: Any = None

    pretrain: Budget = field(default_factory=Budget)
    finetune: Budget = field(default_factory=Budget)
    features: Features = field(default_factory=Features)

    seed: int = 0  # names every random stream but the label draws, which are named by their number
    labels: Any = 10  # everything annotated: a number a class, "5%", or "all"
    labels_total: int | None = None  # instead: a number over all classes
    draws: int = 10  # label draws fine-tuned on the one pretraining
    val: str = "cv"  # cv, holdout, none, full
    controls: bool = True  # also run the controls
    plan: bool = False  # print what would run, and run nothing
    store: str = "outputs/store"  # where stage folders live
    name: str = ""  # of the experiment, for titles
    choices: dict[str, str] = field(default_factory=dict)  # the option taken in each group

    def __post_init__(self):
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.draws > 0, "draws", self.draws, "above 0")
        require(self.val in ("cv", "holdout", "none", "full"), "val", self.val, "cv, holdout, none or full")
        require(self.labels_total is None or self.labels_total > 0, "labels_total", self.labels_total, "above 0, or null")
        require(valid_labels(self.labels), "labels", self.labels, "a number above 0 (labels a class), a share such as 5%, or all")


def valid_labels(labels: Any) -> bool:
    if isinstance(labels, bool):
        return False
    if isinstance(labels, str) and labels.endswith("%"):
        try:
            return 0 < float(labels[:-1]) <= 100
        except ValueError:
            return False
    return labels == "all" or (isinstance(labels, int) and labels > 0)


def target(node: dict[str, Any], key: str) -> Target:
    """A `_target_` node as data. `lr` is required, because sweeps range over it whatever the optimizer; `hints` and
    `batch_size` are ours and not the library's."""
    options = {k: v for k, v in node.items() if k not in ("_target_", "hints", "batch_size")}
    lr = options.get("lr")
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < float("inf"):
        raise ConfigError(f"{key}.lr", lr, "must be a number above 0")
    if not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{key}._target_", node.get("_target_"), "must name the optimizer's class, e.g. torch.optim.Adam")
    return Target(node["_target_"], {**options, "lr": float(lr)})
