"""`results.json`: a run's results as typed records. Only this module reads and writes the file.

Scores are fractions in [0, 1] unless the task says otherwise, times are seconds, sizes are bytes.
`docs/results.schema.json` is generated from these records.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from math import nan
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sft_exp.config.moved import updated
from sft_exp.errors import DataError, absent
from sft_exp.store import atomic_io

FILE = "results.json"
VERSION = 2  # 1: the files of version 0.1.0, which do not name a version

Scores = dict[str, float]  # metric -> value
DESCRIBED = ConfigDict(use_attribute_docstrings=True)  # the schema says what a field means


@dataclass(frozen=True)
class Gain:
    """The verdict on the difference between two arms (`sft_exp.verdict.Verdict`)."""

    __pydantic_config__: ClassVar = DESCRIBED

    word: str
    """One of: helped, hurt, too small to matter, cannot tell, no verdict."""
    difference: float
    """The mean difference over seeds and labelled splits, a fraction."""
    low: float | None
    """Lower end of the interval; null where nothing is known."""
    high: float | None
    """Upper end of the interval; null where nothing is known."""
    text: str = ""
    """The sentence for people."""
    draws: int = 1
    """Number of labelled splits."""
    seeds: int = 1
    """Number of pretrainings."""
    level: float = 0.95
    """Level of the interval."""
    p: float | None = None
    """p-value of the two-sided test that the gain is 0."""
    p_equivalence: float | None = None
    """p-value of the test that the gain lies outside of the margin."""
    alone: list[float | None] | None = None
    """The interval of the same level without the archive of earlier studies."""
    collapsed: list[int] = field(default_factory=list)
    """Indices of the seeds that failed."""
    covers: str = ""
    """The population that the interval generalises to."""
    this: "Gain | None" = None
    """The verdict on this pretraining alone."""
    needed: list[int] | None = None
    """Numbers of seeds and draws that would tell, if gain and spread stayed as they are."""


@dataclass(frozen=True)
class Judgement:
    """The assumptions and sources of the verdict."""

    __pydantic_config__: ClassVar = DESCRIBED

    standard: str
    """The version of the standard whose rule was applied."""
    archive: str | None
    """The archive of earlier studies whose spread counts too; null without one."""
    without: list[str]
    """Data sets whose results are left out of the archive."""
    borrowed_degrees: float | None
    """Degrees of freedom that the archive adds."""
    scale: list[float] | None
    """Factors on the archive's mean squares of seeds, labelled splits and residual; null without an
    archive."""
    notes: list[str]
    """Sentences that a reader of the verdict must also know."""


@dataclass(frozen=True)
class Likelihood:
    """-log p(x) of test images by importance sampling, in nats per image."""

    __pydantic_config__: ClassVar = DESCRIBED

    nll: float
    """Mean -log p(x), nats per image."""
    elbo: float
    """Evidence lower bound of log p(x)."""
    standard_error: float
    """Standard error of nll."""
    samples: int
    """Number of importance samples per image."""
    images: int
    """Number of test images."""
    pixels: str
    """The convention that makes the number comparable."""


@dataclass(frozen=True)
class Transfer:
    """How the encoder's weights were loaded from a file."""

    __pydantic_config__: ClassVar = DESCRIBED

    file: str
    """The file of weights."""
    layers: int
    """Number of layers that the encoder has."""
    loaded: int
    """Number of them that were loaded completely."""
    missing: list[str]
    """Names of the other layers."""
    resized: list[str]
    """Tensors that were interpolated to another shape, and why."""
    more: list[str] = field(default_factory=list)
    """Layers between those of the encoder that only the file has; `transfer.allow` named them."""
    prefix: str = ""
    """What the names of the loaded tensors begin with in the file."""
    others: list[str] = field(default_factory=list)
    """The same of other networks in the file that fit the encoder as well."""
    images: str = ""
    """How images are prepared for the weights."""
    sha256: str | None = None
    """SHA-256 of the file; null if the source is not a file, such as a run's folder."""
    origin: list[str] = field(default_factory=list)
    """The trainings behind the file, earliest first, with their data sets and files of weights; empty if unknown."""


