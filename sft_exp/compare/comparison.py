"""Compare the jobs of a sweep, of several, or single runs: `sft_exp compare outputs/multirun/<id>`.

Settings are sorted and chosen by validation, never by the test score, which is shown beside it. The
comparison depends on the jobs' results alone, so a sweep that was killed and continued gives the
same as an undisturbed one.
"""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sft_exp.config.dotted import leaves
from sft_exp.config.moved import updated
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.data import tables
from sft_exp.errors import DataError, absent, some
from sft_exp.reports.page import Grid
from sft_exp.store import results
from sft_exp.store.results import Gain, Results
from sft_exp.training import health
from sft_exp.verdict import WITHHELD

# keys and groups without influence on a result ...
SILENT = (
    "tracker", "hardware", "store", "name", "plan", "report", "report_images", "store_max_gb",
    "monitors", "choices", "replace", "controls",
)  # fmt: skip
EXCEPT = ("hardware.precision", "hardware.tf32")  # ... except these
RATES = ("optim.lr", "pretrain_optim.lr")
IMAGES = "images"  # the setting that tells images apart which the keys of the data set do not
# right-aligned columns
NUMBERS = ("seeds", "val", "± val", "test", "± test", "gain", "exit code")
NAMED = 4  # pairs of jobs, and kinds of scores, that a note names
SENTENCES = ("what", "error")  # columns whose lines may break


@dataclass(frozen=True)
class Job:
    """One job, finished or not."""

    # its number in the sweep; if several folders are compared, after the sweep's name
    name: str
    folder: Path
    settings: dict[str, Any]  # choices and dotted keys; empty if the job recorded none
    status: dict[str, Any]
    result: Results | None  # None unless the job is done
    of_study: bool = False  # whether it belongs to a study, which has a verdict of its own

    @property
    def outcome(self) -> Results:
        """The results of a job that is done.

        Raises:
            DataError: it is not done.
        """
        if self.result is None:
            raise DataError(f"{self.folder}: the job is {self.state} and has no results")
        return self.result

    @property
    def state(self) -> str:
        """done, running, failed or interrupted, as in status.json; missing if the job never began,
        damaged if it is done and has no result."""
        state = str(self.status.get("state", "missing"))
        return "damaged" if state == "done" and self.result is None else state

    @property
    def score(self) -> str:
        """The metric by which the task is judged."""
        return self.result.score if self.result else "accuracy"

    @property
    def score_name(self) -> str:
        """The metric's name in texts."""
        return self.result.score_name if self.result else self.score

    @property
    def val(self) -> float | None:
        return self.result.validated if self.result else None

    @property
    def test(self) -> float | None:
        return self.result.tested if self.result else None

    @property
    def verdict(self) -> Gain | None:
        return self.result.verdict if self.result else None

    @property
    def gain(self) -> float | None:
        """The gain over scratch; None if the training of scratch failed."""
        verdict = self.verdict
        return None if verdict is None or verdict.word == WITHHELD else verdict.difference

    @property
    def interval(self) -> str:
        """The gain's interval in points: `+0.3 to +5.0`; "" without one."""
        verdict = self.verdict
        if self.gain is None or verdict is None or verdict.low is None or verdict.high is None:
            return ""
        return f"{100 * verdict.low:+.1f} to {100 * verdict.high:+.1f}"

    def faults(self, arm: str) -> list[str]:
        """How the arm's training failed in each draw (`health.fault`); empty where it did not."""
        if self.result is None:
            return []
        return self.result.faults.get(arm) or [""] * len(self.result.draws.get(arm, []))

    @property
    def failures(self) -> list[str]:
        """Which of the two compared arms failed to train, and how."""
        # without pretraining the main arm is scratch itself, and has no name
        names = {SCRATCH: SCRATCH, MAIN: MAIN} if self.verdict else {MAIN: ""}
        return [
            f"{name} {how}".strip()
            for arm, name in names.items()
            if (how := health.state(self.faults(arm)))
        ]

    @property
    def said(self) -> str:
        """The verdict's word, and which of the two compared arms failed to train."""
        word = self.verdict.word if self.verdict else ""
        return "; ".join([*([word] if word and word != WITHHELD else []), *self.failures])


