"""Points on the weights: frozen tensors did not change (4.2), pretrained ones were loaded (4.3)."""

from typing import Any

import torch
from torch import Tensor

from sft_exp.check.artefacts import Evaluation, Run
from sft_exp.check.standard import Grade, ok
from sft_exp.core.rng import seed_global, seed_of, stream
from sft_exp.models.feature_extractor import layers
from sft_exp.models.transfer import read_own
from sft_exp.stages import model as models
from sft_exp.stages.model import rebuild

Tensors = dict[str, Tensor]
PREFIX = "encoder.backbone."


def grade(run: Run) -> list[Grade]:
    """Grades of points 4.2 and 4.3."""
    changes, missing = [], []
    for arm, evaluation in run.evaluations():
        where = f"{arm}, draw {evaluation.draw}"
        request = run.store.request(evaluation.finetune)
        folder = run.store.root / evaluation.finetune
        now = {
            k.removeprefix(PREFIX): v
            for k, v in models.state_in(folder).items()
            if k.startswith(PREFIX)
        }
        if request["start"]:
            pretrained = read_own(run.store.root / request["start"] / "encoder.safetensors")
            absent = [k for k, v in pretrained.items() if k not in now or now[k].shape != v.shape]
            if absent:
                missing.append(
                    f"{where}: {len(absent)} tensors of the pretraining are not in the model, "
                    f"such as {absent[0]}"
                )
            elif not pretrained:
                missing.append(f"{where}: the pretraining left no tensors")
        fixed = frozen(run, evaluation)
        before = (pretrained if request["start"] else fresh(run, evaluation)) if fixed else {}
        changed = sorted(
            k for k in fixed & before.keys() if k in now and not torch.equal(now[k], before[k])
        )
        if changed:
            names = ", ".join(changed[:2])
            changes.append(f"{where}: {len(changed)} frozen tensors changed ({names})")
    return [ok("4.2", changes), ok("4.3", missing)]


def frozen(run: Run, evaluation: Evaluation) -> set[str]:
    """Names of the encoder's tensors that its strategy must not change.

    If no parameter is trainable, these include BatchNorm's statistics.
    """
    model = models.load(run.store.root / evaluation.finetune)
    extractor: Any = model.nets["encoder"]
    strategy = rebuild(run.store.request(evaluation.finetune)["strategy"])
    own = {name for name, _ in extractor.backbone.named_parameters()}
    strategy.adapt(extractor, stream(0))
    phases = strategy.phases(layers(extractor, model.spec.image))
    trainable = {name for _, rates in phases for name in rates}
    if trainable - own:  # added parameters are merged into those of the encoder, which then differ
        return set()
    return own - trainable if trainable else {*extractor.backbone.state_dict()}


def fresh(run: Run, evaluation: Evaluation) -> Tensors:
    """The encoder's initial parameters by the request's seed.

    BatchNorm statistics are not among them: they are computed from images of the pool.
    """
    request = run.store.request(evaluation.finetune)
    spec = models.load(run.store.root / evaluation.finetune).spec
    seed_global(seed_of(request["seed"], "init", request["draw"]), torch.device("cpu"))
    backbone = models.readout(rebuild(request["encoder"]), request["features"], spec).backbone
    return {name: p.detach() for name, p in backbone.named_parameters()}
