"""Point 6.5: the data set, the labelled splits and the predictions can be made again.

The point is graded by doing so, which takes as long as the predictions of every arm.
"""

from sft_exp.check.artefacts import Run
from sft_exp.check.standard import Grade, ok
from sft_exp.config import build, sources
from sft_exp.data import splits
from sft_exp.data.splits import Labels
from sft_exp.stages import model as models
from sft_exp.store.listing import located
from sft_exp.training.context import corpus, pick

ROUNDING = 0.001  # share of the predictions that may differ on another machine


def grade(run: Run) -> Grade:
    """The grade of point 6.5.

    Raises:
        DataError: the data set is not where the run read it.
    """
    values = build.resolved(located(run.result["config"], run.folder))
    data = corpus(build.part(values["dataset"], "dataset", sources.KINDS["dataset"]))
    labels, faults = Labels.parse(values["labels"], values["labels_total"]), []
    manifests = (run.train_manifest, run.test_manifest)
    fingerprints = (data.fingerprint, data.test_fingerprint)
    for manifest, hash_now in zip(manifests, fingerprints, strict=True):
        hash_then = manifest["sha256"]
        if hash_then != hash_now:
            faults.append(
                f"the data set's hash is {hash_now[:16]}..., the run's is {hash_then[:16]}..."
            )
    for arm, evaluation in run.evaluations():
        where = f"{arm}, draw {evaluation.draw}"
        draw = splits.make(data, labels, evaluation.draw)
        labelled, validation = run.labels_of(evaluation)
        request, predictions = run.store.request(evaluation.finetune), run.predictions[evaluation]
        # a holdout is taken from the labelled images of the draw
        names = {*labelled, *validation} if request["val"] == "holdout" else {*labelled}
        if names != {*draw.labelled.ids}:
            faults.append(f"{where}: its labels are not those of draw {evaluation.draw}")
        if [run.test_manifest["ids"][row] for row in predictions.rows] != draw.test.ids:
            faults.append(f"{where}: its test images are not those of draw {evaluation.draw}")
            continue
        model = models.load(run.store.root / evaluation.finetune)
        _, outputs = models.measure(model, draw.test, pick("cpu"))
        classes = outputs["predicted"].tolist()
        differ = sum(a != b for a, b in zip(classes, predictions.classes, strict=True))
        if differ > ROUNDING * len(draw.test):
            faults.append(
                f"{where}: the model predicts {differ} of {len(draw.test)} images differently"
            )
    return ok("6.5", faults)
