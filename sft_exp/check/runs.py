"""Grades of this framework's runs, by requests, manifests, predictions, weights and training logs."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp.check import standard_1, weights
from sft_exp.check.artefacts import Arm, Run
from sft_exp.check.standard import Grade, ok, unknown
from sft_exp.core.arms import FLOORS, MAIN, SCRATCH
from sft_exp.core.score import ACCURACY, NAMES, judged_by, with_balanced
from sft_exp.data.duplicates import OVERLAP
from sft_exp.errors import DataError
from sft_exp.store import atomic_io
from sft_exp.store.results import is_proportion
from sft_exp.training import health, metrics_log
from sft_exp.verdict import (
    SAYS,
    WITHHELD,
    Archive,
    Comparison,
    Setting,
    from_folder,
    frozen,
    judge,
)

CLOSE = 1e-6  # largest difference between two computations of an accuracy or interval
START = frozenset({"start"})


def grade(run: Run) -> list[Grade]:
    """Grades of all points that a single run can show."""
    points = (labels, splits, selection, arms, trainings, sealed, scores, draws, words, stated)
    return [g for point in points for g in point(run)]


def labels(run: Run) -> Iterator[Grade]:
    """Points 1.1 and 1.2: labels of training and validation are within the budget."""
    over, over_with_validation = [], []
    for arm, one in every(run):
        labelled, validation = run.labels_of(one)
        allowed, per_class = budget(run, one)
        where = f"{arm}, draw {one.draw}"
        if len(set(labelled)) > allowed:
            over.append(f"{where}: {len(set(labelled))} labels for a budget of {allowed}")
        counts = Counter(run.labels.get(name, -1) for name in labelled)
        if per_class and (uneven := {c: n for c, n in counts.items() if n > per_class}):
            label, count = next(iter(uneven.items()))
            over.append(f"{where}: class {label} has {count} labels, {per_class} are allowed")
        if len({*labelled, *validation}) > allowed:
            over_with_validation.append(
                f"{where}: {len(set(labelled))} labels and {len({*validation} - {*labelled})} more "
                f"to choose by, for a budget of {allowed}"
            )
    yield ok("1.1", over)
    yield ok("1.2", over_with_validation)


def budget(run: Run, one: Arm) -> tuple[int, int | None]:
    """The request's label budget: (labels in all, labels a class or None)."""
    count = run.shelf.request(one.finetune)["labels"]["count"]
    n = len(run.learnt["ids"]["train"]) - (len(run.rows[one][0]) if run.tested["folds"] else 0)
    if count == "all":
        return n, None
    if count.isdecimal():
        return int(count) * len(run.learnt["classes"]), int(count)
    return (
        int(count[6:]) if count.startswith("total:") else round(float(count[:-1]) / 100 * n)
    ), None


def splits(run: Run) -> Iterator[Grade]:
    """Points 2.1 to 2.5: no image is on both sides, by name, content or group."""
    by_name, by_content, groups, pooled = [], [], [], []
    content, group, train = contents(run), group_names(run), {*run.learnt["ids"]["train"]}
    for arm, one in every(run):
        where = f"{arm}, draw {one.draw}"
        tested = {run.tested["ids"][r] for r in run.rows[one][0]}
        known = {name for names in run.labels_of(one) for name in names}
        test_hashes = {content["test"][name] for name in tested}
        pool = run.pooled(one)
        doubles = sum(content["learnt"][n] in test_hashes for n in train)
        # few copies in a data set's own training split are graded by point 2.5
        own = set() if run.tested["folds"] or doubles > OVERLAP * len(tested) else train
        if both := sorted(known & tested):
            by_name.append(f"{where}: {both[0]} is learnt from and tested")
        if both := sorted(
            n for n in known if n not in own and content["learnt"].get(n) in test_hashes
        ):
            by_content.append(f"{where}: {both[0]} has the pixels of a test image")
        if both := sorted(
            {group[n] for n in (*known, *pool) if n in group}
            & {group[n] for n in tested if n in group}
        ):
            groups.append(f"{where}: group {both[0]} is learnt from and tested")
        if both := [
            n
            for n in pool
            if n in tested or (n not in own and content["learnt"].get(n) in test_hashes)
        ]:
            pooled.append(f"{where}: {len(both)} test images were pretrained on, such as {both[0]}")
        if both := [n for n, h in run.elsewhere(one).items() if h in test_hashes]:
            pooled.append(
                f"{where}: {len(both)} test images were pretrained on in another data set, such as "
                f"{both[0]}"
            )
    yield ok("2.1", by_name)
    yield ok("2.2", by_content)
    yield ok("2.3", groups) if group else Grade("2.3", True)
    declared = run.result["config"]["protocol"]["transductive"]
    yield ok("2.4", ["declared: protocol.transductive=true"] if declared else pooled)
    copies, data = run.tested["copies"], run.result["data"]
    faults = (
        []
        if data.get("copies") == len(copies)
        else [f"{len(copies)} copies were found, {data.get('copies')} are stated"]
    )
    if copies and not run.tested["folds"]:
        faults += ["the accuracy without them is not stated"] * (
            "accuracy_apart" not in run.result["test"]
        )
    yield ok("2.5", faults)


