"""Requests of pretrainings, one for each fold that needs its own, and their initial weights."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sft_exp.config.schema import Experiment
from sft_exp.config.weight_names import IMAGENET, NAMES, WANDB
from sft_exp.core.encoder import Encoder
from sft_exp.data.corpus import Corpus
from sft_exp.data.splits import Labels
from sft_exp.errors import ConfigError
from sft_exp.jobs.stage_requests import Job, add, closed, going_on, place, steps
from sft_exp.models import transfer, weights
from sft_exp.models.transfer import Tensors
from sft_exp.models.weights import Weights
from sft_exp.stages import pretrain
from sft_exp.store.store import Request
from sft_exp.trackers import wandb

STARTLESS = ("nothing", "in closed form")  # `trained_by` of pretrainers without initial weights
# request fields of a pretraining without initial weights
WITHOUT: Request = {"init": None, "_init": None, "_allow": []}


def pretraining(job: Job, shared: Request, pool: Corpus, fold: int | str | None) -> Path | None:
    """Add the pretraining of this fold's draws; returns its folder, or None for pretrainer=none."""
    e = job.experiment
    if e.pretrainer.trained_by == "nothing":
        return None
    size = len(pretrain.pool_of(pool, fold, e.pretrainer, job.corpus.image))
    request: Request = {
        **shared,
        **initial(e),
        "method": e.pretrainer,
        "encoder": e.encoder,
        "image": job.corpus.image,
        "fold": fold,
        "seed": e.seed,
        "optim": e.pretrain_optim,
        "schedule": e.pretrain_schedule,
        **steps(e.pretrain, size),
        "batch_size": e.pretrain.size(size),
        "micro_batch_size": e.pretrain.micro_batch_size,
        "clip": e.pretrain.clip,
        "precision": e.hardware.numerics(),
        "_monitor": monitored(job, fold) if e.monitors else None,
    }
    if e.pretrainer.trained_by != "by gradient":
        return start_of(job, closed(request))
    return start_of(job, going_on(job, "pretrain", request, e.pretrain.before(size)))


def initial(e: Experiment) -> Request:
    """Request fields of a pretraining's initial weights: the file, by the hash of its content."""
    path, trained_by = e.pretrainer.init, e.pretrainer.trained_by
    if path and trained_by in STARTLESS:
        raise ConfigError(
            "pretrainer.init",
            path,
            "must be null: nothing starts from weights here; take pretrainer=checkpoint",
        )
    if trained_by == "from a file" and not path:
        valid = f"must name weights: a file, a folder of ours, {NAMES}"
        raise ConfigError("pretrainer.init", path, valid)
    if not path:
        return WITHOUT
    source, _, sha256 = initial_weights(path)
    chosen = {} if e.transfer.prefix is None else {"prefix": e.transfer.prefix}
    return {"init": sha256, "_init": source, "_allow": e.transfer.allow, **chosen}


def initial_weights(init: str) -> tuple[Weights, Tensors, str]:
    """`pretrainer.init` -> (location and normalisation, tensors, SHA-256 of the content)."""
    if init.startswith(WANDB):
        init = str(wandb.fetch(init.removeprefix(WANDB)))
    located = weights.locate(init)
    tensors, sha256 = weights.read(located)
    return weights.prepared(located, tensors, sha256), tensors, sha256