@dataclass(frozen=True)
class Row:
    """Jobs that differ in the seed alone."""

    jobs: list[Job]

    @property
    def done(self) -> list[Job]:
        return [j for j in self.jobs if j.result]

    @property
    def results(self) -> list[Results]:
        """The results of the jobs that are done."""
        return [j.result for j in self.jobs if j.result]

    @property
    def settings(self) -> dict[str, Any]:
        return self.jobs[0].settings

    @property
    def judged_together(self) -> bool:
        """Whether several pretraining seeds have scores of scratch, and with it one verdict."""
        both = [job.verdict and job.outcome.draws.get(SCRATCH) for job in self.done]
        return len(both) > 1 and all(both) and not any(job.of_study for job in self.done)

    @property
    def diverged(self) -> bool:
        """Whether a training of the main arm diverged, as the verdict defines it."""
        return any(f.startswith(health.DIVERGED) for job in self.done for f in job.faults(MAIN))

    @property
    def val(self) -> float | None:
        return mean(j.val for j in self.done)

    @property
    def test(self) -> float | None:
        return mean(j.test for j in self.done)


class Comparison:
    """Jobs as rows, the best by validation first."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = told_apart(jobs)
        known = [j.settings for j in self.jobs if j.settings]
        everything = list(dict.fromkeys(k for s in known for k in s))
        # the columns of the table
        self.keys = [k for k in everything if k != "seed" and differs(k, known)]
        self.names = {k: short(k, everything) for k in everything}
        self.seeds = len({repr(s.get("seed")) for s in known}) > 1
        # jobs of the same settings and seed whose scores differ: the first counts
        self.unlike: list[tuple[Job, Job]] = []
        rows: dict[str, dict[str, Job]] = {}
        for job in self.jobs:
            key = repr([job.settings.get(k) for k in self.keys]) if job.settings else job.name
            same = rows.setdefault(key, {})
            seed = repr(job.settings.get("seed"))
            if seed not in same or not same[seed].result:  # the same job in two folders counts once
                same[seed] = job
            elif job.result and scores_of(job) != scores_of(same[seed]):
                self.unlike.append((same[seed], job))
        # scores that are equal up to rounding are tied
        self.rows = sorted(
            (Row(list(by_seed.values())) for by_seed in rows.values()),
            key=lambda r: (not r.done, r.val is None, -round(r.val or 0.0, 6)),
        )

    @cached_property
    def score(self) -> str:
        """The metric of the jobs' tasks; several names if they differ."""
        return ", ".join(dict.fromkeys(j.score for j in self.jobs if j.result)) or "accuracy"

    @cached_property
    def score_name(self) -> str:
        """The metric's name in texts; several names if the jobs differ in it."""
        return ", ".join(dict.fromkeys(j.score_name for j in self.jobs if j.result)) or "accuracy"

    @cached_property
    def kinds(self) -> list[str]:
        """What the jobs' scores measure: the metric and the data set."""
        return list(dict.fromkeys(j.result.kind for j in self.jobs if j.result))

    @cached_property
    def validated(self) -> bool:
        return any(r.val is not None for r in self.rows)

    @cached_property
    def several(self) -> bool:
        return any(len(r.done) > 1 for r in self.rows)

    @property
    def undone(self) -> list[Job]:
        return [j for j in self.jobs if j.state != "done"]

    @property
    def best(self) -> list[Row]:
        """The best row of each pretrainer, by validation, of those that did not diverge. None where the
        jobs have scores of several kinds, such as accuracy and mIoU or those of two data sets, whose numbers say
        nothing about each other."""
        best: dict[str, Row] = {}
        if len(self.kinds) > 1:
            return []
        for row in self.rows:
            if row.val is not None and not row.diverged:
                best.setdefault(str(row.settings.get("pretrainer")), row)
        return list(best.values())

    def what(self, job: Job) -> str:
        """The settings by which the job differs from others: `pretrainer=ae optim.lr=0.1 seed=1`."""
        keys = [*self.keys, *(["seed"] if self.seeds else [])]
        return " ".join(
            f"{self.names[k]}={show(job.settings[k])}" for k in keys if k in job.settings
        )

    def edge(self, row: Row) -> str:
        """A remark if a learning rate of this row is the smallest or largest that was tried with its
        pretrainer and optimizer."""
        remarks = []
        for key in RATES:
            alike = ("pretrainer", key.partition(".")[0])
            same = [
                j.settings
                for j in self.jobs
                if all(j.settings.get(k) == row.settings.get(k) for k in alike)
            ]
            # the rates auto and search are not numbers
            grid = sorted({s[key] for s in same if isinstance(s.get(key), float | int)})
            if len(grid) > 1 and row.settings.get(key) in (grid[0], grid[-1]):
                end, inner = grid[:2] if row.settings[key] == grid[0] else grid[:-3:-1]
                name = "" if key == RATES[0] else f"{key} "
                remarks.append(f"edge of the {name}grid: try {beyond(end, inner)}")
        return "; ".join(remarks)

    def table(self) -> Grid:
        """The table of all rows, in percent, without empty columns."""
        head = [
            "job",
            *(self.names[k] for k in self.keys),
            "seeds",
            "val",
            "± val",
            "test",
            "± test",
            "gain",
            "interval",
            "verdict",
            "state",
        ]
        body = []
        for r in self.rows:
            # a verdict on several seeds stands below the table
            of_study = len(r.done) > 1 and r.done[0].of_study  # its own verdict follows
            elsewhere = r.judged_together or of_study
            said = ["; ".join(j.failures) if elsewhere else j.said for j in r.done]
            words = [words for words in said if words]
            states = [j.state for j in r.jobs if j.state != "done"]
            body.append(
                [
                    ranges([j.name for j in r.jobs]),
                    *(show(r.settings.get(k)) for k in self.keys),
                    str(len(r.done)) if self.several else "",
                    percent(r.val),
                    percent(spread(r, "val", self.several)),
                    percent(r.test),
                    percent(spread(r, "test", self.several)),
                    percent(mean(j.gain for j in r.done), "+"),
                    "" if elsewhere or len(r.done) != 1 else r.done[0].interval,
                    counted(words),
                    counted(states),
                ]
            )
        return without_empty(head, body)

    def verdict(self) -> str:
        """How many jobs are done, and which setting is best by validation."""
        if not self.best:
            return f"{self.count()}."
        settings = " ".join(
            f"{self.names[k]}={show(v)}"
            for k in self.keys
            if (v := self.best[0].settings.get(k)) is not None
        )
        return (
            f"{self.count()}. Best by validation: {settings or 'the only setting'}, "
            f"{percent(self.best[0].val)} %."
        )

    def notes(self) -> list[str]:
        """Notes on how to read the table."""
        if not any(r.done for r in self.rows):
            return []
        name = self.score_name
        what = "Accuracies" if name == "accuracy" else name[0].upper() + name[1:]
        lines = [f"{what} in percent, sorted by validation; test is for reading, not for choosing."]
        if not self.validated:
            lines = [
                "No job validated (val=none, or too few labels): rows are in the order of the sweep, "
                "and nothing is chosen, because test is for reading, not for choosing."
            ]
        if self.validated and len(self.kinds) > 1:
            several = some(self.kinds, NAMED)
            lines.append(f"{several} are scores of different kinds, so no job is the best of all.")
        if self.unlike:
            pairs = some([f"{first.name} and {other.name}" for first, other in self.unlike], NAMED)
            lines.append(
                f"Same settings and seed, and other scores: jobs {pairs}. The versions of the code or "
                "of libraries, the machines or the files of weights differ, and the first of each counts: "
                "`sft_exp rerun RUN` computes a run with this version."
            )
        if any(spread(r, split, self.several) for r in self.rows for split in ("val", "test")):
            lines.append(
                f"± is the standard deviation over {'seeds' if self.several else 'label draws'}."
            )
        if any(j.settings.get("val") == "full" for j in self.jobs):
            lines.append("val=full: validation uses labels outside the budget.")
        if any(j.settings.get("protocol.transductive") for j in self.jobs):
            lines.append(
                "protocol.transductive=true: test images, without their labels, may have been "
                "pretrained on."
            )
        if failed := [j.name for j in self.jobs if any((*j.faults(SCRATCH), *j.faults(MAIN)))]:
            lines.append(
                f"Trainings diverged or collapsed in jobs {ranges(failed)}: the verdict's column names "
                "the arms. A difference from a failed scratch arm is no gain and is left out."
            )
        if any(j.verdict for j in self.jobs):
            lines.append(
                f"gain: points of test {name} over the same model from scratch with the same "
                "settings, which need not be the best for it."
            )
        return lines

    def chosen(self) -> Grid:
        """The best setting of each pretrainer."""
        others = [k for k in self.keys if k != "pretrainer"]
        head = ["pretrainer", *(self.names[k] for k in others), "val", "test", ""]
        body = [
            [show(r.settings.get(k)) for k in ("pretrainer", *others)]
            + [percent(r.val), percent(r.test), self.edge(r)]
            for r in self.best
        ]
        return without_empty(head, body)

    def failures(self) -> Grid:
        """The table of jobs that are not done, with the reasons."""
        return without_empty(
            ["job", "what", "state", "exit code", "error"],
            [
                [j.name, self.what(j), j.state, show(j.status.get("exit_code")), first_line(j)]
                for j in self.undone
            ],
        )

    def count(self) -> str:
        return f"{len(self.jobs) - len(self.undone)} of {len(self.jobs)} jobs done"

    @cached_property
    def measured(self) -> list[str]:
        """Names of the measured numbers of `record`."""
        scores = dict.fromkeys(
            k for j in self.jobs if j.result for k in (*j.result.test, *j.result.val)
        )
        splits = [f"{split}_{score}" for split in ("val", "test") for score in scores]
        return [*splits, f"scratch_{self.score}", "gain", "gain_low", "gain_high"]

    def record(self, job: Job) -> dict[str, Any]:
        """A job as a row of compare.csv, with all digits."""
        said = {
            "job": job.name,
            "state": job.state,
            "exit_code": job.status.get("exit_code"),
            "error": first_line(job),
        }
        settings = {key: plain(job.settings.get(key)) for key in ("seed", *self.keys)}
        numbers: dict[str, float | None] = dict.fromkeys(self.measured)
        if r := job.result:
            numbers |= {f"val_{score}": value for score, value in r.val.items()}
            numbers |= {f"test_{score}": value for score, value in r.test.items()}
            numbers[f"scratch_{self.score}"] = r.controls.get(SCRATCH, {}).get(job.score)
        if job.verdict and job.gain is not None:
            ends = {"gain_low": job.verdict.low, "gain_high": job.verdict.high}
            numbers |= {"gain": job.gain, **ends}
        return {**said, **settings, **numbers, "verdict": job.said}

    def csv(self) -> str:
        """One row a job, in the order of the sweep, with all digits."""
        text = io.StringIO()
        writer = tables.Writer(text)
        writer.writerow(
            ["job", "state", "exit_code", "error", "seed", *self.keys, *self.measured, "verdict"]
        )
        for job in self.jobs:
            writer.writerow(list(self.record(job).values()))
        return text.getvalue()


