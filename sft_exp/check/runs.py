"""Grades of this framework's runs, by requests, manifests, predictions, weights and training logs."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp.check import standard_1, weights
from sft_exp.check.artefacts import Evaluation, FinishedFolders, Run
from sft_exp.check.standard import Grade, ok, unknown
from sft_exp.core.arms import FLOORS, MAIN, SCRATCH
from sft_exp.core.score import ACCURACY, NAMES, judged_by, with_balanced
from sft_exp.data.duplicates import OVERLAP
from sft_exp.errors import DataError
from sft_exp.stages.features import STORED
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
LONGEST = 60  # characters of a value that a reason shows
# what the features of images depend on, besides the images
FEATURES_OF = ("dataset", "data", "encoder", "features", "start")
START = frozenset({"start"})  # key of a request: the pretraining, in which the arms differ
# what point 8.2 requires of a result: facts on its data, settings, and stages with their cost
DATA_FACTS = ("manifest", "labelled", "val", "test", "copies", "transductive")
CONFIG_FACTS = ("labels", "draws", "seed", "val")
COSTS = ("finetune", "evaluate")


def grade(run: Run) -> list[Grade]:
    """Grades of all points that a single run can show; of one that cannot be read, since it is damaged,
    the grade that says so."""
    checks = (
        labels, splits, selection, arms, trainings, integrity, scores, draws, verdicts, stated,
    )  # fmt: skip
    try:
        return [grade for check in checks for grade in check(run)]
    except Exception:  # a damaged file may lead its reader to any exception
        if (whole := next(integrity(run))).passed:
            raise
        return [whole]


def labels(run: Run) -> Iterator[Grade]:
    """Points 1.1 and 1.2: labels of training and validation are within the budget."""
    over, over_with_validation = [], []
    for arm, evaluation in run.evaluations():
        labelled, validation = run.labels_of(evaluation)
        names = {*labelled}
        allowed, per_class = budget(run, evaluation)
        where = f"{arm}, draw {evaluation.draw}"
        if len(names) > allowed:
            over.append(f"{where}: {len(names)} labels for a budget of {allowed}")
        counts = Counter(run.labels.get(name, -1) for name in labelled)
        excess = [(label, n) for label, n in counts.items() if per_class and n > per_class]
        if excess:
            label, count = excess[0]
            over.append(f"{where}: class {label} has {count} labels, {per_class} are allowed")
        if len({*labelled, *validation}) > allowed:
            over_with_validation.append(
                f"{where}: {len(names)} labels and {len({*validation} - names)} more "
                f"to choose by, for a budget of {allowed}"
            )
    yield ok("1.1", over)
    yield ok("1.2", over_with_validation)


def budget(run: Run, evaluation: Evaluation) -> tuple[int, int | None]:
    """The request's label budget: (labels in all, labels a class or None)."""
    count = run.store.request(evaluation.finetune)["labels"]["count"]
    # in cross-validation the test fold is taken from the training images
    held_out = len(run.predictions[evaluation].rows) if run.test_manifest["folds"] else 0
    available = len(run.train_manifest["ids"]["train"]) - held_out
    if count == "all":
        return available, None
    if count.isdecimal():
        return int(count) * len(run.train_manifest["classes"]), int(count)
    if count.startswith("total:"):
        return int(count.removeprefix("total:")), None
    return round(float(count.removesuffix("%")) / 100 * available), None


