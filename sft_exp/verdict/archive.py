"""An archive of the mean squares of finished studies, and the prior on the spread of a new study.

The spread of a gain depends on the scores: accuracies of 70 % vary more than those of 99 %. Per
unit of

    q = sqrt((p (1 - p))^2 + (r (1 - r))^2),    p and r the mean scores of the two arms,

which is the delta method's factor from logits to proportions, the spread is similar from study to
study. The prior predicts the mean squares of S seeds x D draws by

    rest:   e   = q^2 rest^2 + FLIPS (p (1 - p) + r (1 - r)) / tested
    seeds:  e_S = e + D q^2 seed^2
    draws:  e_D = e + S q^2 draw^2

The term with `tested`, the number of test images, accounts for equally trained networks that
disagree on single test images. An observed mean square of f degrees of freedom is modelled as
e F(f, d), with d the degrees that the archive is worth (Smyth, Statistical Applications in Genetics
and Molecular Biology 3, 2004). The four numbers seed, draw, rest and d maximise the likelihood of
all mean squares of the archive. Comparisons that share a control weigh together as much as the
square root of their number.

Scores that are not proportions (mIoU, average precision, errors in their own units) have no q. For
these the prior gives the ratios of the three mean squares alone, and the study gives their scale.
"""

import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sft_exp.errors import DataError
from sft_exp.verdict.design import Floats, mean_squares

FLIPS = 0.5  # share of the binomial variance of the test images: two networks share half the errors
# at most so many degrees are borrowed for one mean square: more would break the promise where cells
# differ much (docs/verdict.md)
MOST_DEGREES = 3.0
FEWEST_RECORDS = 2
# in a study of pretrainers: the control, and the strategy that trains whole networks
CONTROL, STRATEGY = ("none", "full")
FIXED = {"raw_pixels", "raw_svm", "pca_svm", "raw_knn", "raw_spread"}  # arms that no seed changes
# dataset options that read a folder: the folder's name is the data set's
FOLDERS = ("image_folder", "mask_folder", "webdataset", "coco", "boxes", "number_table")


@dataclass(frozen=True)
class Record:
    """The mean squares of one comparison of a finished study."""

    dataset: str
    group: str  # comparisons of one group share a control: they are not independent
    name: str
    seeds: int
    draws: int
    squares: tuple[float, ...]  # of seeds, draws and rest; 0 where a factor has one level
    pretrained: float  # mean score of the arm
    scratch: float  # mean score of the control
    tested: int  # number of test images

    @property
    def degrees(self) -> tuple[int, int, int]:
        return self.seeds - 1, self.draws - 1, (self.seeds - 1) * (self.draws - 1)


@dataclass(frozen=True)
class Prior:
    """Standard deviations of a gain per unit q, and the degrees of freedom that they are worth."""

    seed: float
    draw: float
    rest: float
    degrees: float

    def expected(
        self,
        pretrained: ArrayLike,
        scratch: ArrayLike,
        seeds: ArrayLike,
        draws: ArrayLike,
        tested: int | None = None,
        proportion: bool = True,
    ) -> Floats:
        """The predicted mean squares [..., 3] of gains whose arms have these mean scores [...].

        With `proportion` false only their ratios are meaningful. Without `tested` the term of the
        test images is left out.
        """
        p, r = (np.clip(np.asarray(x, float), 0.001, 0.999) for x in (pretrained, scratch))
        v, w = (p * (1 - p), r * (1 - r)) if proportion else (np.ones(p.shape), np.zeros(p.shape))
        q2 = v**2 + w**2
        rest = q2 * self.rest**2 + (FLIPS * (v + w) / tested if proportion and tested else 0.0)
        by_seed, by_draw = (
            np.asarray(draws) * q2 * self.seed**2,
            np.asarray(seeds) * q2 * self.draw**2,
        )
        return np.stack(np.broadcast_arrays(rest + by_seed, rest + by_draw, rest), -1)