def contents(run: Run) -> dict[str, dict[str, str]]:
    """Name -> hash of the pixels, of the images to learn from and of the test images."""
    ids, hashes = run.learnt["ids"], run.learnt["content"]
    return {
        "learnt": {n: h for split in ids for n, h in zip(ids[split], hashes[split], strict=True)},
        "test": dict(zip(run.tested["ids"], run.tested["content"], strict=True)),
    }


def group_names(run: Run) -> dict[str, str]:
    """Name -> group, of the images that have one."""
    group_of = dict(zip(run.tested["ids"], run.tested["groups"] or [], strict=False))
    for split, names in run.learnt["groups"].items():
        group_of |= dict(zip(run.learnt["ids"][split], names, strict=True))
    return group_of


def selection(run: Run) -> Iterator[Grade]:
    """Points 3.1 and 3.2: nothing was chosen by test images, and all arms had the same search."""
    test, mixed = run.result["folders"]["test"], []
    for name in {n for _, one in every(run) for n in run.shelf.below(one.finetune)}:
        text = json.dumps(run.shelf.request(name))
        if test in text or '"test": "' in text or "evaluate-" in text or "likelihood-" in text:
            mixed.append(f"{name} was made from test images or their scores")
    yield ok("3.1", mixed)
    faults = []
    for arm, one in every(run):
        search = rate(run, one)
        if search.get("edge"):
            faults.append(
                f"{arm}, draw {one.draw}: lr {search['lr']:g} is the edge of "
                f"{sorted(search['rates'])}"
            )
    grids = {
        arm: {json.dumps(rate(run, one).get("rates")) for one in ones}
        for arm, ones in run.arms.items()
    }
    if SCRATCH in grids and grids[SCRATCH] != grids[MAIN]:
        faults.append("pretrained and scratch were not searched over the same rates")
    yield ok("3.2", faults)


def rate(run: Run, one: Arm) -> dict[str, Any]:
    """The result of the search for a learning rate; empty if the rate was given."""
    optim = run.shelf.request(one.finetune)["optim"]
    lr = optim["options"].get("lr") if optim else None
    return run.shelf.json(lr, "lr.json") if isinstance(lr, str) and lr.startswith("choose-") else {}


def arms(run: Run) -> Iterator[Grade]:
    """Points 4.1 to 4.6: the arms are comparable, and the result beats its baselines."""
    main, scratch = run.arms[MAIN], run.arms.get(SCRATCH, [])
    differ = []
    for a, b in zip(main, scratch, strict=False):
        ours, theirs = (run.shelf.whole(run.shelf.request(x.finetune), START) for x in (a, b))
        differ += [
            f"{key}: {x} against {y} from scratch" for key, x, y in differences(ours, theirs)
        ]
        if run.shelf.request(b.finetune)["start"]:
            differ.append(
                f"draw {b.draw}: scratch starts from {run.shelf.request(b.finetune)['start']}"
            )
    yield ok("4.1", differ) if scratch else unknown("4.1", "there is no scratch")
    yield from weights.grade(run)
    missing = [arm for arm in (SCRATCH, *FLOORS) if not run.arms.get(arm)]
    yield ok("4.4", [f"there is no {arm}" for arm in missing])
    score = fmean(run.scores(MAIN))
    baselines = {arm: fmean(run.scores(arm)) for arm in FLOORS if run.arms.get(arm)}
    low = [
        f"failed to learn: {arm} has {100 * s:.1f} %, it {100 * score:.1f} %"
        for arm, s in baselines.items()
        if s >= score
    ]
    yield ok("4.5", low) if baselines else unknown("4.5", "there are no baselines")
    yield (
        ok("4.6", failures(run)) if run.result["verdict"] else unknown("4.6", "there is no verdict")
    )