def splits(run: Run) -> Iterator[Grade]:
    """Points 2.1 to 2.5: no image is on both sides, by name, content or group."""
    by_name, by_content, by_group, pretrained = [], [], [], []
    hashes, group_of = pixel_hashes(run), group_names(run)
    train = {*run.train_manifest["ids"]["train"]}
    for arm, evaluation in run.evaluations():
        where = f"{arm}, draw {evaluation.draw}"
        tested = run.tested(evaluation)
        test_hashes = {hashes["test"][name] for name in tested}
        test_groups = {group_of[name] for name in tested if name in group_of}
        copies = {name for name, h in hashes["train"].items() if h in test_hashes}
        # few copies in a data set's own training split are graded by point 2.5
        if not run.test_manifest["folds"] and len(copies & train) <= OVERLAP * len(tested):
            copies -= train
        labelled, validation = run.labels_of(evaluation)
        learnt, pool = {*labelled, *validation}, run.pretraining_pool(evaluation)
        if both := sorted(learnt & tested):
            by_name.append(f"{where}: {both[0]} is learnt from and tested")
        if both := sorted(learnt & copies):
            by_content.append(f"{where}: {both[0]} has the pixels of a test image")
        train_groups = {group_of[name] for name in (*learnt, *pool) if name in group_of}
        if both := sorted(train_groups & test_groups):
            by_group.append(f"{where}: group {both[0]} is learnt from and tested")
        if both := [name for name in pool if name in tested or name in copies]:
            pretrained.append(
                f"{where}: {len(both)} test images were pretrained on, such as {both[0]}"
            )
        elsewhere = run.pretrained_elsewhere(evaluation)
        if both := [name for name, h in elsewhere.items() if h in test_hashes]:
            pretrained.append(
                f"{where}: {len(both)} test images were pretrained on in another data set, such as "
                f"{both[0]}"
            )
    yield ok("2.1", by_name)
    yield ok("2.2", by_content)
    yield ok("2.3", by_group) if group_of else Grade("2.3", True)
    declared = run.result["config"]["protocol"]["transductive"]
    yield ok("2.4", ["declared: protocol.transductive=true"] if declared else pretrained)
    yield ok("2.5", unstated_copies(run))


def unstated_copies(run: Run) -> Iterator[str]:
    """Faults of point 2.5: near copies of test images that the result does not state."""
    count, reported = len(run.test_manifest["copies"]), run.result["data"].get("copies")
    if reported != count:
        yield f"{count} copies were found, {reported} are stated"
    if count and not run.test_manifest["folds"] and "accuracy_apart" not in run.result["test"]:
        yield "the accuracy without them is not stated"


def pixel_hashes(run: Run) -> dict[str, dict[str, str]]:
    """Name -> hash of the pixels, for the images that may be trained on and for the test images."""
    ids, hashes = run.train_manifest["ids"], run.train_manifest["content"]
    test = run.test_manifest
    return {
        "train": {n: h for split in ids for n, h in zip(ids[split], hashes[split], strict=True)},
        "test": dict(zip(test["ids"], test["content"], strict=True)),
    }


def group_names(run: Run) -> dict[str, str]:
    """Name -> group, of the images that have one."""
    train, test = run.train_manifest, run.test_manifest
    group_of = dict(zip(test["ids"], test["groups"] or [], strict=False))
    for split, names in train["groups"].items():
        group_of |= dict(zip(train["ids"][split], names, strict=True))
    return group_of


def selection(run: Run) -> Iterator[Grade]:
    """Points 3.1 and 3.2: nothing was chosen by test images, and all arms had the same search."""
    test, selected_by_test = run.result["folders"]["test"], []
    for name in sorted(finetuning_folders(run)):
        text = json.dumps(run.store.request(name))
        if any(part in text for part in (test, '"test": "', "evaluate-", "likelihood-")):
            selected_by_test.append(f"{name} was made from test images or their scores")
    yield ok("3.1", selected_by_test)
    faults = []
    rates: dict[str, set[str]] = {arm: set() for arm in run.arms}
    for arm, evaluation in run.evaluations():
        search = rate_search(run, evaluation)
        rates[arm].add(json.dumps(search.get("rates")))
        if search.get("edge"):
            faults.append(
                f"{arm}, draw {evaluation.draw}: lr {search['lr']:g} is the edge of "
                f"{sorted(search['rates'])}"
            )
    if SCRATCH in rates and rates[SCRATCH] != rates[MAIN]:
        faults.append("pretrained and scratch were not searched over the same rates")
    yield ok("3.2", faults)


def finetuning_folders(run: Run) -> set[str]:
    """Names of the folders that the run's fine-tunings were computed from, their own included."""
    return {
        name
        for _, evaluation in run.evaluations()
        for name in run.store.with_inputs(evaluation.finetune)
    }