@dataclass(frozen=True)
class Archive:
    name: str  # "archive 1", or the folder of a laboratory's own studies
    records: tuple[Record, ...]
    prior: Prior
    without: tuple[str, ...] = ()  # data sets that were left out
    # stored priors, by the data sets that they leave out
    fits: Mapping[tuple[str, ...], Prior] = field(default_factory=dict, repr=False)

    def leaving_out(self, datasets: Collection[str]) -> "Archive":
        """This archive without results of these data sets, with the prior fitted to the rest.

        Names of data sets are compared without regard to case.

        Raises:
            DataError: nothing is left.
        """
        names = {name.lower() for name in datasets}
        others = tuple(r for r in self.records if r.dataset.lower() not in names)
        if len(others) == len(self.records):
            return self
        removed = {r.dataset for r in self.records if r.dataset.lower() in names}
        without = tuple(sorted({*self.without, *removed}))
        prior = self.fits.get(without) or fit(others)
        return replace(self, records=others, prior=prior, without=without)

    @property
    def datasets(self) -> list[str]:
        return sorted({r.dataset for r in self.records})

    def describe(self) -> str:
        left_out = f", without results of {', '.join(self.without)}" if self.without else ""
        return (
            f"{self.name}: {len(self.records)} comparisons on {', '.join(self.datasets)}{left_out}"
        )

    def ratios(self) -> Floats:
        """Observed over predicted mean squares [records, 3]; NaN where a factor has one level."""
        return np.array(
            [
                np.where(np.array(r.degrees) > 0, r.squares / expected(self.prior, r), np.nan)
                for r in self.records
            ]
        )


@cache
def frozen() -> Archive:
    """The archive that comes with the program."""
    stored = json.loads((files(__package__) / "archive.json").read_text(encoding="utf-8"))
    records = tuple(Record(**{**r, "squares": tuple(r["squares"])}) for r in stored["records"])
    fits = {tuple(f["without"]): Prior(**f["prior"]) for f in stored["fits"]}
    return Archive(f"archive {stored['version']}", records, fits[()], (), fits)


def from_folder(folder: Path) -> Archive:
    """An archive of the finished studies below a folder (every `study.json`).

    It is fitted by the same code as the frozen archive.

    Raises:
        DataError: fewer than two comparisons can be read.
    """
    records = tuple(from_studies(sorted(folder.rglob("study.json"))))
    if len(records) < FEWEST_RECORDS:
        raise DataError(
            f"archive={folder}: its study.json files hold {len(records)} comparisons over seeds or draws; "
            f"a prior needs {FEWEST_RECORDS} or more"
        )
    return Archive(str(folder), records, fit(records))


def freeze(version: str, studies: Iterable[Path]) -> str:
    """The text of `archive.json`: the records of the studies, and the priors of all records and of
    those without each data set."""
    records = tuple(from_studies(studies))
    whole = Archive(version, records, fit(records))
    parts = [whole, *(whole.leaving_out([d]) for d in whole.datasets if len(whole.datasets) > 1)]
    rows = ",\n    ".join(json.dumps(asdict(r)) for r in records)
    priors = ",\n    ".join(
        json.dumps({"without": a.without, "prior": asdict(a.prior)}) for a in parts
    )
    return f'{{\n  "version": {json.dumps(version)},\n  "fits": [\n    {priors}\n  ],\n  "records": [\n    {rows}\n  ]\n}}\n'


# Fit


def expected(prior: Prior, record: Record) -> Floats:
    return prior.expected(
        record.pretrained, record.scratch, record.seeds, record.draws, record.tested
    )


def fit(records: Sequence[Record]) -> Prior:
    """The prior of largest likelihood, to three digits so that it does not depend on the machine.

    Weak normal penalties keep parameters finite that the records do not determine: log d has mean
    log 3 and standard deviation 1, the logarithms of seed / rest and draw / rest have 0 and 1.5.
    """
    from scipy.optimize import minimize

    if not records:
        raise DataError(
            "the archive holds no results of other data sets; judge without it (study.archive=none)"
        )
    together = Counter((r.dataset, r.group) for r in records)
    weights = np.array([together[r.dataset, r.group] ** -0.5 for r in records])[:, None]
    squares, degrees = (
        np.array([r.squares for r in records]),
        np.array([r.degrees for r in records], float),
    )
    v, w = (
        np.clip([getattr(r, arm) for r in records], 0.001, 0.999)
        for arm in ("pretrained", "scratch")
    )
    v, w = v * (1 - v), w * (1 - w)
    q2, flips = v**2 + w**2, FLIPS * (v + w) / np.array([r.tested for r in records])
    times = np.array([[r.draws, r.seeds] for r in records])

    def loss(x: Floats) -> float:
        seed, draw, rest = np.exp(2 * x[:3])
        e = q2 * rest + flips
        predicted = np.stack([e + times[:, 0] * q2 * seed, e + times[:, 1] * q2 * draw, e], -1)
        likelihood = log_density(
            np.maximum(squares / predicted, 1e-4), degrees, float(np.exp(x[3]))
        ) - np.log(predicted)
        penalty = (x[3] - np.log(3)) ** 2 / 2 + ((x[0] - x[2]) ** 2 + (x[1] - x[2]) ** 2) / (
            2 * 1.5**2
        )
        return float(penalty - np.where(degrees > 0, weights * likelihood, 0.0).sum())

    start = np.log([0.02, 0.05, 0.05, 3.0])
    best = minimize(
        loss, start, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-5, "fatol": 1e-7}
    ).x
    seed, draw, rest, d = (float(f"{x:.3g}") for x in np.exp(best))
    return Prior(seed, draw, rest, min(d, MOST_DEGREES))