def failures(run: Run) -> Iterator[str]:
    """Faults: arms whose training failed and that the verdict compares all the same.

    A failed pretrained arm may count as it is, if the text names it.
    """
    verdict = run.result["verdict"]
    if (how := health.said(run.faults(SCRATCH))) and verdict["word"] != WITHHELD:
        yield f"`{verdict['word']}` is stated, and {SCRATCH} {how}"
    if (
        how := health.said(run.faults(MAIN))
    ) and f"{MAIN} {health.state(run.faults(MAIN))}" not in verdict["text"]:
        yield f"{MAIN} {how}, and the verdict does not say so"


def differences(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value in a, value in b) of all differences."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("is") == b.get("is"):
        for key in dict.fromkeys([*a, *b]):
            yield from differences(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)
    elif a != b:
        yield prefix, short(a), short(b)


def short(value: Any) -> Any:
    """The class name of a recorded object; any other value as it is."""
    return value["is"].rpartition(".")[2] if isinstance(value, dict) and "is" in value else value


def trainings(run: Run) -> Iterator[Grade]:
    """Points 5.1 and 5.2: trainings ran to their end and had converged."""
    cut = []
    stages = {
        n
        for _, one in every(run)
        for n in run.shelf.below(one.finetune)
        if n.startswith(("finetune-", "pretrain-"))
    }
    for name in stages:
        rows = metrics_log.read(run.shelf.root / name)
        stop = run.shelf.request(name).get("stop") or 0
        if rows and rows[-1]["step"] != stop:
            cut.append(f"{name} stopped after step {rows[-1]['step']:g} of {stop}")
        if not rows and stop:
            cut.append(f"{name} has no record of its {stop} steps")
    yield ok("5.1", cut)
    falling = []
    for arm in (MAIN, SCRATCH):
        losses = [
            metrics_log.column(metrics_log.read(run.shelf.root / one.finetune), "loss")[1]
            for one in run.arms.get(arm, [])
        ]
        if not metrics_log.converged(losses):
            rose = any(map(metrics_log.exploded, filter(None, losses)))
            falling.append(f"{arm}: its training loss {'rose' if rose else 'was still falling'}")
    yield ok("5.2", falling)


def sealed(run: Run) -> Iterator[Grade]:
    """Point 6.1: folders are unchanged and named by their requests."""
    faults = []
    folders = {n for _, one in every(run) for n in run.shelf.below(one.evaluate)}
    for name in sorted(folders):
        faults += atomic_io.check(run.shelf.root / name)
        text = json.dumps(run.shelf.request(name), sort_keys=True)
        if name.rpartition("-")[2] != hashlib.sha256(text.encode()).hexdigest()[:16]:
            faults.append(f"{name} is not named by its request")
    yield ok("6.1", faults)


def scores(run: Run) -> Iterator[Grade]:
    """Point 6.2: stored and stated scores follow from the predictions."""
    faults, score = [], run.score
    for arm, ones in run.arms.items():
        stated, made = run.result["draws"].get(arm, []), run.scores(arm)
        for one, value in zip(ones, made, strict=True):
            kept = with_balanced(run.shelf.json(one.evaluate, "scores.json"), score)
            stored = kept.get(score, -1.0)
            if not isclose(stored, value, abs_tol=CLOSE):
                faults.append(
                    f"{arm}, draw {one.draw}: {100 * stored:.2f} % stored, predictions give "
                    f"{100 * value:.2f} %"
                )
        if len(stated) == len(ones):
            faults += [
                f"{arm}, draw {one.draw}: {100 * s:.2f} % stated, predictions give {100 * a:.2f} %"
                for one, s, a in zip(ones, stated, made, strict=True)
                if not isclose(s, a, abs_tol=CLOSE)
            ]
        means = run.result["test"] if arm == MAIN else run.result["controls"][arm]
        for name, values in {ACCURACY: run.accuracies(arm), score: made}.items():
            if ones and not isclose(means[name], fmean(values), abs_tol=CLOSE):
                faults.append(
                    f"{arm}: a mean of {100 * means[name]:.2f} % stated, it is "
                    f"{100 * fmean(values):.2f} %"
                )
    yield ok("6.2", faults)


