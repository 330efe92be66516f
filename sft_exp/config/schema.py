"""The typed configuration of an experiment, from which all requests to the store are derived.
Imports no torch."""

from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, ClassVar

from sft_exp.config.moved import current
from sft_exp.errors import ConfigError, require

PRECISIONS = ("fp32", "bf16", "fp16")
ENGINES = ("local", "ddp", "fsdp")
SAMPLERS = {"instance": 1.0, "sqrt": 0.5, "class": 0.0}  # exponents, arXiv:1910.09217, section 3.1
LIBRARY = "torchvision.transforms.v2"  # of transforms in views


@dataclass(frozen=True)
class OptimizerConfig:
    """A library's class and its options: a `_target_` node as plain data.

    If `lr` is a stage folder, the rate is read from the `lr.json` in it.
    """

    unhashed: ClassVar[tuple[str, ...]] = ("hints",)

    path: str
    options: dict[str, Any]
    # e.g. the learning rates that a search tries
    hints: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainConfig:
    """The length, the batch size and the schedule of a training."""

    epochs: int = 10  # passes over the data
    steps: int | None = None  # instead of epochs
    max_steps: int | None = None  # upper limit of the steps that `epochs` amount to
    batch_size: Any = 64  # images per step over all processes, or `all`
    # epochs (or steps) at which schedules end, if training stops earlier; null = where training
    # stops
    schedule_length: int | None = None
    # continue the run of this many epochs (or steps) with the same schedule_length, if it is in the
    # store
    resume_from: int | None = None
    # images per backward pass, for batches too large for memory; null = the whole batch
    micro_batch_size: int | None = None
    clip: float | None = None  # maximum norm of the gradient; null = no clipping

    def __post_init__(self):
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        require(self.steps is None or self.steps >= 0, "steps", self.steps, "0 or more, or null")
        require_above_0_or_null(self, "max_steps")
        require_above_0_or_null(self, "micro_batch_size")
        require_above_0_or_null(self, "clip")
        ok = self.batch_size == "all" or whole(self.batch_size)
        require(ok, "batch_size", self.batch_size, "a whole number above 0, or `all`")
        stop, length = self.epochs if self.steps is None else self.steps, self.schedule_length
        valid = f"{stop} or more, where this run stops; or null"
        require(length is None or length >= stop, "schedule_length", length, valid)
        start = self.resume_from
        valid = f"from 1 to below {stop}, with a schedule_length; or null"
        ok = start is None or (length is not None and 0 < start < stop)
        require(ok, "resume_from", start, valid)

    def size(self, n: int) -> int:
        """Images per step for a data set of n."""
        return n if self.batch_size == "all" else min(int(self.batch_size), n)

    def total(self, n: int) -> int:
        """Training steps on a data set of n; the incomplete last batch of an epoch is dropped."""
        return self._steps(n, self.epochs if self.steps is None else self.steps)

    def end(self, n: int) -> int:
        """Steps after which schedules end."""
        length = self.schedule_length
        return self.total(n) if length is None else self._steps(n, length)

    def before(self, n: int) -> int | None:
        """Steps of the shorter run that this one continues."""
        return None if self.resume_from is None else self._steps(n, self.resume_from)

    def _steps(self, n: int, epochs_or_steps: int) -> int:
        if self.steps is not None:
            return epochs_or_steps
        steps = epochs_or_steps * (n // max(1, self.size(n)))
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass
class FinetuneConfig(TrainConfig):
    """The options of TrainConfig, and those of fine-tuning alone."""

    # decay of an exponential moving average of the weights, which is scored and saved; 0 = no
    # average
    ema: float = 0.0
    # validations without a gain before training stops; null = no early stopping; needs val=holdout
    # or full
    patience: int | None = None
    # statistics of a pretrained BatchNorm: of each batch (train), or frozen
    batchnorm: str = "train"
    # how often classes are drawn into batches: as often as they occur (instance), equally often
    # (class), by the square root of their frequency (sqrt), or by this power of it, from 0 to 1
    sampler: Any = "instance"

    def __post_init__(self):
        super().__post_init__()
        number = isinstance(self.sampler, int | float) and not isinstance(self.sampler, bool)
        ok = 0 <= self.sampler <= 1 if number else self.sampler in (*SAMPLERS,)
        valid = f"{', '.join(SAMPLERS)}, or a number from 0 (class) to 1 (instance)"
        require(ok, "sampler", self.sampler, valid)
        ok = self.batchnorm in ("train", "frozen")
        require(ok, "batchnorm", self.batchnorm, "train or frozen")
        require(0 <= self.ema < 1, "ema", self.ema, "from 0 to below 1")
        require_above_0_or_null(self, "patience")

    @property
    def exponent(self) -> float:
        """The power of a class's frequency with which it is drawn into batches."""
        return SAMPLERS[self.sampler] if isinstance(self.sampler, str) else float(self.sampler)


@dataclass
class Features:
    """The encoder's feature maps that fine-tuning uses, and how spatial maps become vectors."""

    maps: Any = None  # list of names or indices (-1 = the last); null = the pretrainer's choice
    pool: str | None = None  # avg or max; null = the pretrainer's choice
    grid: int | None = (
        None  # maps are pooled to at most grid x grid; null = the pretrainer's choice
    )

    def __post_init__(self):
        maps, valid = self.maps, "a list of names or positions, e.g. [-1] or [conv3,code], or null"
        named = isinstance(maps, list) and all(isinstance(m, int | str) for m in maps)
        require(maps is None or (named and bool(maps)), "maps", maps, valid)
        require(self.pool in ("avg", "max", None), "pool", self.pool, "avg or max, or null")
        require_above_0_or_null(self, "grid")


@dataclass
class Transfer:
    """Requirements on weights that are loaded from a file."""

    # layers that may be missing: conv1, layer4 (all of it), layer4.*.bn1
    allow: list[str] = field(default_factory=list)
    # where a file of several networks has the one that is meant: teacher.backbone; null = the one
    # that fits best, averaged weights before others
    prefix: str | None = None

    def __post_init__(self):
        named = isinstance(self.allow, list) and all(isinstance(n, str) and n for n in self.allow)
        require(named, "allow", self.allow, "a list of layers, e.g. [conv1]")


@dataclass
class AugmentConfig:
    """The random augmentation of images, sampled for each image; sft_exp/data/augment.py applies
    it."""

    # minimum and maximum area of the crop, as a share of the image; above 1 zooms out
    crop: list[float] = field(default_factory=lambda: [0.2, 1.0])
    ratio: float = 1.33  # maximum aspect ratio of the crop; its inverse is the minimum
    flip: float = 0.5  # probability of a horizontal flip
    rotate: float = 0.0  # maximum rotation in degrees, either way
    shear: float = 0.0  # maximum shear in degrees, either way
    shift: float = (
        0.0  # maximum translation, as a share of the image's size, in addition to the crop
    )
    # strength of the change of brightness, contrast, saturation and hue, with probability 0.8
    jitter: float = 0.5
    grey: float = 0.2  # probability of conversion to greyscale
    blur: float = 0.0  # probability of a Gaussian blur
    # minimum and maximum standard deviation of the blur, in pixels
    sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    cutout: float = 0.0  # probability of a black rectangle of a twentieth to a third of the image
    # transforms of torchvision that follow, each a node with `_target_` and its options
    transforms: list[Any] = field(default_factory=list)

    def __post_init__(self):
        valid = "a list of transforms"
        require(isinstance(self.transforms, list), "transforms", self.transforms, valid)
        for node in self.transforms:
            path = node.get("_target_") if isinstance(node, dict) else None
            valid = f"nodes whose _target_ is a class of {LIBRARY}"
            require(str(path).startswith(f"{LIBRARY}."), "transforms", self.transforms, valid)
        for name in ("crop", "sigma"):
            pair = getattr(self, name)
            two = isinstance(pair, list | tuple) and len(pair) == 2 and all(map(is_number, pair))
            ok = two and 0 < pair[0] <= pair[1] < inf
            require(ok, name, pair, "[minimum, maximum], both above 0")
        ok = is_number(self.ratio) and 1 <= self.ratio < inf
        require(ok, "ratio", self.ratio, "1 or more")
        limits = {"flip": 1, "grey": 1, "blur": 1, "cutout": 1}
        limits |= {"rotate": 180, "shear": 80, "shift": 1, "jitter": 1}
        for name, limit in limits.items():
            value = getattr(self, name)
            require(is_number(value) and 0 <= value <= limit, name, value, f"from 0 to {limit}")

    @staticmethod
    def of(views: Any) -> "AugmentConfig":
        """The augmentation with these keys of the group. ConfigError for anything else."""
        known = [f.name for f in fields(AugmentConfig)]
        ok = isinstance(views, dict) and {*views} <= {*known}
        require(ok, "views", views, f"keys of the group augment: {', '.join(known)}")
        try:
            return AugmentConfig(**views)
        except ConfigError as error:
            raise error.under("views") from error


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass
class Hardware:
    """Device, precision and processes. Only `precision` and `tf32` can change a result beyond
    rounding, and only they are hashed; a GPU draws other random numbers than a CPU
    (docs/scale.md)."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    # CPU threads; auto = the cores the process may use, and one to fine-tune a small network
    threads: Any = "auto"
    # processes that fine-tune side by side; auto = the cores it may use, if there is work for them
    workers: Any = "auto"
    precision: str = "fp32"  # fp32, or bf16 or fp16 by autocast (fp16: with loss scaling)
    # products of float32 by NVIDIA's matrix units, with 10 bits of mantissa; no effect on a CPU
    tf32: bool = True
    compile: bool = False  # compile the losses with torch.compile
    checkpoint_seconds: float = 10.0  # seconds between checkpoints of a stage
    # local, ddp (networks replicated), fsdp (parameters, gradients and optimizer state sharded)
    engine: str = "local"
    # processes to start on this machine for ddp or fsdp, unless torchrun or Slurm has started them
    processes: int = 1
    timeout: float = 300.0  # seconds that processes wait for a missing one before they fail
    # backward passes per step and process; more need less memory and more time
    gradient_accumulation_steps: int = 1
    # recompute the activations of blocks in the backward pass, which saves memory
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
    """Departures from the standard protocol (docs/standard.md), which every table states beside its
    numbers."""

    transductive: bool = False  # test images, without their labels, may be pretrained on


@dataclass
class Experiment:
    """The configuration of one job. Fields of configuration groups are Any, so that a user's own
    YAML fits."""

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
    study: Any = None  # of the multirun, not of the job

    pretrain: TrainConfig = field(default_factory=TrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    features: Features = field(default_factory=Features)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    transfer: Transfer = field(default_factory=Transfer)
    protocol: Protocol = field(default_factory=Protocol)

    seed: int = (
        0  # of every random stream except the labelled splits, which depend on their number alone
    )
    # pretraining seeds that the verdict covers, this one and those after it, for pretrained and
    # scratch: a number, or auto: 3 in a single run whose pretraining takes seconds, else 1
    seeds: Any = "auto"
    # all annotations: a number per class, "5%", "all", or a CSV of image names, such as that of
    # sft_exp label
    labels: Any = 10
    # instead: a number over all classes; with a CSV, a number of its images
    labels_total: int | None = None
    draws: int = 10  # labelled splits, each fine-tuned from the same pretraining
    # cv (folds of the labels, each held out once), holdout, none, full (labels outside the budget),
    # or auto: cv in a sweep, and in a run with 50 labels a class or more, else none
    val: str = "auto"
    # by which classifiers are compared and chosen: accuracy, balanced_accuracy, or auto: accuracy,
    # unless more than 60 % of the training or test labels are of one class; other tasks have one
    # score
    score: str = "auto"
    # metrics of test predictions in addition to the task's: top_k, balanced_accuracy, auroc,
    # {_target_: torchmetrics....}
    metrics: list[Any] = field(default_factory=list)
    controls: Any = True  # also run the controls: true, false, or a list of their names
    # importance samples for the likelihood of test images, if the pretrainer has one; 0 = not
    # computed
    nll_samples: int = 0
    # measure the features during pretraining: probes inside the label budget, rank, clusters
    monitors: bool = True
    # write report.html and pictures: true, false, or auto (single runs; a sweep writes one page for
    # all)
    report: Any = "auto"
    # show images in report.html and beside it; false keeps private images out, as tracker.images does
    report_images: bool = True
    # dataset=image_folder: settings that are left out follow from the images, labels and machine; false: those of conf/
    auto: bool = True
    plan: bool = False  # print what would run, and run nothing
    # remove another experiment's results from the run folder instead of refusing the folder
    replace: bool = False
    store: str = "outputs/store"  # folder of all stage folders
    # size of the store, after a run or sweep, above which the oldest folders that no run refers to
    # are removed; null = none are
    store_max_gb: float | None = None
    # folder of your own parts: pretrainers/NAME.py, ..., and conf/pretrainer/NAME.yaml, ...
    plugins: str | None = None
    name: str = ""  # of the experiment, for titles
    choices: dict[str, str] = field(default_factory=dict)  # the selected option of each group

    def __post_init__(self):
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require(self.seeds == "auto" or whole(self.seeds), "seeds", self.seeds, "auto, or above 0")
        require(self.draws > 0, "draws", self.draws, "above 0")
        require(self.nll_samples >= 0, "nll_samples", self.nll_samples, "0 or more")
        ok = self.val in ("auto", "cv", "holdout", "none", "full")
        require(ok, "val", self.val, "auto, cv, holdout, none or full")
        require(self.report in (True, False, "auto"), "report", self.report, "true, false or auto")
        named = isinstance(self.controls, list) and all(isinstance(c, str) for c in self.controls)
        ok = isinstance(self.controls, bool) or named
        require(ok, "controls", self.controls, "true, false, or a list of names of controls")
        patience = self.finetune.patience
        if patience is not None and self.val not in ("holdout", "full"):
            valid = "must be null except with val=holdout or full"
            raise ConfigError("finetune.patience", patience, valid)
        require_above_0_or_null(self, "labels_total")
        most, valid = self.store_max_gb, "0 or more, or null"
        require(most is None or 0 <= most < inf, "store_max_gb", most, valid)
        valid = "a number above 0 (labels per class), a share such as 5%, or all; or a file.csv"
        require(valid_labels(self.labels), "labels", self.labels, valid)


def require_above_0_or_null(config: Any, name: str) -> None:
    value = getattr(config, name)
    require(value is None or value > 0, name, value, "above 0, or null")


def whole(value: Any) -> bool:
    """Whether the value is an int above 0, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def valid_labels(labels: Any) -> bool:
    if isinstance(labels, str) and labels.endswith("%"):
        try:
            return 0 < float(labels[:-1]) <= 100
        except ValueError:
            return False
    return labels == "all" or str(labels).endswith(".csv") or whole(labels)


def target(node: dict[str, Any], key: str, words: tuple[str, ...] = ()) -> OptimizerConfig:
    """A `_target_` node as an OptimizerConfig, without the keys `hints` and `batch_size`, which the
    library does not know.

    `lr` is a number or one of `words`, and required, because sweeps vary it whatever the optimizer.
    """
    options = {k: v for k, v in node.items() if k not in ("_target_", "hints", "batch_size")}
    lr, hints, path = options.get("lr"), node.get("hints") or {}, node.get("_target_")
    rate = float(lr) if isinstance(lr, int | float) and not isinstance(lr, bool) else 0.0
    require(
        lr in words or 0 < rate < inf, f"{key}.lr", lr, " or ".join(["a number above 0", *words])
    )
    if lr == "search" and not hints.get("search", {}).get("lr"):
        problem = f"needs {key}.hints.search.lr, the rates to try, in the optimizer's YAML"
        raise ConfigError(f"{key}.lr", lr, problem)
    if not isinstance(path, str):
        problem = "must name the optimizer's class, e.g. torch.optim.Adam"
        raise ConfigError(f"{key}._target_", path, problem)
    return OptimizerConfig(current(path), {**options, "lr": lr if lr in words else rate}, hints)
