"""What is made of the finished model: compressed forms with their bill, and files for use elsewhere."""

from pathlib import Path

from sft_exp.config.schema import OptimizerConfig
from sft_exp.core.arms import MAIN
from sft_exp.core.deploy import Compressor, Distillation
from sft_exp.errors import ConfigError
from sft_exp.jobs.stage_requests import Job, add, model_parts, place
from sft_exp.models import graphs
from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
from sft_exp.stages import model
from sft_exp.store.store import Request
from sft_exp.strategies import distill

ORIGINAL = "original"  # what the model is called beside its compressed forms


def deployment(job: Job, shared: Request) -> None:
    """Adds what compresses and exports the model: the main arm's first draw, as for `load_model` and predict. ConfigError
    where the choices do not fit each other."""
    e = job.experiment
    main = job.requests["finetune"][job.arms[MAIN][0]]
    chosen, wanted = e.choices.get("compress", ""), e.choices.get("export", "")
    variants = e.compress.variants(chosen) if e.compress else {}
    exported = place(job, "finetune", main)
    last: list[Compressor] = next(iter(variants.values()), [])
    if variants:
        graphs.require_onnx("compress", chosen)
        need_logits(main, "compress", chosen)
        maps = main["features"]["maps"]
        if len(maps) > 1 and any(
            step.follows_channels for steps in variants.values() for step in steps
        ):
            raise ConfigError(
                "features.maps",
                maps,
                f"must be one map: compress={chosen} cannot follow channels of several",
            )
        ends = {
            name: compression(job, shared, main, steps)
            for name, steps in {ORIGINAL: [], **variants}.items()
        }
        tested = {
            "test": job.requests["evaluate"][0]["test"],
            "labels": main["labels"],
            "draw": main["draw"],
        }
        add(job, "bill", {**shared, **tested, "forms": ends})
        exported = ends[next(iter(variants))]
    if e.export and e.export.file:
        if len(variants) > 1 and chosen not in variants:
            raise ConfigError(
                "export",
                wanted,
                f"must be none: compress={chosen} leaves several models, {', '.join(variants)}",
            )
        if e.export.network and any(step.graph for step in last):
            raise ConfigError(
                "export",
                wanted,
                f"must be onnx or ort: compress={chosen} leaves an ONNX graph of integers",
            )
        if not e.export.network:
            graphs.require_onnx("export", wanted)
        if e.export.alone:
            need_logits(main, "export", wanted)
        add(
            job,
            "export",
            {**shared, "model": exported, "parts": model_parts(main), "exporter": e.export},
        )


def need_logits(main: Request, key: str, value: str) -> None:
    if not main["strategy"].probabilistic:
        raise ConfigError(
            key,
            value,
            f"must be none: {type(main['strategy']).__name__} leaves votes, and no network with logits",
        )


def compression(job: Job, shared: Request, main: Request, steps: list[Compressor]) -> Path:
    """Adds one form of the model; its folder-to-be. A student is fine-tuned first, like any other model."""
    e, begun, parts = job.experiment, place(job, "finetune", main), model_parts(main)
    if steps and (how := steps[0].distillation()):
        request = studying(job, main, how, begun)
        add(job, "finetune", request)
        begun, parts, steps = place(job, "finetune", request), model_parts(request), steps[1:]
    if any(step.distillation() for step in steps):
        raise ConfigError(
            "compress",
            e.choices.get("compress"),
            "distill must come first: a student is a new network",
        )
    request = {
        **shared,
        "model": begun,
        "parts": parts,
        "steps": steps,
        "labels": main["labels"],
        "draw": main["draw"],
        "seed": e.seed,
        "precision": e.hardware.precision,
    }
    add(job, "compress", request)
    return place(job, "compress", request)


def studying(job: Job, main: Request, how: Distillation, teacher: Path) -> Request:
    """The fine-tuning of a student: the main arm's task and labels, another encoder, from scratch, with the teacher's help."""
    if how.student is None:
        raise ConfigError(
            "compress.student", None, "names no encoder, e.g. encoder@compress.student=conv"
        )
    try:
        readout = model.readout(
            how.student, {"maps": [-1], "pool": "avg", "grid": 1}, job.corpus.spec
        )
    except ConfigError as error:
        raise error.under("compress.student") from error
    return {
        **main,
        "encoder": how.student,
        "features": {"maps": readout.names, "pool": "avg", "grid": 1},
        "start": None,
        "strategy": distill.Distil(teacher, how.temperature, how.weight),
        "parts": model_parts(main),
        "val": "none",
        "optim": OptimizerConfig("torch.optim.Adam", {"lr": how.lr}),
        "schedule": PiecewiseCosine([[0.0, 1.0], [1.0, 0.0]]),
        "steps": how.steps,
        "stop": how.steps,
        "_after": None,
        "batch_size": how.batch_size,
        "micro_batch_size": None,
    }