def draws(run: Run) -> Iterator[Grade]:
    """Point 6.3: every draw of every arm is reported, with all test images."""
    expected, faults = list(range(run.result["config"]["draws"])), []
    size = len(run.tested["ids"])
    for arm, ones in run.arms.items():
        present = [one.draw for one in ones]
        if present != expected and arm != "scratch_long":
            missing = sorted(set(expected) - set(present))
            faults.append(
                f"{arm}: draws {missing} are missing" if missing else f"{arm}: has draws {present}"
            )
        reported = len(run.result["draws"].get(arm, []))
        if reported != len(present):
            faults.append(f"{arm}: {reported} accuracies for {len(present)} draws")
        if not run.tested["folds"] and any(
            sorted(run.rows[one][0]) != list(range(size)) for one in ones
        ):
            faults.append(f"{arm}: not every test image was predicted, once")
    yield ok("6.3", faults)


def words(run: Run) -> Iterator[Grade]:
    """Points 7.1 to 7.3: the interval and the word follow from the draws."""
    verdict, main, scratch = run.result["verdict"], run.scores(MAIN), run.scores(SCRATCH)
    if not verdict:
        for point in ("7.1", "7.2", "7.3"):
            yield unknown(point, "there is no verdict")
        return
    if len(main) != len(scratch):
        yield Grade("7.1", False, f"{len(main)} draws against {len(scratch)} from scratch")
        return
    if run.result.get("judgement"):
        interval_faults, word_faults = verdict_faults(run)
    else:
        interval_faults, word_faults = faults_by_standard_1(run)
    yield ok("7.1", interval_faults)
    yield ok("7.2", word_faults)
    yield ok(
        "7.3",
        ["one draw has no interval, and a test over its images says nothing about the method"]
        if len(main) < 2
        else [],
    )


def verdict_faults(run: Run) -> tuple[list[str], list[str]]:
    """(faults of the numbers, faults of the word and text), with the archive that the result states."""
    stated, about = run.result["verdict"], run.result["judgement"]
    labels = run.shelf.request(run.arms[MAIN][0].finetune)["labels"]
    comparison = Comparison(
        [run.scores(MAIN)],
        [run.scores(SCRATCH)],
        all_labels=labels["count"] == "all" and not run.tested["folds"],
    )
    noted = health.noted(comparison, [run.faults(MAIN)], [run.faults(SCRATCH)])
    setting = Setting(
        tested=len(run.rows[run.arms[MAIN][0]][0]),
        ratio=ratio(run),
        score=score_name(run),
        proportion=is_proportion(run.score),
        points=True,
    )
    try:
        used, without = archive(about), [run.result["data"]["name"]]
    except DataError as error:
        return [str(error)], [str(error)]
    right = judge({MAIN: noted}, setting, used, without).verdicts[MAIN].record()
    return compared(stated, right)