@dataclass(frozen=True)
class Stage:
    """The store folders of one stage."""

    __pydantic_config__: ClassVar = DESCRIBED

    # Annotations, because the schema does not inherit attribute docstrings.
    folder: Annotated[str, Field(description="The folder of the first labelled split.")]
    cached: Annotated[bool, Field(description="Whether all folders were in the store already.")]
    seconds: Annotated[float, Field(description="Seconds of computing all of them.")]


@dataclass(frozen=True)
class Pretraining(Stage):
    last: dict[str, Any] = field(default_factory=dict)
    """The last row of its metrics.jsonl."""
    transfer: Transfer | None = None
    """How its weights were loaded from a file; null if they were not."""


@dataclass(frozen=True)
class Finetuning(Stage):
    converged: bool = True
    """Whether the training losses of the two arms that the verdict compares had stopped falling."""
    lr: list[float] = field(default_factory=list)
    """The learning rate of each labelled split, where it was searched."""
    lr_at_edge: bool = False
    """Whether the search chose a rate at the edge of its grid."""


@dataclass(frozen=True)
class Export(Stage):
    file: str = ""
    """Name of the exported file."""
    bytes: int = 0
    """Size of the exported file."""
    difference: float = 0.0
    """Largest difference between the outputs of the model and of the exported file."""
    tolerance: float = 0.0
    """The difference that is allowed."""


