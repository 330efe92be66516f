"""What a study in a given time runs next: `study=choose minutes=10`.

A pilot measures how long a step takes on this machine. From it follow, before anything that counts
is computed, the numbers of steps of all candidates. Each candidate is then tried if its expected
time leaves enough for the final run. trials.json in the sweep's folder records the steps, each job
and the candidates that were not tried, so that the same command repeats them however long they
take then.
"""

import json
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Literal

from sft_exp.errors import ConfigError
from sft_exp.store import atomic_io

TRIALS_FILE = "trials.json"
# The pilot's steps: enough of them that what a stage takes besides its steps is small.
PILOT_STEPS = {"pretrain": 30, "finetune": 100}
# Shares of the minutes: the pretraining of the first candidate, and one gradient fine-tuning.
SHARES = {"pretrain": 0.15, "finetune": 0.01}
# The fewest and the most steps. Fewer of fine-tuning would compare how fast the candidates begin.
STEPS = {"pretrain": (50, 2000), "finetune": (200, 2000)}
END = 25.0  # seconds kept back for imports before the pilot and for the conclusion
OTHER = 3.0  # seconds of a job besides its trainings
# Of a gradient fine-tuning's time: a solved head, mostly a pass over the images.
SOLVED = 0.2
FITS = 6  # trainings of a candidate for one labelled split: five folds and the whole
# Candidates fine-tuned by gradient that are compared again, with all solved ones, on so many splits.
FINALISTS, FINALIST_DRAWS = 2, 3
DRAWS = (10, 5, 3)  # labelled splits of the final run: the most that fit, but at least the last
RESERVED = 5  # of them, for which no candidate may take the time

# What is not tried where scratch could not be trained for as long as a pretraining and its fine-tuning
COMPARISON = "scratch with as much computing"
CONTROLS = "true"  # the final run's: those that the task has by default

Phase = Literal["pilot", "first", "finalists", "final", "scratch"]


@dataclass(frozen=True)
class Candidate:
    """One way of using the images and labels."""

    name: str
    overrides: list[str]
    pretraining: str | None  # what names its gradient pretraining; candidates may share one
    gradient: bool  # whether it is fine-tuned by gradient steps, not solved
    # how many times longer a step of its fine-tuning takes than one with labels alone
    step_cost: float = 1.0
    # the same of its pretraining, and how many steps that has; None = as many as the others'
    pretrain_cost: float = 1.0
    pretrain_steps: int | None = None

    @property
    def from_scratch(self) -> bool:
        return self.pretraining is None and self.gradient

    @property
    def frozen(self) -> bool:
        """Whether it has frozen features of a pretraining on the images."""
        return self.pretraining is not None and not self.gradient


@dataclass(frozen=True)
class Trial:
    """A job that was run, in the order of the jobs' numbers."""

    phase: Phase
    name: str
    overrides: list[str]
    seconds: float
    # what it was expected to take by the pilot's pace; 0 where that is unknown or of no use
    expected: float
    score: float | None  # of validation; None if the job failed or has none


@dataclass(frozen=True)
class Pace:
    """What the pilot measured, in seconds."""

    pretrain: float  # a step of the pretraining
    finetune: float  # a step of the fine-tuning
    other: float  # all else of a job


@dataclass
class Trials:
    minutes: float
    # of a pretraining, of a fine-tuning, and of a training from scratch that takes as long as both
    steps: dict[str, int] = field(default_factory=dict)  # pretrain, finetune, scratch
    pace: Pace | None = None
    jobs: list[Trial] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # what was not tried -> why

    def done(self, phase: Phase, name: str) -> Trial | None:
        return next((t for t in self.jobs if (t.phase, t.name) == (phase, name)), None)

    def best(self, phase: Phase) -> list[Trial]:
        """The trials of a phase that have a score, the best first."""
        scored = [t for t in self.jobs if t.phase == phase and t.score is not None]
        return sorted(scored, key=lambda t: -(t.score or 0.0))

    def write(self, folder: Path) -> None:
        atomic_io.write_json(folder / TRIALS_FILE, asdict(self))