def log_density(x: Floats, f: Floats, d: float) -> Floats:
    """Log density at x > 0 of Fisher's F distribution with f and d degrees of freedom."""
    from scipy.special import betaln

    f = np.maximum(f, 1)
    return (
        f / 2 * np.log(f / d)
        + (f / 2 - 1) * np.log(x)
        - (f + d) / 2 * np.log1p(f * x / d)
        - betaln(f / 2, d / 2)
    )


# Finished studies


def from_studies(paths: Iterable[Path]) -> Iterator[Record]:
    """Records of the comparisons of finished studies, if their gains vary over seeds or draws."""
    for path in paths:
        try:
            study = json.loads(path.read_text(encoding="utf-8"))
            yield from from_study(study, path.parent.name)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise DataError(
                f"{path}: cannot be read as a finished study ({type(e).__name__}: {e})"
            ) from e


def from_study(study: Mapping[str, Any], name: str) -> Iterator[Record]:
    """Records from the contents of one `study.json`: label efficiency, pretrainers, attribution."""
    dataset = dataset_of(study)
    if "cells" in study:
        tested = study.get("tested") or count_tested(
            np.concatenate([np.ravel(c["gains"]) for c in study["cells"]])
        )
        for c in study["cells"]:
            group = f"{name} {c['labels']}"
            yield from record(
                c["gains"], c["pretrained"], c["scratch"], tested, dataset, group, c["pretrainer"]
            )
    else:
        arms = dict(arms_of(study))
        tested = study.get("tested") or count_tested(
            np.concatenate([np.ravel(x) for pair in arms.values() for x in pair])
        )
        for (group, arm), (after, before) in arms.items():
            gains = np.asarray(after) - np.asarray(before)
            yield from record(
                gains,
                np.mean(after),
                np.mean(before),
                tested,
                dataset,
                f"{name} {group}".strip(),
                arm,
            )


def arms_of(
    study: Mapping[str, Any], fixed: bool = False
) -> Iterator[tuple[tuple[str, str], tuple[Any, Any]]]:
    """(group, arm), and the scores of the arm and of its control, each [S][D].

    Pairs of two arms that no seed changes are left out, unless `fixed` is true.
    """
    if "levels" in study:
        for before, after in pairwise(study["levels"]):
            if fixed or not {before, after} <= FIXED:
                yield ("", after), (study["levels"][after], study["levels"][before])
    elif CONTROL in study.get("pretrainers", {}):
        control = study["pretrainers"][CONTROL]["scores"]
        for arm, of in study["pretrainers"].items():
            for use, scores in of["scores"].items():
                shared = [seed for seed in scores if seed in control.get(use, {})]
                if arm != CONTROL and shared:
                    yield (
                        (use, arm),
                        ([scores[s] for s in shared], [control[use][s] for s in shared]),
                    )
    else:
        raise KeyError("cells, levels or pretrainers")


def record(
    gains: Any, pretrained: Any, scratch: Any, tested: int, dataset: str, group: str, name: str
) -> Iterator[Record]:
    """One record, or none where the gains do not vary: equal gains say nothing about spread."""
    x = np.asarray(gains, float)
    if x.ndim == 2 and np.ptp(x) > 1e-9:
        squares = tuple(float(f"{s:.4g}") for s in mean_squares(x)[0])
        seeds, draws = x.shape
        means = round(float(pretrained), 5), round(float(scratch), 5)
        yield Record(dataset, group, name, seeds, draws, squares, *means, tested)


def dataset_of(study: Mapping[str, Any]) -> str:
    """The name of the data set: the option `dataset=`, or the folder's name if that reads one."""
    settings = dict(
        word.partition("=")[::2] for word in shlex.split(study["command"]) if "=" in word
    )
    name = str(study.get("dataset") or settings.get("dataset", "digits"))
    return (
        Path(settings["dataset.root"]).name
        if name in FOLDERS and "dataset.root" in settings
        else name
    )


def count_tested(scores: Floats) -> int:
    """The number of test images of a study that does not state it.

    It is the least number that makes every score, or difference of scores, a whole number of
    images. Scores are stored in single precision.
    """
    values = np.unique(np.round(np.asarray(scores, float), 7))
    for n in range(10, 100_001):
        if np.abs(values * n - np.round(values * n)).max() < 2e-7 * n + 1e-6:
            return n
    return 100_000
