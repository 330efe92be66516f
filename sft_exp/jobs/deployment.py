"""Requests of deployment: compressed variants with their benchmark, and exported files."""

from pathlib import Path

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.arms import MAIN
from sft_exp.core.deploy import Compressor, Distillation
from sft_exp.core.task import Network
from sft_exp.errors import ConfigError, first_line
from sft_exp.jobs.stage_requests import Job, add, model_parts, place
from sft_exp.models import graphs
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages import model
from sft_exp.stages.features import STORED
from sft_exp.store.store import Request
from sft_exp.strategies import distill

ORIGINAL = "original"  # name of the model among its compressed variants


def add_deployment(job: Job, shared: Request) -> None:
    """Add the requests that compress and export the model of the main arm's first draw.

    That is also the model of `load_model` and predict. ConfigError if options conflict.
    """
    e = job.experiment
    main = job.requests["finetune"][job.arms[MAIN][0]]
    chosen, export = e.choices.get("compress", ""), e.choices.get("export", "")
    variants = e.compress.variants(chosen) if e.compress else {}
    exported = place(job, "finetune", main)
    last: list[Compressor] = next(iter(variants.values()), [])
    if variants:
        compressors = [step for steps in variants.values() for step in steps]
        needs = [name for step in compressors for name in step.needs]
        graphs.require_onnx("compress", chosen, needs)
        require_logits(main, "compress", chosen)
        maps = main["features"]["maps"]
        if len(maps) > 1 and any(step.follows_channels for step in compressors):
            raise ConfigError(
                "features.maps",
                maps,
                f"must be one map: compress={chosen} cannot follow channels of several",
            )
        folders = {
            name: compression(job, shared, main, steps)
            for name, steps in {ORIGINAL: [], **variants}.items()
        }
        request = {
            **shared,
            "test": job.requests["evaluate"][0]["test"],
            "labels": main["labels"],
            "draw": main["draw"],
            "forms": folders,
        }
        add(job, "bill", request)
        exported = folders[next(iter(variants))]
    if e.export and e.export.file:
        if len(variants) > 1 and chosen not in variants:
            raise ConfigError(
                "export",
                export,
                f"must be none: compress={chosen} makes several models, {', '.join(variants)}",
            )
        if e.export.network and any(step.graph for step in last):
            raise ConfigError(
                "export",
                export,
                f"must be onnx or ort: compress={chosen} makes an ONNX graph of integers",
            )
        if not e.export.network:
            graphs.require_onnx("export", export)
        if e.export.alone:
            require_logits(main, "export", export)
        request = {
            **shared,
            "model": exported,
            "parts": model_parts(main),
            "exporter": e.export,
        }
        add(job, "export", request)


def require_logits(main: Request, key: str, value: str) -> None:
    """ConfigError unless the model is a network with logits."""
    if not main["strategy"].probabilistic:
        kind = type(main["strategy"]).__name__
        raise ConfigError(
            key, value, f"must be none: {kind} gives votes, not a network with logits"
        )


def compression(job: Job, shared: Request, main: Request, steps: list[Compressor]) -> Path:
    """Add the requests of a variant of the model; returns its folder.

    A student is fine-tuned first, like any other model.
    """
    e, folder, parts = job.experiment, place(job, "finetune", main), model_parts(main)
    network, group = main, "encoder"  # the request of the network that is changed
    if steps and (distillation := steps[0].distillation()):
        network = request = student_request(job, main, distillation, folder)
        group = "compress.student"
        add(job, "finetune", request)
        folder, parts, steps = place(job, "finetune", request), model_parts(request), steps[1:]
    if any(step.distillation() for step in steps):
        raise ConfigError(
            "compress",
            e.choices.get("compress"),
            "distill must come first: a student is a new network",
        )
    require_followed(job, network, group, steps)
    request = {
        **shared,
        "model": folder,
        "parts": parts,
        "steps": steps,
        "labels": main["labels"],
        "draw": main["draw"],
        "seed": e.seed,
        "precision": e.hardware.numerics(),
    }
    add(job, "compress", request)
    return place(job, "compress", request)


def require_followed(job: Job, network: Request, group: str, steps: list[Compressor]) -> None:
    """ConfigError unless compressors that follow channels find their way through such an encoder,
    as it is before any training: transformers add positions of their own to the channels."""
    import torch

    e, spec = job.experiment, job.corpus.spec
    for step in (step for step in steps if step.follows_channels):
        readout = model.readout(network["encoder"], network["features"], spec)
        copied = Network(e.task, e.task.networks(readout, spec)).eval()
        x_BCHW = torch.zeros(2, *spec.image)
        try:
            step.alter(copied, x_BCHW)
            copied.eval()(x_BCHW)
        except Exception as error:  # whatever the graph of such a network leads a library to
            kind, chosen = type(network["encoder"]).__name__, e.choices.get("compress", "")
            problem = f"{type(step).__name__} cannot follow the channels of {group} {kind}"
            valid = "must be int8, int8_dynamic, qat or distill"
            raise ConfigError(
                "compress", chosen, f"{valid}: {problem} ({first_line(error)})"
            ) from error


def student_request(job: Job, main: Request, distillation: Distillation, teacher: Path) -> Request:
    """The fine-tuning of a student from scratch: the main arm's task and labels, another encoder.

    `teacher` is the folder of the model from which it is distilled.
    """
    if distillation.student is None:
        raise ConfigError(
            "compress.student", None, "names no encoder, e.g. encoder@compress.student=conv"
        )
    try:
        features = {"maps": [-1], "pool": "avg", "grid": 1}
        readout = model.readout(distillation.student, features, job.corpus.spec)
    except ConfigError as error:
        raise error.under("compress.student") from error
    return {
        **{key: value for key, value in main.items() if key != STORED},
        "encoder": distillation.student,
        "features": {"maps": readout.names, "pool": "avg", "grid": 1},
        "start": None,
        "strategy": distill.Distil(teacher, distillation.temperature, distillation.weight),
        "parts": model_parts(main),
        "val": "none",
        "optim": OptimizerConfig("torch.optim.Adam", {"lr": distillation.lr}),
        "schedule": PiecewiseCosine([[0.0, 1.0], [1.0, 0.0]]),
        "steps": distillation.steps,
        "stop": distillation.steps,
        "_after": None,
        "batch_size": distillation.batch_size,
        "micro_batch_size": None,
    }