def read(folder: Path) -> Trials | None:
    """The record in a sweep's folder; None if there is none."""
    file = folder / TRIALS_FILE
    if not file.is_file():
        return None
    values: dict[str, Any] = json.loads(file.read_text())
    pace = Pace(**values["pace"]) if values["pace"] else None
    steps = values["steps"]
    if steps:  # version 0.2.0 gave all trainings on the labels the same number
        steps.setdefault("scratch", steps["finetune"])
    return Trials(
        values["minutes"],
        steps,
        pace,
        [Trial(**t) for t in values["jobs"]],
        values["skipped"],
    )


def steps_for(minutes: float, pace: Pace) -> dict[str, int]:
    """Steps of each training, rounded to two digits, that suit the minutes.

    A training from scratch has more steps than a fine-tuning, so that trying either costs the same
    computing: the pretraining, which its trainings share, is spent on steps of training instead.
    """
    step = {"pretrain": pace.pretrain, "finetune": pace.finetune}
    wanted = {name: 60 * minutes * share / step[name] for name, share in SHARES.items()}
    steps = {
        name: two_digits(min(max(wanted[name], least), most))
        for name, (least, most) in STEPS.items()
    }
    instead = steps["pretrain"] * pace.pretrain / (FITS * pace.finetune)
    return {**steps, "scratch": two_digits(steps["finetune"] + instead)}


def limits(pretrain: int, finetune: int) -> list[str]:
    return [f"pretrain.steps={pretrain}", f"finetune.steps={finetune}"]


def cross_validated(draws: int) -> list[str]:
    return [f"draws={draws}", "val=cv", "controls=false"]


def two_digits(number: float) -> int:
    return int(float(f"{number:.1e}"))


def outline(budget: str, names: Sequence[str]) -> str:
    """What a study with this budget, such as 10min, would do with its candidates, for `plan=true`."""
    return "\n".join(
        [
            f"In {budget}: a pilot times a step of each training, from which the numbers "
            "of steps follow. These are tried in this order, as far as the time goes:",
            *(f"  {name}" for name in names),
            f"The {FINALISTS} best of those fine-tuned by gradient and all others are compared on "
            f"{FINALIST_DRAWS} labelled splits. The best one is "
            f"trained on up to {DRAWS[0]}, beside its baselines and training from scratch.",
        ]
    )


def preferred(scores: Mapping[str, float], frozen: Container[str], images: int) -> str:
    """The candidate with the best score of validation. Where that is one of `frozen`, the best of the
    others that are no further behind than the standard error of the difference, if there are any.

    The images that a validation holds out were pretrained on, and test images were not. Frozen features
    gain most by that: on the digits 6 points, where fine-tuned networks gain 2.

    Args:
        scores: accuracy of each candidate, cross-validated.
        frozen: candidates with frozen features of a pretraining on the images.
        images: number of images that were held out in turn.
    """
    best = max(scores, key=scores.__getitem__)
    if best not in frozen:
        return best

    def variance(score: float) -> float:
        return max(0.0, score * (1 - score)) / images

    def is_as_good(name: str) -> bool:
        error = sqrt(variance(scores[best]) + variance(scores[name]))
        return scores[best] - scores[name] <= error

    others = [name for name in scores if name not in frozen and is_as_good(name)]
    return max(others, key=scores.__getitem__, default=best)