def fitted(e: Experiment, image: tuple[int, int, int]) -> Experiment:
    """The experiment with the encoder that fits its initial weights.

    Images are prepared as in the training of the weights, and open fields are those of the file;
    fields that the user gave stay. Requests and their hashes contain only this encoder.
    """
    if not e.pretrainer.init or e.pretrainer.trained_by in STARTLESS:
        return e
    if e.pretrainer.init == IMAGENET:
        e = replace(e, pretrainer=replace(e.pretrainer, init=of_imagenet(e)))
    source, tensors, _ = initial_weights(e.pretrainer.init)
    encoder = e.encoder
    if encoder.mean is None and encoder.std is None:
        encoder = replace(encoder, mean=source.mean, std=source.std)
    fixed = source.fixed and not getattr(encoder, "options", None)
    # masks and boxes are of the whole image
    usual = source.crop if e.task.pooled else 1.0
    crop = usual if encoder.crop is None else encoder.crop
    alters = crop != 1.0 or image[1:] != (source.size,) * 2
    size = encoder.size or (source.size if fixed and alters else None)
    if size:
        interpolation = encoder.interpolation or source.interpolation
        encoder = replace(encoder, size=size, crop=crop, interpolation=interpolation)
    variants = encoder.variants(image)
    if len(variants) > 1:
        loaded = [
            transfer.transfer(v.build(image), tensors, source.file, e.transfer.prefix).summary()[
                "loaded"
            ]
            for v in variants
        ]
        encoder = variants[loaded.index(max(loaded))]
    return replace(e, encoder=encoder)


def encoder_of_file(e: Experiment) -> str:
    """The options of an encoder whose layers the initial weights have all, for a message: a ResNet, or the model of
    torchvision that the file is named after. "" if neither is."""
    # torchvision takes a second to import, which other runs do not need
    from torchvision import models

    from sft_exp.encoders.resnet import LAYERS, ResNet
    from sft_exp.encoders.torchvision_model import TorchvisionModel

    source, tensors, _ = initial_weights(e.pretrainer.init or "")
    candidates: list[tuple[str, Encoder]] = []
    if any(name.endswith("layer4.0.conv1.weight") for name in tensors):
        for depth in LAYERS:
            option = "encoder=resnet50" if depth == 50 else "encoder=resnet18"
            option += "" if depth in (18, 50) else f" encoder.depth={depth}"
            stated = isinstance(e.encoder, ResNet) and e.encoder.depth == depth
            for stem in ("large", "small"):
                stem_option = f"{option} encoder.stem={stem}" if stated else option
                candidates.append((stem_option, ResNet(depth, stem)))
    named = [name for name in models.list_models(module=models) if name in source.file.name.lower()]
    for name in sorted(named, key=len)[-1:]:
        candidates.append((f"encoder=torchvision encoder.name={name}", TorchvisionModel(name)))
    for option, encoder in candidates:
        with suppress(ConfigError):
            net = encoder.build((3, 224, 224))
            report = transfer.transfer(net, tensors, source.file, e.transfer.prefix)
            if not (report.missing or report.more or report.ambiguous or report.blank):
                return option
    return ""


def of_imagenet(e: Experiment) -> str:
    """The name of the ImageNet weights of the chosen encoder. ConfigError if none are public."""
    if (name := e.encoder.published()) is None:
        option = e.choices.get("encoder", type(e.encoder).__name__)
        valid = f"has no public ImageNet weights; leave it out, or choose resnet18, or {NAMES}"
        raise ConfigError("encoder", option, valid)
    return name


def monitored(job: Job, fold: int | str | None) -> Request:
    """The labelled images of the monitors: the first draw's, or the draw of the fold."""
    e = job.experiment
    labels = Labels.parse(e.labels, e.labels_total)
    return {"dataset": e.dataset, "labels": labels, "draw": fold if isinstance(fold, int) else 0}


def start_of(job: Job, request: Request) -> Path:
    """The folder of this pretraining, whose request is added to the job if it is new."""
    if request not in job.requests["pretrain"]:
        add(job, "pretrain", request)
    return place(job, "pretrain", request)


def likely(job: Job, shared: Request, start: Path | None) -> Request:
    """The request of the test images' likelihood. ConfigError if there is none."""
    e = job.experiment
    if start is None or not e.pretrainer.has_likelihood:
        raise ConfigError(
            "nll_samples",
            e.nll_samples,
            f"must be 0: {type(e.pretrainer).__name__} has no likelihood",
        )
    if job.corpus.test is None:
        raise ConfigError(
            "nll_samples",
            e.nll_samples,
            f"must be 0: {job.corpus.name} has no separate test images",
        )
    return {
        **shared,
        "method": e.pretrainer,
        "encoder": e.encoder,
        "image": job.corpus.image,
        "start": start,
        "seed": e.seed,
        "samples": e.nll_samples,
    }