@dataclass(frozen=True)
class Stages:
    """The run's stages; null for a stage that the run does not have."""

    __pydantic_config__: ClassVar = DESCRIBED

    pretrain: Pretraining | None = None
    """The pretraining of the main arm."""
    finetune: Finetuning | None = None
    """The fine-tunings of the main arm."""
    evaluate: Stage | None = None
    """The test of each labelled split."""
    search: Stage | None = None
    """The search for a learning rate."""
    validate: Stage | None = None
    """The folds of val=cv."""
    compress: Stage | None = None
    """Compressed forms of the model."""
    benchmark: Stage | None = None
    """Measurements of the compressed forms."""
    export: Export | None = None
    """The exported model."""

    def present(self) -> dict[str, Stage]:
        """The stages that the run has, by name."""
        return {f.name: s for f in fields(self) if (s := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class Data:
    """The data set, and how many of its images were used for what."""

    __pydantic_config__: ClassVar = DESCRIBED

    name: str | None
    """Name of the data set; null in files of version 0.1.0."""
    manifest: str
    """SHA-256 of the training images and labels."""
    test_manifest: str
    """SHA-256 of the test images and labels."""
    copies: int
    """Test images that are copies, exact or near, of training images."""
    transductive: bool
    """Whether test images, without labels, may have been pretrained on."""
    train: int
    """Training images."""
    labelled: int
    """Training images whose labels were used, in one labelled split."""
    val: int
    """Validation images, in one labelled split."""
    test: int
    """Test images, in one labelled split."""
    classes: int
    """Number of classes."""
    strata: int
    """Groups from which labelled splits are drawn: the classes, where there are any."""
    ratio: float
    """Test images over labelled images of a fold, where draws are folds of one data set; else 0."""


@dataclass(frozen=True)
class Form:
    """One form of the model: the original or a compressed one."""

    __pydantic_config__: ClassVar = DESCRIBED

    form: str
    """Its name; the first one is the original."""
    accuracy: float
    """Test accuracy."""
    difference: list[float]
    """Difference of its accuracy from the original's: mean, and the ends of the interval."""
    agreement: float
    """Share of test images with the same prediction as the original's."""
    bytes: int
    """Size of its file."""
    parameters: int
    """Number of parameters."""
    macs: int
    """Multiply-accumulates for one image."""
    memory: int
    """Bytes that loading it and a batch of 64 add to a process."""
    latency_p50: float
    """The median of the seconds for one image."""
    latency_p95: float
    """The 95th percentile of the seconds for one image."""
    latency_many: float
    """Seconds for a batch of 64."""
    throughput: float
    """Images per second, in batches of 64."""


@dataclass(frozen=True)
class Bill:
    """The cost of each form of the model."""

    __pydantic_config__: ClassVar = DESCRIBED

    images: int
    """Number of test images."""
    machine: str
    """The processor that the times were measured on."""
    threads: int
    """Threads that it used."""
    rows: list[Form]
    """The forms, the original first."""


@dataclass(frozen=True)
class Folders:
    """Names of the store folders that hold the evidence."""

    __pydantic_config__: ClassVar = DESCRIBED

    data: str
    """The manifest of the training images."""
    test: str
    """The manifest of the test images."""
    arms: dict[str, list[str]]
    """Arm -> its evaluations, one for each labelled split."""
    other_seeds: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Further pretraining seed -> the same of its arms."""


@dataclass(frozen=True)
class OtherSeed:
    """The two arms of the verdict with another pretraining seed."""

    __pydantic_config__: ClassVar = DESCRIBED

    draws: dict[str, list[float]]
    """Arm -> test score of each labelled split."""
    faults: dict[str, list[str]]
    """Arm -> how its training failed in each split, "" if it did not."""


@dataclass(frozen=True)
class Results:
    """The content of results.json, in its order."""

    __pydantic_config__: ClassVar = DESCRIBED

    score: str
    """The metric of the verdict, of validation and of tables."""
    score_name: str
    """The metric's display name."""
    test: Scores
    """Means over labelled splits, and `<score>_sd`, the score's standard deviation."""
    val: Scores
    """Validation scores in the same form; empty with val=none."""
    controls: dict[str, Scores]
    """Arm -> its test scores."""
    verdict: Gain | None
    """The verdict; null without a pretrained arm and one from scratch."""
    judgement: Judgement | None
    """The assumptions and sources of the verdict; null without a verdict."""
    heads: dict[str, Gain]
    """For a task with several heads: head -> its gain over training it alone."""
    unlabelled: Gain | None
    """For a semi-supervised task: its gain over the labels alone."""
    likelihood: Likelihood | None
    """Likelihood of the test images; null with nll_samples=0."""
    stages: Stages
    """The stages with their store folders and times."""
    data: Data
    """The data set and its split sizes."""
    draws: dict[str, list[float]]
    """Arm -> test score of each labelled split."""
    val_draws: list[float] = field(default_factory=list, kw_only=True)
    """Validation score of each labelled split; empty where not every split was validated."""
    faults: dict[str, list[str]]
    """Arm -> how its training failed in each split, "" if it did not."""
    other_seeds: dict[str, OtherSeed] = field(default_factory=dict, kw_only=True)
    """Further pretraining seed -> its scores, which the verdict covers; other scores are the first seed's."""
    benchmark: Bill | None
    """Accuracy, size and speed of each compressed form; null without compress."""
    folders: Folders
    """Store folders that hold the evidence."""
    choices: dict[str, str]
    """Configuration group -> selected option."""
    config: dict[str, Any]
    """The resolved configuration."""
    version: int = VERSION
    """Version of this file's format."""

    @property
    def tested(self) -> float:
        """The mean test score."""
        return self.test[self.score]

    @property
    def validated(self) -> float | None:
        """The mean validation score; None where nothing was validated."""
        return self.val.get(self.score)

    @property
    def kind(self) -> str:
        """What the scores measure: `accuracy on digits`. Those of another kind are neither better nor worse."""
        return f"{self.score_name} on {self.data.name}" if self.data.name else self.score_name

    @property
    def objective(self) -> float:
        """What sweepers maximise: the validation score; NaN without one, as test scores choose nothing."""
        return nan if self.validated is None else self.validated


def is_proportion(metric: str) -> bool:
    """Whether the metric is a share of test images: what else is averaged over classes, boxes or images varies otherwise."""
    return metric.rpartition("/")[2] == "accuracy"


def content(results: Results) -> dict[str, Any]:
    """The file's content, with the version first."""
    record = asdict(results)
    return {"version": record.pop("version"), **record}


def write(folder: Path, results: Results) -> None:
    """Write results.json into a run folder.

    Raises:
        StorageError: the file system refuses.
    """
    atomic_io.write_json(folder / FILE, content(results))


def read(folder: Path) -> Results:
    """Read results.json of a run folder, of this version or an earlier one.

    Raises:
        DataError: the file is absent or damaged, or a later version wrote it.
    """
    file = folder / FILE
    try:
        record = json.loads(file.read_text())
    except OSError as error:
        if not folder.exists():
            raise DataError(f"{folder}: {absent(folder, 'folder')}") from error
        raise DataError(f"{folder}: no run folder with a {FILE}") from error
    except ValueError as error:
        raise DataError(f"{file}: damaged, it is not JSON ({error})") from error
    try:
        return parse(record)
    except DataError as error:
        raise type(error)(f"{file}: {error}") from error


def read_if_complete(folder: Path) -> Results | None:
    """What `read` returns; None where the file is absent or damaged.

    Raises:
        DataError: a later version wrote the file.
    """
    try:
        return read(folder)
    except NewerVersion:
        raise
    except DataError:
        return None


def parse(record: Any) -> Results:
    """The typed form of the file's content.

    Raises:
        DataError: names the first field that is absent or has another type.
    """
    if not isinstance(record, dict):
        raise DataError("damaged, it is not a JSON object")
    try:
        return adapter(Results).validate_python(upgraded(record))
    except (AttributeError, KeyError, TypeError) as error:  # while an older file is upgraded
        raise DataError(f"damaged: {type(error).__name__} {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"damaged at {where}: {first['msg']}") from error


def parse_bill(record: dict[str, Any]) -> Bill:
    """The typed form of a `bill.json` in the store."""
    return adapter(Bill).validate_python(record)


def schema() -> dict[str, Any]:
    """The JSON schema of results.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **adapter(Results).json_schema(mode="serialization"),
        "title": f"{FILE} of sft_exp, version {VERSION}",
    }


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class NewerVersion(DataError):
    """A later version of this package wrote the file."""


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """The content of an older file as this version would have written it.

    Raises:
        NewerVersion: the file's version is not known here.
    """
    version = record.get("version", 1)
    if not isinstance(version, int):
        raise DataError(f"damaged at version: {version!r} is not a whole number")
    if version > VERSION:
        raise NewerVersion(
            f"version {version}; this sft_exp reads versions 1 to {VERSION}, a later one wrote it"
        )
    if version == 1:
        record = from_version_1(record)
    return record


def from_version_1(record: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a file of version 1, which wrote {} for absent values and lacks some fields."""
    score = record.get("score", "accuracy")
    added = {
        "score": score,
        "score_name": score,
        "judgement": None,
        "heads": {},
        "unlabelled": None,
        "likelihood": None,
        "faults": {},
        "bill": None,
    }
    record = {**added, **record, "version": VERSION}
    for name in ("verdict", "judgement", "unlabelled", "likelihood", "bill"):
        record[name] = record[name] or None
    record["benchmark"] = record.pop("bill")
    stages = {name: stage or None for name, stage in record["stages"].items()}
    record["stages"] = {"benchmark" if n == "bill" else n: stage for n, stage in stages.items()}
    record["config"] = updated(record["config"])
    data = record["data"]
    record["data"] = {"name": None, "strata": data["classes"], **data}
    return record