class Schedule:
    """Runs the phases of a study within its minutes.

    Args:
        candidates: in the order in which they are tried: cheap ones, then the most promising. The
            pilot times the first that is pretrained and fine-tuned by gradient steps.
        launch: runs one job, given its overrides and its number, and returns the validation's score.
        seconds_of: seconds of the stages `pretrain` and `finetune` of the job with a number.
        labelled: the number of labelled images of each split.
        say: shows one line.
        workers: how many trainings on the labels run side by side.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        candidates: Sequence[Candidate],
        launch: Callable[[list[str], int], float | None],
        seconds_of: Callable[[int], dict[str, float]],
        labelled: Callable[[], int],
        say: Callable[[str], None],
        began: float,
        workers: int = 1,
    ) -> None:
        self.folder, self.candidates, self.workers = folder, candidates, workers
        self.launch, self.seconds_of, self.labelled = launch, seconds_of, labelled
        self.say, self.began = say, began
        before = read(folder)
        self.trials = before or Trials(minutes)
        # what earlier, interrupted calls of the same command have spent
        self.spent_before = sum(t.seconds for t in before.jobs) if before else 0.0
        self.number = 0

    def run(self) -> None:
        first = next(c for c in self.candidates if c.pretraining and c.gradient)
        settings = ["draws=1", "val=none", "controls=false", *limits(**PILOT_STEPS)]
        self.job("pilot", first, settings)
        if self.trials.pace is None:
            seconds = self.seconds_of(0)  # the rest of the pilot was imports and reading images
            self.trials.pace = Pace(
                seconds["pretrain"] / PILOT_STEPS["pretrain"],
                seconds["finetune"] / PILOT_STEPS["finetune"],
                OTHER,
            )
            self.trials.steps = steps_for(self.trials.minutes, self.trials.pace)
            self.trials.write(self.folder)
        steps = self.trials.steps
        self.say(
            f"{self.trials.minutes:g} minutes: pretrain.steps={steps['pretrain']} "
            f"finetune.steps={steps['finetune']}, from scratch {steps['scratch']}, as a step takes "
            f"{1000 * self.trials.pace.pretrain:.0f} and {1000 * self.trials.pace.finetune:.0f} ms"
        )
        for candidate in self.candidates:
            self.attempt(candidate)
        tried = [self.named(trial.name) for trial in self.trials.best("first")]
        # One labelled split is a few dozen validation images a fold: too few to leave out the second,
        # or any of those that take seconds.
        gradient = [candidate for candidate in tried if candidate.gradient][:FINALISTS]
        finalists = [*gradient, *(candidate for candidate in tried if not candidate.gradient)]
        if self.compares(finalists):
            for candidate in finalists:
                self.job("finalists", candidate, cross_validated(FINALIST_DRAWS))
        ranked = self.trials.best("finalists") or self.trials.best("first")
        if not ranked and len(self.trials.skipped) == len(self.candidates):
            least = self.trials.minutes + (self.expected(first, 1) - self.left()) / 60
            valid = f"must be about {ceil(least + 1)}min on this machine, for the first candidate"
            raise ConfigError("study.budget", f"{self.trials.minutes:g}min", valid)
        if not ranked:
            return  # all failed, which the sweep reports
        scores = {trial.name: trial.score or 0.0 for trial in ranked}
        frozen = [candidate.name for candidate in self.candidates if candidate.frozen]
        pick = self.named(preferred(scores, frozen, self.labelled()))
        left = self.left()
        draws = next((d for d in DRAWS if self.expected(pick, d, final=True) <= left), DRAWS[-1])
        settings = [f"draws={draws}", "val=none", "report=true", f"controls={CONTROLS}"]
        final = self.job("final", pick, settings)
        scratch = next((c for c in self.candidates if c.from_scratch), None)
        if scratch and scratch is not pick:
            self.compare_with(scratch, final)

    def compare_with(self, scratch: Candidate, final: Trial) -> None:
        """Train the candidate from scratch on the final run's labelled splits, if the time suffices.

        The final run's own scratch arm has the pick's settings, not the best ones for it. This needs
        no validation, and so less time than trying the candidate.
        """
        tried = self.trials.done("scratch", scratch.name) or self.trials.done("first", scratch.name)
        if COMPARISON in self.trials.skipped:
            return
        (splits,) = (o for o in final.overrides if o.startswith("draws="))
        draws = int(splits.partition("=")[2])
        expected = draws * self.training("scratch") / min(self.workers, draws) * self.delay()
        if tried or expected <= self.left():
            self.job("scratch", scratch, [splits, "val=none", "controls=false"])
        else:
            self.skip(COMPARISON, f"needs about {expected:.0f} s, {max(0, self.left()):.0f} left")

    def skip(self, name: str, why: str) -> None:
        self.trials.skipped[name] = why
        self.trials.write(self.folder)
        self.say(f"not tried: {name} ({why})")

    def named(self, name: str) -> Candidate:
        return next(c for c in self.candidates if c.name == name)

    def attempt(self, candidate: Candidate) -> None:
        """Try a candidate, unless the time does not suffice or did not when this was run before."""
        if candidate.name in self.trials.skipped:
            return
        if not self.trials.done("first", candidate.name):
            expected = self.expected(candidate, 1)
            # without training from scratch there is nothing to compare the pick with
            splits = DRAWS[-1] if candidate.from_scratch else RESERVED
            reserve = self.expected(candidate, splits, final=True)
            known = len(self.trials.best("first")) > 1
            if candidate.gradient and known and not candidate.from_scratch:
                fits = FINALISTS * (FINALIST_DRAWS - 1) * FITS
                reserve += fits * self.training("finetune") / self.workers
            if expected + reserve > self.left():
                left = max(0, self.left() - reserve)
                self.skip(candidate.name, f"needs about {expected:.0f} s, {left:.0f} left")
                return
        self.job("first", candidate, cross_validated(1))

    def compares(self, finalists: Sequence[Candidate]) -> bool:
        """Whether the time suffices to compare all finalists on more labelled splits, or did before."""
        if any(self.trials.done("finalists", c.name) for c in finalists):
            return True
        # the first labelled split of a finalist is in the store
        expected = sum(self.expected(c, FINALIST_DRAWS - 1) for c in finalists if c.gradient)
        reserve = max((self.expected(c, DRAWS[-1], final=True) for c in finalists), default=0.0)
        return len(finalists) > 1 and expected + reserve <= self.left()

    def left(self) -> float:
        """Seconds left of the minutes, without those of the conclusion."""
        spent = self.spent_before + time.monotonic() - self.began
        return 60 * self.trials.minutes - END - spent

    def expected(self, candidate: Candidate, draws: int, final: bool = False) -> float:
        """Seconds that a job will take, by the pace and by how the jobs before it kept to it."""
        pace, tuning = self.trials.pace, self.training("finetune")
        assert pace is not None
        if candidate.from_scratch:
            one = self.training("scratch")
        else:
            one = candidate.step_cost * tuning if candidate.gradient else SOLVED * tuning
        fits = draws * (2 if final else FITS)  # the final run has a scratch arm, and no folds
        seconds = max(fits, self.workers) * one
        if final and not candidate.gradient:
            seconds += draws * tuning  # its scratch arm is trained by gradient
        if final and not candidate.from_scratch:
            # the candidate from scratch on the same labelled splits
            seconds += draws * self.training("scratch") + pace.other
        seconds = pace.other + seconds / self.workers
        if candidate.pretraining and candidate.pretraining not in self.pretrained():
            steps = candidate.pretrain_steps or self.trials.steps["pretrain"]
            seconds += steps * pace.pretrain * candidate.pretrain_cost
        return seconds * self.delay()

    def delay(self) -> float:
        """How many times longer than expected the trials with gradient steps took so far.

        A solved head takes seconds, most of which are not those of its fits.
        """
        done = [
            t
            for t in self.trials.jobs
            if t.phase == "first" and t.expected and self.named(t.name).gradient
        ]
        if not done:
            return 1.0
        ratio = sum(t.seconds for t in done) / sum(t.expected for t in done)
        return min(max(ratio, 0.3), 3.0)

    def training(self, kind: str) -> float:
        """Seconds of one gradient training on the labels: a `finetune`, or one from `scratch`."""
        assert self.trials.pace is not None
        return self.trials.steps[kind] * self.trials.pace.finetune

    def pretrained(self) -> Iterable[str | None]:
        """The pretrainings that are in the store."""
        return {self.named(t.name).pretraining for t in self.trials.jobs if t.phase != "pilot"}

    def job(self, phase: Phase, candidate: Candidate, settings: list[str]) -> Trial:
        """Run a job, or run it again as it was, which costs nothing if it was done.

        All but the pilot have the study's numbers of steps.
        """
        recorded = self.trials.done(phase, candidate.name)
        expected = self.expected(candidate, 1) / self.delay() if phase == "first" else 0.0
        if phase != "pilot":
            steps = self.trials.steps
            training = steps["scratch" if candidate.from_scratch else "finetune"]
            pretraining = candidate.pretrain_steps or steps["pretrain"]
            settings = [*settings, *limits(pretraining, training)]
        overrides = recorded.overrides if recorded else [*candidate.overrides, *settings]
        before = time.monotonic()
        score = self.launch(overrides, self.number)
        if phase not in ("first", "finalists"):
            score = None  # without validation it is a test score, which chooses nothing
        self.number += 1
        if recorded:
            return recorded
        trial = Trial(phase, candidate.name, overrides, time.monotonic() - before, expected, score)
        self.trials.jobs.append(trial)
        self.trials.write(self.folder)
        return trial
