"""Read the data, draw the labelled splits and predict again (point 6.5).

It costs the predictions of every arm.
"""

from sft_exp.check.artefacts import Run
from sft_exp.check.runs import every
from sft_exp.check.standard import Grade, ok
from sft_exp.config import build, sources
from sft_exp.data import splits
from sft_exp.data.splits import Labels
from sft_exp.stages import model as models
from sft_exp.training.context import corpus, pick

ROUNDING = 0.001  # share of the predictions that may differ on another machine


def grade(run: Run) -> Grade:
    """Grade of point 6.5.

    Raises:
        DataError: the data set is not where the run read it.
    """
    values = build.resolved(run.result["config"])
    data = corpus(build.part(values["dataset"], "dataset", sources.KINDS["dataset"]))
    known, faults = Labels.parse(values["labels"], values["labels_total"]), []
    for stated, read in ((run.learnt, data.fingerprint), (run.tested, data.test_fingerprint)):
        if stated["sha256"] != read:
            faults.append(
                f"the data set's hash is {read[:16]}..., the run's is {stated['sha256'][:16]}..."
            )
    for arm, one in every(run):
        where = f"{arm}, draw {one.draw}"
        draw = splits.make(data, known, one.draw)
        labelled, validation = run.labels_of(one)
        used = (
            {*labelled, *validation}
            if run.shelf.request(one.finetune)["val"] == "holdout"
            else {*labelled}
        )
        if used != {*draw.labelled.ids}:
            faults.append(f"{where}: its labels are not those of draw {one.draw}")
        if [run.tested["ids"][r] for r in run.rows[one][0]] != draw.test.ids:
            faults.append(f"{where}: its test images are not those of draw {one.draw}")
            continue
        _, outputs = models.measure(
            models.load(run.shelf.root / one.finetune), draw.test, pick("cpu")
        )
        differ = sum(
            a != b for a, b in zip(outputs["predicted"].tolist(), run.rows[one][1], strict=True)
        )
        if differ > ROUNDING * len(draw.test):
            faults.append(
                f"{where}: the model predicts {differ} of {len(draw.test)} images differently"
            )
    return ok("6.5", faults)
