"""Points on the numbers of the models: what was to arrive arrived, what was to stay stayed."""

from typing import Any

import torch
from torch import Tensor

from sft_exp.check.artefacts import Arm, Run
from sft_exp.check.standard import Grade, ok
from sft_exp.core.rng import seed_global, seed_of, stream
from sft_exp.models.feature_extractor import layers
from sft_exp.models.transfer import read_own
from sft_exp.stages import model as models
from sft_exp.stages.model import rebuild

Tensors = dict[str, Tensor]
PREFIX = "encoder.backbone."


def grade(run: Run) -> list[Grade]:
    moved, lost = [], []
    for arm, ones in run.arms.items():
        for one in ones:
            where = f"{arm}, draw {one.draw}"
            request = run.shelf.request(one.finetune)
            folder = run.shelf.root / one.finetune
            now = {
                k.removeprefix(PREFIX): v
                for k, v in read_own(folder / "model.safetensors").items()
                if k.startswith(PREFIX)
            }
            if request["start"]:
                given = read_own(run.shelf.root / request["start"] / "encoder.safetensors")
                misfits = [k for k, v in given.items() if k not in now or now[k].shape != v.shape]
                if misfits or not given:
                    lost.append(
                        f"{where}: {len(misfits) or 'no'} tensors of the pretraining, {misfits[:1]}, are in the model"
                    )
            stays = frozen(run, one)
            before = (given if request["start"] else fresh(run, one)) if stays else {}
            changed = sorted(
                k for k in stays & before.keys() if k in now and not torch.equal(now[k], before[k])
            )
            if changed:
                moved.append(f"{where}: {len(changed)} tensors moved ({', '.join(changed[:2])})")
    return [ok("4.2", moved), ok("4.3", lost)]


def frozen(run: Run, one: Arm) -> set[str]:
    """Names of the encoder's tensors that its strategy must not move; with no moving parameter that includes BatchNorm's
    statistics."""
    model = models.load(run.shelf.root / one.finetune)
    readout: Any = model.nets["encoder"]
    strategy = rebuild(run.shelf.request(one.finetune)["strategy"])
    own = {name for name, _ in readout.backbone.named_parameters()}
    strategy.adapt(readout, stream(0))
    moving = {
        name for _, rates in strategy.phases(layers(readout, model.spec.image)) for name in rates
    }
    if moving - own:  # what was added is folded into parameters of the encoder, which then differ
        return set()
    return own - moving if moving else {*readout.backbone.state_dict()}


def fresh(run: Run, one: Arm) -> Tensors:
    """The encoder's parameters as the request's seed starts them. Its BatchNorm statistics come from images of the pool."""
    request, spec = run.shelf.request(one.finetune), models.load(run.shelf.root / one.finetune).spec
    seed_global(seed_of(request["seed"], "init", request["draw"]), torch.device("cpu"))
    backbone = models.readout(rebuild(request["encoder"]), request["features"], spec).backbone
    return {name: p.detach() for name, p in backbone.named_parameters()}