def rate_search(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    """The result of the search for a learning rate; empty if the rate was given."""
    optim = run.store.request(evaluation.finetune)["optim"]
    lr = optim["options"].get("lr") if optim else None
    if isinstance(lr, str) and lr.startswith("choose-"):
        return run.store.json(lr, "lr.json")
    return {}


def arms(run: Run) -> Iterator[Grade]:
    """Points 4.1 to 4.6: the arms are comparable, and the result beats its baselines."""
    main, scratch = (
        [evaluation for arms in run.by_seed for evaluation in arms.get(arm, [])]
        for arm in (MAIN, SCRATCH)
    )
    differ = []
    for pretrained, control in zip(main, scratch, strict=False):
        ours, theirs = (run.store.request(e.finetune) for e in (pretrained, control))
        computed = [without_stored_features(run.store, r) for r in (ours, theirs)]
        pairs = differences(*(run.store.expanded(r, START) for r in computed))
        differ += [f"{key}: {value} against {other} from scratch" for key, value, other in pairs]
        if theirs["start"]:
            differ.append(f"draw {control.draw}: scratch starts from {theirs['start']}")
    yield ok("4.1", differ) if scratch else unknown("4.1", "there is no scratch")
    yield from weights.grade(run)
    missing = [arm for arm in (SCRATCH, *FLOORS) if not run.arms.get(arm)]
    yield ok("4.4", [f"there is no {arm}" for arm in missing])
    score = fmean(run.scores(MAIN))
    baselines = {arm: fmean(run.scores(arm)) for arm in FLOORS if run.arms.get(arm)}
    not_beaten = [
        f"failed to learn: {arm} has {100 * s:.1f} %, it {100 * score:.1f} %"
        for arm, s in baselines.items()
        if s >= score
    ]
    yield ok("4.5", not_beaten) if baselines else unknown("4.5", "there are no baselines")
    judged = bool(run.result["verdict"])
    yield ok("4.6", failures(run)) if judged else unknown("4.6", "there is no verdict")


def without_stored_features(store: FinishedFolders, request: dict[str, Any]) -> dict[str, Any]:
    """A fine-tuning's request without its stored features, if these are the ones that it would
    compute itself: those of a pretrained encoder are stored once for all draws, and a random
    encoder is another one in each draw."""
    if STORED not in request:
        return request
    stored = store.request(request[STORED])
    same = all(stored[key] == request.get(key) for key in FEATURES_OF)
    return {k: v for k, v in request.items() if k != STORED or not same}


def failures(run: Run) -> Iterator[str]:
    """Faults: arms whose training failed and that the verdict compares all the same.

    A failed pretrained arm may count as it is, if the text names it, and a seed that collapsed is
    left out of the verdict.
    """
    verdict = run.result["verdict"]
    left_out = verdict.get("collapsed", [])
    scratch, pretrained = (
        [
            fault
            for n in range(len(run.by_seed))
            if n not in left_out
            for fault in run.faults(arm, n)
        ]
        for arm in (SCRATCH, MAIN)
    )
    if (how := health.said(scratch)) and verdict["word"] != WITHHELD:
        yield f"`{verdict['word']}` is stated, and {SCRATCH} {how}"
    named = f"{MAIN} {health.state(pretrained)}" in verdict["text"]
    if (how := health.said(pretrained)) and not named:
        yield f"{MAIN} {how}, and the verdict does not say so"


def differences(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value in a, value in b) of all differences."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("is") == b.get("is"):
        for key in dict.fromkeys([*a, *b]):
            yield from differences(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)
    elif a != b:
        yield prefix, short(a), short(b)


def short(value: Any) -> str:
    """The class name of a recorded object, the keys of another group, the start of a long text."""
    if isinstance(value, dict):
        name = str(value.get("is", "")).rpartition(".")[2]
        value = name or f"({', '.join(map(str, value))})"
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def trainings(run: Run) -> Iterator[Grade]:
    """Points 5.1 and 5.2: trainings ran to their end and had converged."""
    incomplete = []
    for name in sorted(finetuning_folders(run)):
        if not name.startswith(("finetune-", "pretrain-")):
            continue
        log = metrics_log.read(run.store.root / name)
        stop = run.store.request(name).get("stop") or 0
        if log and log[-1]["step"] != stop:
            incomplete.append(f"{name} stopped after step {log[-1]['step']:g} of {stop}")
        if not log and stop:
            incomplete.append(f"{name} has no record of its {stop} steps")
    yield ok("5.1", incomplete)
    not_converged = []
    for arm in (MAIN, SCRATCH):
        logs = [metrics_log.read(run.store.root / e.finetune) for e in run.arms.get(arm, [])]
        losses = [metrics_log.column(log, "loss")[1] for log in logs]
        if not metrics_log.converged(losses):
            rose = any(map(metrics_log.exploded, filter(None, losses)))
            state = "rose" if rose else "was still falling"
            not_converged.append(f"{arm}: its training loss {state}")
    yield ok("5.2", not_converged)


def integrity(run: Run) -> Iterator[Grade]:
    """Point 6.1: folders are unchanged and named by their requests."""
    faults, folders = [], set[str]()
    for _, evaluation in run.evaluations():
        folders |= run.store.with_inputs(evaluation.evaluate)
    for name in sorted(folders):
        faults += atomic_io.check(run.store.root / name)
        text = json.dumps(run.store.request(name), sort_keys=True)
        if name.rpartition("-")[2] != hashlib.sha256(text.encode()).hexdigest()[:16]:
            faults.append(f"{name} is not named by its request")
    yield ok("6.1", faults)


def scores(run: Run) -> Iterator[Grade]:
    """Point 6.2: stored and stated scores follow from the predictions."""
    faults = []
    for seed, arms in enumerate(run.by_seed):
        for arm, evaluations in arms.items():
            computed, stated = run.scores(arm, seed), stated_scores(run, arm, evaluations[:1])
            which = f"{arm}, seed {evaluations[0].seed}" if seed else arm
            for evaluation, score in zip(evaluations, computed, strict=True):
                record = run.store.json(evaluation.evaluate, "scores.json")
                stored = with_balanced(record, run.score).get(run.score, -1.0)
                if not isclose(stored, score, abs_tol=CLOSE):
                    faults.append(
                        f"{which}, draw {evaluation.draw}: {100 * stored:.2f} % stored, predictions "
                        f"give {100 * score:.2f} %"
                    )
            if len(stated) == len(evaluations):
                faults += [
                    f"{which}, draw {e.draw}: {100 * s:.2f} % stated, predictions give "
                    f"{100 * c:.2f} %"
                    for e, s, c in zip(evaluations, stated, computed, strict=True)
                    if not isclose(s, c, abs_tol=CLOSE)
                ]
    for arm, evaluations in run.arms.items():
        means = run.result["test"] if arm == MAIN else run.result["controls"][arm]
        for name, values in {ACCURACY: run.accuracies(arm), run.score: run.scores(arm)}.items():
            if evaluations and not isclose(means[name], fmean(values), abs_tol=CLOSE):
                faults.append(
                    f"{arm}: a mean of {100 * means[name]:.2f} % stated, it is "
                    f"{100 * fmean(values):.2f} %"
                )
    yield ok("6.2", faults)


def stated_scores(run: Run, arm: str, evaluations: Sequence[Evaluation]) -> list[float]:
    """The scores that the result states of an arm, with the pretraining seed of these evaluations."""
    seed = evaluations[0].seed if evaluations else None
    of = run.result if seed is None else run.result.get("other_seeds", {}).get(str(seed), {})
    scores: list[float] = of.get("draws", {}).get(arm, [])
    return scores


def draws(run: Run) -> Iterator[Grade]:
    """Point 6.3: every draw of every arm is reported, with all test images."""
    expected, faults = list(range(run.result["config"]["draws"])), []
    test_rows = list(range(len(run.test_manifest["ids"])))
    for arm, evaluations in ((arm, of) for arms in run.by_seed for arm, of in arms.items()):
        present = [evaluation.draw for evaluation in evaluations]
        if present != expected and arm != "scratch_long":
            missing = sorted(set(expected) - set(present))
            faults.append(
                f"{arm}: draws {missing} are missing" if missing else f"{arm}: has draws {present}"
            )
        reported = len(stated_scores(run, arm, evaluations))
        if reported != len(present):
            faults.append(f"{arm}: {reported} accuracies for {len(present)} draws")
        predicted = [sorted(run.predictions[evaluation].rows) for evaluation in evaluations]
        if not run.test_manifest["folds"] and any(rows != test_rows for rows in predicted):
            faults.append(f"{arm}: not every test image was predicted, once")
    yield ok("6.3", faults)


def verdicts(run: Run) -> Iterator[Grade]:
    """Points 7.1 to 7.3: the interval and the word follow from the draws."""
    if not run.result["verdict"]:
        for point in ("7.1", "7.2", "7.3"):
            yield unknown(point, "there is no verdict")
        return
    main = run.arms[MAIN]
    for arms in run.by_seed:
        draws = [len(arms.get(arm, [])) for arm in (MAIN, SCRATCH)]
        if draws[0] != draws[1]:
            yield Grade("7.1", False, f"{draws[0]} draws against {draws[1]} from scratch")
            return
        if draws[0] != len(main):
            yield Grade("7.1", False, f"{draws[0]} draws of a seed, {len(main)} of another")
            return
    if run.result.get("judgement"):
        interval_faults, word_faults = verdict_faults(run)
    else:
        interval_faults, word_faults = faults_by_standard_1(run)
    yield ok("7.1", interval_faults)
    yield ok("7.2", word_faults)
    single = "one draw has no interval, and a test over its images says nothing about the method"
    yield ok("7.3", [single] if len(main) < 2 else [])


def verdict_faults(run: Run) -> tuple[list[str], list[str]]:
    """(faults of the numbers, faults of the word and text), with the archive that the result states."""
    labels = run.store.request(run.arms[MAIN][0].finetune)["labels"]
    seeds = range(len(run.by_seed))
    comparison = Comparison(
        [run.scores(MAIN, seed) for seed in seeds],
        [run.scores(SCRATCH, seed) for seed in seeds],
        all_labels=labels["count"] == "all" and not run.test_manifest["folds"],
    )
    faults = ([run.faults(arm, seed) for seed in seeds] for arm in (MAIN, SCRATCH))
    noted = health.noted(comparison, *faults)
    setting = Setting(
        tested=len(run.predictions[run.arms[MAIN][0]].rows),
        ratio=ratio(run),
        score=score_name(run),
        proportion=is_proportion(run.score),
        points=True,
    )
    try:
        studies = archive(run.result["judgement"])
    except DataError as error:
        return [str(error)], [str(error)]
    report = judge({MAIN: noted}, setting, studies, without=[run.result["data"]["name"]])
    return compared(run.result["verdict"], report.verdicts[MAIN].record())


def compared(stated: dict[str, Any], expected: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(faults of the numbers, faults of the word and text) of a verdict as stated.

    `expected` is the verdict as computed again; both are as `Verdict.record` writes them.
    """
    numbers = []
    for key in ("difference", "low", "high", "level"):
        if not equal(stated[key], expected[key]):
            numbers.append(difference(key, stated[key], expected[key]))
    words = []
    if stated["word"] != expected["word"]:
        words.append(f"`{stated['word']}` stated, `{expected['word']}` follows")
    if "text" in stated and not stated["text"].startswith(SAYS[expected["word"]]):
        words.append("the sentence says something else")
    return numbers, words


def equal(a: float | None, b: float | None) -> bool:
    """Whether two numbers of a verdict agree up to `CLOSE`; None stands for an infinite bound."""
    return a == b if a is None or b is None else isclose(a, b, abs_tol=CLOSE)


def difference(key: str, stated: float | None, expected: float | None) -> str:
    return f"{key} {percent(stated)} stated, {percent(expected)} made from the draws"


def archive(judgement: dict[str, Any]) -> Archive | None:
    """The archive of studies that a result's judgement names, or None.

    Raises:
        DataError: the archive is not available.
    """
    name = judgement["archive"]
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
    """The score's name in sentences; results of older versions state none."""
    return run.result.get("score_name", "accuracy")


def faults_by_standard_1(run: Run) -> tuple[list[str], list[str]]:
    """As `verdict_faults`, for a result of version 1.0 or 1.1 of the standard."""
    stated, main, scratch = run.result["verdict"], run.accuracies(MAIN), run.accuracies(SCRATCH)
    gains = [a - b for a, b in zip(main, scratch, strict=True)]
    expected = standard_1.judge([gains], ratio(run))
    numbers = {"difference": expected.difference, "low": expected.low, "high": expected.high}
    faults = [
        difference(key, stated[key], value)
        for key, value in numbers.items()
        if not equal(stated[key], value)
    ]
    withheld = stated["word"] == WITHHELD and any(run.faults(SCRATCH))
    word = expected.withheld(withheld).word
    words = [f"`{stated['word']}` stated, `{word}` follows"] if stated["word"] != word else []
    if not stated["text"].startswith(SAYS[word]):
        words.append("the sentence says something else")
    return faults, words


def ratio(run: Run) -> float:
    """Images tested over images trained on, where draws are folds of one set; else 0."""
    if not run.test_manifest["folds"]:
        return 0.0
    return fmean(
        len(run.predictions[evaluation].rows) / len(set().union(*run.labels_of(evaluation)))
        for evaluation in run.arms[MAIN]
    )


def stated(run: Run) -> Iterator[Grade]:
    """Points 8.1 and 8.2: configuration, data and cost are stated, as they were run."""
    yield ok("8.1", [*misstated_config(run), *misstated_data(run)])
    yield ok("8.2", unstated(run))


def misstated_config(run: Run) -> Iterator[str]:
    """Faults of point 8.1: settings and manifests other than those that the run used."""
    config = run.result["config"]
    count = str(config["labels"])
    if config.get("labels_total"):
        count = f"total:{config['labels_total']}"
    elif count.endswith(".csv"):
        count = "all"
    val = config["val"] if config["val"] in ("holdout", "full") else "none"
    for arm, evaluation in run.evaluations():
        request = run.store.request(evaluation.finetune)
        if request["labels"]["count"] != count:
            yield f"{arm}: labels={count} stated, {request['labels']['count']} were used"
        if arm in (MAIN, SCRATCH) and request["optim"]:
            seed = config["seed"] if evaluation.seed is None else evaluation.seed
            for key, value in (("seed", seed), ("val", val)):
                if request[key] != value:
                    yield f"{arm}: {key}={value} stated, {request[key]} was used"
        test = run.store.request(evaluation.evaluate)["test"]
        for key, used in (("data", request["data"]), ("test", test)):
            if used != run.result["folders"][key]:
                yield f"{arm}: another {key} manifest than stated"


def misstated_data(run: Run) -> Iterator[str]:
    """Faults of point 8.1: a score or a hash that does not follow from the manifests."""
    train, test = run.train_manifest, run.test_manifest
    score = run.result["config"].get("score", run.score)  # older versions had accuracy alone
    if score == "auto":
        score = judged_by(train["labels"], test["labels"])
    if run.score != score:
        yield f"judged by {NAMES[run.score]}, and by its labels it is {NAMES[score]}"
    if run.result["data"]["manifest"] != train["sha256"]:
        yield "the stated hash is not the manifest's"


def unstated(run: Run) -> Iterator[str]:
    """Faults of point 8.2: facts that the result does not state."""
    config, data, stages = run.result["config"], run.result["data"], run.result["stages"]
    facts = {
        **{f"data.{key}": key in data for key in DATA_FACTS},
        **{f"stages.{key}.seconds": "seconds" in (stages.get(key) or {}) for key in COSTS},
        **{key: key in config for key in CONFIG_FACTS},
        "transductive": bool(config["protocol"]["transductive"]) == bool(data.get("transductive")),
    }
    for name, is_stated in facts.items():
        if not is_stated:
            yield f"{name} is not stated"


def percent(value: float | None) -> str:
    """A number of a verdict in percent, with its sign."""
    return "none" if value is None else f"{100 * value:+.2f}"
