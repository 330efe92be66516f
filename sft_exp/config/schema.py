"""What one experiment is, as typed data: the root of the config and of every request to the store. Imports no torch."""

from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar

from sft_exp.config.moved import current
from sft_exp.errors import ConfigError, require

PRECISIONS = ("fp32", "bf16", "fp16")
ENGINES = ("local", "ddp", "fsdp")


@dataclass(frozen=True)
class OptimizerConfig:
    """A library's class and the options it is built with: a `_target_` node as plain data.

    An `lr` that is a folder is read from the `lr.json` which the stage of that folder writes.
    """

    unhashed: ClassVar[tuple[str, ...]] = ("hints",)

    path: str
    options: dict[str, Any]
    # ours: e.g. which learning rates a search tries
    hints: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainConfig:
    """How long and in what pieces one trains."""

    epochs: int = 10  # passes over the data
    steps: int | None = None  # instead of epochs
    max_steps: int | None = None  # an end to what epochs ask for
    batch_size: Any = 64  # rows a step over all processes, or `all`
    # epochs (or steps) after which schedules end, if one stops earlier; null = where one stops
    schedule_length: int | None = None
    # go on from the run of so many epochs (or steps) with this schedule length, if it is in the store
    resume_from: int | None = None
    # rows a backward pass, for batches too large for memory; null = the whole batch
    micro_batch_size: int | None = None
    clip: float | None = None  # largest norm of the gradient; null = as it is

    def __post_init__(self):
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        require(self.steps is None or self.steps >= 0, "steps", self.steps, "0 or more, or null")
        require(
            self.max_steps is None or self.max_steps > 0,
            "max_steps",
            self.max_steps,
            "above 0, or null",
        )
        ok = self.batch_size == "all" or whole(self.batch_size)
        require(ok, "batch_size", self.batch_size, "a whole number above 0, or `all`")
        stop = self.epochs if self.steps is None else self.steps
        require(
            self.schedule_length is None or self.schedule_length >= stop,
            "schedule_length",
            self.schedule_length,
            f"{stop} or more, where this run stops; or null",
        )
        ok = self.resume_from is None or (
            self.schedule_length is not None and 0 < self.resume_from < stop
        )
        require(
            ok,
            "resume_from",
            self.resume_from,
            f"from 1 to below {stop}, with a schedule_length; or null",
        )
        require(
            self.micro_batch_size is None or self.micro_batch_size > 0,
            "micro_batch_size",
            self.micro_batch_size,
            "above 0, or null",
        )
        require(self.clip is None or self.clip > 0, "clip", self.clip, "above 0, or null")

    def size(self, n: int) -> int:
        """Rows a step for a data set of n."""
        return n if self.batch_size == "all" else min(int(self.batch_size), n)

    def total(self, n: int) -> int:
        """Steps to take on a data set of n; what is left of an epoch that its batches do not fill is dropped."""
        return self._steps(n, self.epochs if self.steps is None else self.steps)

    def end(self, n: int) -> int:
        """Steps after which schedules end."""
        return (
            self.total(n) if self.schedule_length is None else self._steps(n, self.schedule_length)
        )

    def before(self, n: int) -> int | None:
        """Steps of the shorter run that this one goes on from."""
        return None if self.resume_from is None else self._steps(n, self.resume_from)

    def _steps(self, n: int, epochs_or_steps: int) -> int:
        if self.steps is not None:
            return epochs_or_steps
        wanted = epochs_or_steps * (n // max(1, self.size(n)))
        return wanted if self.max_steps is None else min(wanted, self.max_steps)


@dataclass
class FinetuneConfig(TrainConfig):
    """How long, in what pieces, and with what is watched meanwhile."""

    # decay of a running mean of the weights, which is then what is scored and kept; 0 = the last
    # weights
    ema: float = 0.0
    # looks at the validation without a gain before it ends; null = to the end; needs val=holdout or
    # full
    patience: int | None = None
    # statistics of a pretrained BatchNorm: of each batch (train), or frozen
    batchnorm: str = "train"

    def __post_init__(self):
        super().__post_init__()
        ok = self.batchnorm in ("train", "frozen")
        require(ok, "batchnorm", self.batchnorm, "train or frozen")
        require(0 <= self.ema < 1, "ema", self.ema, "from 0 to below 1")
        require(
            self.patience is None or self.patience > 0,
            "patience",
            self.patience,
            "above 0, or null",
        )


@dataclass
class Features:
    """Which of the encoder's maps are fine-tuned, and how maps with a height and a width become vectors."""

    maps: Any = None  # list of names or positions (-1 the last); null = what the pretrainer keeps
    pool: str | None = None  # avg or max; null = as the pretrainer keeps them
    grid: int | None = None  # pooled to at most grid x grid; null = as the pretrainer keeps them

    def __post_init__(self):
        ok = self.maps is None or (
            isinstance(self.maps, list)
            and self.maps
            and all(isinstance(m, int | str) for m in self.maps)
        )
        require(
            bool(ok),
            "maps",
            self.maps,
            "a list of names or positions, e.g. [-1] or [conv3,code], or null",
        )
        require(self.pool in ("avg", "max", None), "pool", self.pool, "avg or max, or null")
        require(self.grid is None or self.grid > 0, "grid", self.grid, "above 0, or null")


@dataclass
class Transfer:
    """What is asked of weights that come from a file."""

    # layers that may be missing: conv1, layer4 (all of it), layer4.*.bn1
    allow: list[str] = field(default_factory=list)

    def __post_init__(self):
        ok = isinstance(self.allow, list) and all(
            isinstance(name, str) and name for name in self.allow
        )
        require(ok, "allow", self.allow, "a list of layers, e.g. [conv1]")


@dataclass
class AugmentConfig:
    """How far a view of an image may be from it. Each image draws its own numbers; sft_exp/data/augment.py applies them."""

    # least and most area of the window shown; above 1 zooms out
    crop: list[float] = field(default_factory=lambda: [0.2, 1.0])
    ratio: float = 1.33  # most of the window's width to its height, or height to width
    flip: float = 0.5  # chance of left and right changing places
    rotate: float = 0.0  # degrees, either way
    shear: float = 0.0  # degrees, either way
    shift: float = 0.0  # share of the image's size, either way, beside where the window lies
    # strength of the change of brightness, contrast, saturation and hue; chance 0.8
    jitter: float = 0.5
    grey: float = 0.2  # chance of losing all colour
    blur: float = 0.0  # chance of a Gaussian blur
    # least and most standard deviation of the blur, in pixels
    sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    cutout: float = 0.0  # chance that a rectangle, a twentieth to a third of the image, goes black

    def __post_init__(self):
        for name in ("crop", "sigma"):
            pair = getattr(self, name)
            require(
                len(pair) == 2 and 0 < pair[0] <= pair[1] < inf,
                name,
                pair,
                "[least, most], both above 0",
            )
        require(1 <= self.ratio < inf, "ratio", self.ratio, "1 or more")
        for name in ("flip", "grey", "blur", "cutout"):
            require(
                0 <= getattr(self, name) <= 1, name, getattr(self, name), "a chance from 0 to 1"
            )
        for name, most in (("rotate", 180), ("shear", 80), ("shift", 1), ("jitter", 1)):
            require(
                0 <= getattr(self, name) <= most, name, getattr(self, name), f"from 0 to {most}"
            )


@dataclass
class Hardware:
    """Where and how fast. Only `precision` and `tf32` can change a result beyond rounding, and only
    they are hashed; a GPU draws other random numbers than a CPU (docs/scale.md)."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    # CPU threads; auto = the cores the process may use, and one to fine-tune a small network
    threads: Any = "auto"
    # processes that fine-tune side by side; auto = the cores it may use, if there is work for them
    workers: Any = "auto"
    precision: str = "fp32"  # fp32, or bf16 or fp16 by autocast (fp16: with loss scaling)
    # products of float32 by NVIDIA's matrix units, with 10 bits of mantissa; no effect on a CPU
    tf32: bool = True
    compile: bool = False  # torch.compile the losses
    checkpoint_seconds: float = 10.0  # between checkpoints of a stage
    # local, ddp (networks on every process), fsdp (parameters, gradients, optimizer shared out)
    engine: str = "local"
    # started on this machine for ddp or fsdp, where torchrun or Slurm has not started them
    processes: int = 1
    timeout: float = 300.0  # seconds that processes wait for one of them before they give up
    # pieces that a process takes its rows of a batch in, adding gradients: memory for time
    gradient_accumulation_steps: int = 1
    # blocks of the network keep their input alone and are computed again in backward: the same
    recompute: bool = False

    def __post_init__(self):
        require(self.engine in ENGINES, "engine", self.engine, ", ".join(ENGINES))
        require(whole(self.processes), "processes", self.processes, "1 or more")
        valid = "1 with engine=local; take hardware=ddp or hardware=fsdp"
        require(self.processes == 1 or self.engine != "local", "processes", self.processes, valid)
        require(0 < self.timeout < inf, "timeout", self.timeout, "above 0")
        require(
            whole(self.gradient_accumulation_steps),
            "gradient_accumulation_steps",
            self.gradient_accumulation_steps,
            "1 or more",
        )
        require(
            self.threads == "auto" or whole(self.threads),
            "threads",
            self.threads,
            "a number above 0, or auto",
        )
        require(
            self.workers == "auto" or whole(self.workers),
            "workers",
            self.workers,
            "a number above 0, or auto",
        )
        require(
            self.workers in ("auto", 1) or self.engine == "local",
            "workers",
            self.workers,
            "1 or auto with engine=ddp and engine=fsdp",
        )
        require(self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS))
        require(
            self.precision != "fp16" or self.engine != "fsdp",
            "precision",
            self.precision,
            "fp32 or bf16 with engine=fsdp, which shares out the gradients that loss scaling checks",
        )
        require(
            self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, "0 or more"
        )

    def numerics(self) -> str:
        """What a result depends on, as requests state it: the precision, and TF32 where it is off."""
        return self.precision if self.tf32 else f"{self.precision} without tf32"


@dataclass
class Protocol:
    """What a table must say beside its numbers, because it departs from the standard (docs/standard.md)."""

    transductive: bool = False  # test images, without their labels, may be pretrained on


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
    pretrain_dataset: Any = None
    hardware: Hardware = field(default_factory=Hardware)
    tracker: Any = None
    compress: Any = None
    export: Any = None
    study: Any = None  # not of the job, but of the multirun that it belongs to

    pretrain: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    features: Features = field(default_factory=Features)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    transfer: Transfer = field(default_factory=Transfer)
    protocol: Protocol = field(default_factory=Protocol)

    seed: int = 0  # names every random stream but the label draws, which are named by their number
    # everything annotated: a number a class, "5%", "all", or a CSV of images by name, such as
    # sft_exp.label's
    labels: Any = 10
    # instead: a number over all classes; with a CSV, so many of its images
    labels_total: int | None = None
    draws: int = 10  # label draws fine-tuned on the one pretraining
    # auto, cv, holdout, none, full; `jobs.prepare` and `sweep.sweeps` say what auto stands for
    val: str = "auto"
    # of test predictions, beside the task's: top_k, balanced_accuracy, auroc, {_target_:
    # torchmetrics....}
    metrics: list[Any] = field(default_factory=list)
    controls: Any = True  # also run the controls: true, false, or a list of their names
    # importance samples for the likelihood of test images, where the pretrainer has one; 0 = not
    # computed
    nll_samples: int = 0
    # look at the features while pretraining: probes inside the label budget, rank, clusters
    monitors: bool = True
    # write report.html and pictures: true, false, or auto (single runs; a sweep ends with one page
    # for all)
    report: Any = "auto"
    # show images in report.html and beside it; false keeps private images out, as tracker.images does
    report_images: bool = True
    # dataset=image_folder: settings that are left out follow from the images, labels and machine; false: those of conf/
    auto: bool = True
    plan: bool = False  # print what would run, and run nothing
    # remove the results of another experiment that lie in the run folder, instead of refusing it
    replace: bool = False
    store: str = "outputs/store"  # where stage folders live
    # folder of your own parts: pretrainers/mine.py, ..., and conf/pretrainer/mine.yaml, ...
    plugins: str | None = None
    name: str = ""  # of the experiment, for titles
    choices: dict[str, str] = field(default_factory=dict)  # the option taken in each group

    def __post_init__(self):
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.draws > 0, "draws", self.draws, "above 0")
        require(self.nll_samples >= 0, "nll_samples", self.nll_samples, "0 or more")
        require(
            self.val in ("auto", "cv", "holdout", "none", "full"),
            "val",
            self.val,
            "auto, cv, holdout, none or full",
        )
        require(self.report in (True, False, "auto"), "report", self.report, "true, false or auto")
        named = isinstance(self.controls, list) and all(isinstance(c, str) for c in self.controls)
        require(
            isinstance(self.controls, bool) or named,
            "controls",
            self.controls,
            "true, false, or a list of names of controls",
        )
        watched = self.finetune.patience is None or self.val in ("holdout", "full")
        if not watched:
            raise ConfigError(
                "finetune.patience",
                self.finetune.patience,
                "must be null but with val=holdout or full",
            )
        require(
            self.labels_total is None or self.labels_total > 0,
            "labels_total",
            self.labels_total,
            "above 0, or null",
        )
        valid = "a number above 0 (labels a class), a share such as 5%, or all; or a file.csv"
        require(valid_labels(self.labels), "labels", self.labels, valid)


def whole(value: Any) -> bool:
    """A whole number above 0; `true` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def valid_labels(labels: Any) -> bool:
    if isinstance(labels, str) and labels.endswith("%"):
        try:
            return 0 < float(labels[:-1]) <= 100
        except ValueError:
            return False
    return labels == "all" or str(labels).endswith(".csv") or whole(labels)


def target(node: dict[str, Any], key: str, words: tuple[str, ...] = ()) -> OptimizerConfig:
    """A `_target_` node as data. `lr` is required, because sweeps range over it whatever the optimizer: a number, or one
    of `words`. `hints` and `batch_size` are ours and not the library's."""
    options = {k: v for k, v in node.items() if k not in ("_target_", "hints", "batch_size")}
    lr, hints = options.get("lr"), node.get("hints") or {}
    if lr not in words and (
        isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < float("inf")
    ):
        raise ConfigError(f"{key}.lr", lr, " or ".join(["must be a number above 0", *words]))
    if lr == "search" and not hints.get("search", {}).get("lr"):
        raise ConfigError(
            f"{key}.lr",
            lr,
            f"needs {key}.hints.search.lr, the rates to try, in the optimizer's YAML",
        )
    if not isinstance(node.get("_target_"), str):
        raise ConfigError(
            f"{key}._target_",
            node.get("_target_"),
            "must name the optimizer's class, e.g. torch.optim.Adam",
        )
    return OptimizerConfig(
        current(node["_target_"]), {**options, "lr": lr if lr in words else float(lr)}, hints
    )