def compared(stated: dict[str, Any], right: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The same two lists for a verdict as stated and as computed again (`Verdict.record`)."""
    numbers = []
    for key in ("difference", "low", "high", "level"):
        a, b = stated[key], right[key]
        same = a == b if a is None or b is None else isclose(a, b, abs_tol=CLOSE)
        if not same:
            numbers.append(f"{key} {percent(a)} stated, {percent(b)} made from the draws")
    words = []
    if stated["word"] != right["word"]:
        words.append(f"`{stated['word']}` stated, `{right['word']}` follows")
    if "text" in stated and not stated["text"].startswith(SAYS[right["word"]]):
        words.append("the sentence says something else")
    return numbers, words


def archive(about: dict[str, Any]) -> Archive | None:
    """The archive that a result states to be judged with.

    Raises:
        DataError: it is not available.
    """
    name = about["archive"]
    if name is None:
        return None
    if name == frozen().name:
        return frozen()
    if Path(name).is_dir():
        return from_folder(Path(name))
    raise DataError(
        f"it was judged with {name}, which is neither {frozen().name} nor a folder here"
    )


def score_name(run: Run) -> str:
    return run.result.get("score_name", "accuracy")


def faults_by_standard_1(run: Run) -> tuple[list[str], list[str]]:
    """The same two lists for a result of version 1.0 or 1.1 of the standard."""
    verdict, main, scratch = run.result["verdict"], run.accuracies(MAIN), run.accuracies(SCRATCH)
    right = standard_1.judge([[a - b for a, b in zip(main, scratch, strict=True)]], ratio(run))
    faults = []
    for key in ("difference", "low", "high"):
        stated, made = verdict[key], getattr(right, key)
        if (stated is None) != (made is None) or (
            made is not None and not isclose(stated, made, abs_tol=CLOSE)
        ):
            faults.append(f"{key} {percent(stated)} stated, {percent(made)} made from the draws")
    withheld = verdict["word"] == WITHHELD and any(run.faults(SCRATCH))
    word = right.withheld(withheld).word
    words = [f"`{verdict['word']}` stated, `{word}` follows"] if verdict["word"] != word else []
    if not verdict["text"].startswith(SAYS[word]):
        words.append("the sentence says something else")
    return faults, words


def ratio(run: Run) -> float:
    """Images tested over images trained on, where draws are folds of one set; else 0."""
    if not run.tested["folds"]:
        return 0.0
    return fmean(
        len(run.rows[one][0]) / len(set().union(*run.labels_of(one))) for one in run.arms[MAIN]
    )


def stated(run: Run) -> Iterator[Grade]:
    """Points 8.1 and 8.2: configuration, data and cost are stated, as they were run."""
    config, faults = run.result["config"], []
    table = str(config["labels"]).endswith(".csv")
    count = (
        f"total:{config['labels_total']}"
        if config.get("labels_total")
        else "all"
        if table
        else str(config["labels"])
    )
    for arm, one in every(run):
        request = run.shelf.request(one.finetune)
        if request["labels"]["count"] != count:
            faults.append(f"{arm}: labels={count} stated, {request['labels']['count']} were used")
        if arm in (MAIN, SCRATCH):
            for key, given in (
                ("seed", config["seed"]),
                ("val", config["val"] if config["val"] in ("holdout", "full") else "none"),
            ):
                if request["optim"] and request[key] != given:
                    faults.append(f"{arm}: {key}={given} stated, {request[key]} was used")
        for key in ("data", "test"):
            used = request["data"] if key == "data" else run.shelf.request(one.evaluate)["test"]
            if used != run.result["folders"][key]:
                faults.append(f"{arm}: another {key} manifest than stated")
    chosen = config.get("score", run.score)  # older versions had accuracy alone
    right = judged_by(run.learnt["labels"], run.tested["labels"]) if chosen == "auto" else chosen
    if run.score != right:
        faults.append(f"judged by {NAMES[run.score]}, and by its labels it is {NAMES[right]}")
    data = run.result["data"]
    faults += ["the stated hash is not the manifest's"] * (data["manifest"] != run.learnt["sha256"])
    yield ok("8.1", faults)
    missing = [
        f"data.{k}"
        for k in ("manifest", "labelled", "val", "test", "copies", "transductive")
        if k not in data
    ]
    missing += [
        f"stages.{k}.seconds"
        for k in ("finetune", "evaluate")
        if "seconds" not in (run.result["stages"].get(k) or {})
    ]
    missing += [k for k in ("labels", "draws", "seed", "val") if k not in config]
    hidden = (
        []
        if bool(config["protocol"]["transductive"]) == bool(data.get("transductive"))
        else ["transductive is not stated"]
    )
    yield ok("8.2", [f"{name} is not stated" for name in missing] + hidden)


def every(run: Run) -> Iterator[tuple[str, Arm]]:
    """All arms in all draws, with the arms' names."""
    return ((name, one) for name, ones in run.arms.items() for one in ones)


def percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:+.2f}"