def told_apart(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, with their images as a setting where equal keys of the data set stand for other images:
    a folder to which some were added, or one of the same name elsewhere.

    Without it a job of the same settings would count as a copy, or as better for its images.
    """
    images: dict[str, set[str]] = {}
    for job in jobs:
        if job.result:
            images.setdefault(dataset_of(job), set()).add(images_of(job.result))
    if all(len(others) == 1 for others in images.values()):
        return list(jobs)
    return [
        replace(job, settings={**job.settings, IMAGES: images_of(job.result)})
        if job.result and len(images[dataset_of(job)]) > 1
        else job
        for job in jobs
    ]


def scores_of(job: Job) -> list[float | None]:
    """The scores of a job that its copies have, too, up to rounding."""
    return [None if s is None else round(s, 6) for s in (job.val, job.test, job.gain)]


def dataset_of(job: Job) -> str:
    """The settings that name a job's images."""
    of_data = {k: v for k, v in job.settings.items() if k.partition(".")[0] == "dataset"}
    return repr(sorted(of_data.items()))


def images_of(result: Results) -> str:
    """The beginning of the checksum of a run's images and labels."""
    data = result.data
    return data.manifest[:8] + (f"+{data.test_manifest[:8]}" if data.test_manifest else "")


def collect(folders: Sequence[Path]) -> list[Job]:
    """The jobs of sweep folders and run folders, in the order of sweep and number.

    Raises:
        DataError: a folder is neither.
    """
    jobs = []
    for folder in (f.resolve() for f in folders):
        planned = read(folder / "jobs.json", [])
        places = [folder / about.get("folder", str(n)) for n, about in enumerate(planned)]
        more = {p for p in folder.glob("*") if p.name.isdecimal()}
        # a sweeper that chose its jobs one by one: their folders are named by hydra.sweep.subdir
        if not planned:
            more |= {p.parent for p in folder.rglob("status.json")}
        others = sorted(more - {folder, *places}, key=lambda p: natural(p, folder))
        before = f"{folder.name}/" if len(folders) > 1 else ""
        if (folder / "status.json").exists():
            jobs.append(job(folder, folder.name))
        elif places or others or (folder / "jobs.json").exists():
            found = [job(place, f"{before}{n}", planned[n]) for n, place in enumerate(places)]
            found += [
                job(place, f"{before}{place.relative_to(folder).as_posix()}") for place in others
            ]
            of_study = any(words.startswith("study=") for words in read(folder / "common.json", []))
            jobs += [replace(each, of_study=of_study) for each in found]
        elif not folder.exists():
            raise DataError(f"{folder}: {absent(folder, 'folder')}")
        else:
            raise DataError(
                f"{folder}: neither a sweep (jobs.json, or folders of runs) nor a run (status.json)"
            )
    return jobs


def natural(path: Path, below: Path) -> list[tuple[int, str]]:
    """A sort key that orders numbers by value: 2 before 10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in path.relative_to(below).parts
    ]


def job(folder: Path, name: str, planned: dict[str, Any] | None = None) -> Job:
    """The job in a folder; `planned` is its entry in jobs.json."""
    status, result = read(folder / "status.json", {}), results.read_if_complete(folder)
    if planned and "config" in planned:
        config, choices = planned["config"], planned.get("choices", {})
    elif result:
        config, choices = result.config, result.choices
    else:
        about = recorded(folder)
        config, choices = about["config"], about.get("choices", {})
    sound = result and status.get("state") == "done" and result.score in result.test
    return Job(name, folder, settings(config, choices), status, result if sound else None)


def recorded(folder: Path) -> dict[str, Any]:
    """Configuration and choices of a job without results, as Hydra recorded them at its start."""
    if not (folder / ".hydra" / "hydra.yaml").exists():
        return {"config": {}}
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from sft_exp.config import build

    try:
        cfg, hydra = (
            OmegaConf.load(folder / ".hydra" / f"{name}.yaml") for name in ("config", "hydra")
        )
        return {"config": build.plain(cfg), "choices": build.choices(cfg, hydra.hydra)}  # type: ignore[arg-type]
    except (OSError, YAMLError, OmegaConfBaseException):
        return {"config": {}}


def settings(config: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """The choices and dotted keys that may influence the result."""
    chosen = {group: option for group, option in choices.items() if group not in SILENT}
    return chosen | {
        k: v
        for k, v in leaves(updated(config)).items()
        if v != {} and (k.partition(".")[0] not in SILENT or k in EXCEPT)
    }


def differs(key: str, known: list[dict[str, Any]]) -> bool:
    """Whether jobs differ in a key.

    Differences that follow from the choice of the key's group (optim=adam brings betas) do not
    count, except in the learning rate.
    """
    group = key.partition(".")[0]
    pairs = {
        (repr(s.get(group)) if group != key and key not in RATES else "", repr(s.get(key)))
        for s in known
    }
    return len(pairs) > len({choice for choice, _ in pairs})


def short(key: str, everything: list[str]) -> str:
    """The shortest unambiguous suffix of a dotted key."""
    parts = key.split(".")
    ends = (".".join(parts[-n:]) for n in range(1, len(parts)))
    return next(
        (end for end in ends if sum(k == end or k.endswith(f".{end}") for k in everything) == 1),
        key,
    )


def beyond(end: float, inner: float) -> str:
    """The next learning rate beyond the end of a grid, rounded to as few digits as possible."""
    following = end * end / inner
    return next(
        f"{float(text):g}"
        for n in range(1, 9)
        if ((text := f"{following:.{n}g}") and (float(text) - end) * (end - inner) > 0)
    )


def spread(row: Row, split: str, several: bool) -> float | None:
    """Standard deviation over seeds; over labelled splits if no row has several seeds."""
    if not several:
        # one draw has no spread
        return mean(
            getattr(r, split).get(f"{r.score}_sd")
            for r in row.results
            if len(r.draws.get(MAIN, [])) != 1
        )
    values = [x for x in (getattr(j, split) for j in row.done) if x is not None]
    return stdev(values) if len(values) > 1 else None


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def counted(words: list[str]) -> str:
    """`helped`; if the words differ, `cannot tell 1, helped 2`; empty without words."""
    groups = [(word, len(list(same))) for word, same in groupby(sorted(words))]
    return groups[0][0] if len(groups) == 1 else ", ".join(f"{word} {n}" for word, n in groups)


def ranges(names: list[str]) -> str:
    """Numbers as ranges: `0-9, 12`."""
    if not all(n.isdecimal() for n in names):
        return ", ".join(names)
    placed = enumerate(sorted(map(int, names)))
    rows = [[n for _, n in same] for _, same in groupby(placed, key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in rows)


def percent(value: float | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{round(100 * value, 1) + 0.0:{sign}.1f}"  # + 0.0 turns -0.0 into 0.0


def show(value: Any) -> str:
    """A setting in a table, as it is typed on the command line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def plain(value: Any) -> Any:
    """A setting in a CSV: numbers and texts unchanged, else JSON."""
    return json.dumps(value) if isinstance(value, bool | list) else value


def first_line(job: Job) -> str:
    """The first line of a job's error."""
    return next(
        iter(str(job.status.get("error") or "").splitlines()),
        "never started" if job.state == "missing" else "",
    )


def without_empty(head: list[str], body: list[list[str]]) -> Grid:
    """The table without empty columns."""
    filled = [i for i in range(len(head)) if any(row[i] for row in body)]
    return [head[i] for i in filled], [[row[i] for i in filled] for row in body]


def read(path: Path, default: Any) -> Any:
    """A JSON file's content; the default if it is missing, damaged, or of another type."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return default
    return value if isinstance(value, type(default)) else default
