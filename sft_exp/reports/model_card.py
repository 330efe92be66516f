"""The model card, and the exported files with the code that loads them."""

import shlex
from pathlib import Path
from statistics import fmean
from typing import Any

from yaml import safe_dump

from sft_exp.core.arms import MAIN, SCRATCH
from sft_exp.data import splits
from sft_exp.jobs.stage_requests import Job
from sft_exp.reports import advice
from sft_exp.store import atomic_io
from sft_exp.store.results import Form, Results
from sft_exp.verdict import interval

FOLDER = "export"  # of the run folder
CARD = "model_card.md"
DOES = {
    "classes": "Classifies",
    "label sets": "Finds which classes are in",
    "pixels": "Classifies the pixels of",
    "boxes": "Finds and classifies objects in",
    "numbers": "Predicts numbers from",
    "several": "Predicts several things from",
}
IMAGE = """
import numpy as np
from PIL import Image

image = Image.open("photo.jpg").convert("{mode}").resize(({width}, {height}), Image.Resampling.BILINEAR)
pixels = np.asarray(image, "uint8").reshape(1, {height}, {width}, {channels})
{scaling}
{answer}
"""
KINDS = {  # of task -> the hub's name for it
    "classes": "image-classification",
    "label sets": "image-classification",
    "pixels": "image-segmentation",
    "boxes": "object-detection",
    "numbers": "image-feature-extraction",
    "several": "image-feature-extraction",
}
SHARE = """To share it, upload this folder: `hf upload OWNER/NAME outputs/latest/export`. With this package it is loaded by

```python
import sft_exp
from huggingface_hub import snapshot_download

model = sft_exp.load_model(snapshot_download("OWNER/NAME"))
```

and a training starts from its encoder by `pretrainer.init=hf:OWNER/NAME encoder={encoder}`.
Say in the header under which license it may be used."""
ANSWERS = {
    "classes": "print(classes[int(predict(images).argmax())])",
    "label sets": "logits, margins = predict(images)[0]  # of each class; a margin is its logit less its threshold\n"
    "print({c: float(1 / (1 + np.exp(-logit))) for c, logit, m in zip(classes, logits, margins) if m >= 0})",
    "pixels": "mask = predict(images)[0].argmax(0)  # [rows, columns]: each pixel's class as an index into `classes`",
    "numbers": "print(dict(zip(classes, predict(images)[0].tolist())))",
}


def publish(job: Job, result: Results, folder: Path, command: list[str]) -> None:
    """Write model_card.md into the run folder; after an export also the exported files, load.py and
    the card in export/."""
    text = card(job, result, command)
    atomic_io.write(folder / CARD, text)
    for request, export in zip(job.requests["export"], job.results["export"], strict=True):
        for file in export.folder.iterdir():
            if file.name not in ("request.json", "export.json", atomic_io.SEAL):
                atomic_io.write(folder / FOLDER / file.name, file.read_bytes())
        if request["exporter"].shared:
            atomic_io.write(folder / FOLDER / "README.md", header(job, result) + text)
        else:
            atomic_io.write(folder / FOLDER / CARD, text)


def header(job: Job, result: Results) -> str:
    """The YAML header that the hub reads, with the test score of the exported model."""
    kind, score = KINDS[job.experiment.task.predicts], result.score_name
    about: dict[str, Any] = {
        "library_name": "sft_exp",
        "pipeline_tag": kind,
        "tags": ["sft_exp", f"pretrainer:{job.experiment.choices.get('pretrainer', 'none')}"],
        "model-index": [
            {
                "name": job.corpus.name,
                "results": [
                    {
                        "task": {"type": kind},
                        "dataset": {"name": job.corpus.name, "type": job.corpus.name},
                        "metrics": [{"type": score, "value": round(result.draws[MAIN][0], 6)}],
                    }
                ],
            }
        ],
    }
    return f"---\n{safe_dump(about, sort_keys=False)}---\n\n"


def card(job: Job, result: Results, command: list[str]) -> str:
    """The model card of Mitchell et al., arXiv:1810.03993, as Markdown."""
    e, data = job.experiment, result.data
    channels, height, width = job.corpus.image
    groups = ("pretrainer", "encoder", "strategy", "optim")
    choices = ", ".join(f"{group} {e.choices.get(group, 'none')}" for group in groups)
    classes = ", ".join(job.corpus.classes[:40]) + (", ..." if len(job.corpus.classes) > 40 else "")
    sections = {
        f"Model card: {job.corpus.name}": [
            f"{DOES[e.task.predicts]} images of {channels} x {height} x {width} (channels, rows, columns)"
            + (f" into {len(job.corpus.classes)} classes: {classes}." if classes else "."),
            f"Made by `{shlex.join(command)}`: {choices}.",
        ],
        "Data": [
            f"{job.corpus.name}: {data.train:,} training images, of which {data.labelled:,} with labels "
            f"({job.labels}); {data.test:,} test images.",
            *filter(None, [advice.weights(result), pretraining(job)]),
            f"SHA-256 of images and labels: `{data.manifest}`. The labelled images are named in `labels.json` of "
            f"`{job.results['finetune'][job.arms[MAIN][0]].folder}`.",
        ],
        "Protocol": [
            f"Validation: {advice.VALIDATION[e.val]}. The test images were read at the end, and "
            "nothing was chosen by them.",
            f"{e.draws} label {'draws' if e.draws > 1 else 'draw'}, seed {e.seed}"
            + (f" and {e.seeds - 1} further pretraining seeds" if e.seeds > 1 else "")
            + f". This model is the first draw's{' of the first seed' if e.seeds > 1 else ''}.",
        ],
        "Numbers": numbers(job, result),
        "Cost": [cost(result)],
        "Intended use": [
            "Images like those it was trained on: same kind of camera, framing and classes. It always answers with one of its "
            "classes, also for an image of something else, and its probabilities are as good as the calibration error says.",
            "Not tested: other sources of images, groups of people, adversaries. Test it on your own images first.",
        ],
        "How to load it": loading(job, result),
    }
    return (
        "\n\n".join(
            f"{'#' if n == 0 else '##'} {head}\n\n" + "\n\n".join(body)
            for n, (head, body) in enumerate(sections.items())
        )
        + "\n"
    )


def pretraining(job: Job) -> str:
    text = advice.pretraining(job)
    return f"Pretraining: {text}." if text else ""


def numbers(job: Job, result: Results) -> list[str]:
    ratio = splits.make(job.corpus, job.labels, 0).ratio
    score = result.score_name
    lines = [
        f"| model | test {score}, % | 95 % interval over draws | calibration error |",
        "| --- | --- | --- | --- |",
    ]
    for arm, scores in {MAIN: result.test, **result.controls}.items():
        draws = result.draws[arm]
        _, low, high = interval([draws], ratio)
        span = f"{100 * low:.2f} to {100 * high:.2f}" if low < high else "all draws are equal"
        if len(draws) == 1:
            span = "one draw"
        calibration = f"{scores['ece']:.3f}" if "ece" in scores else ""
        lines.append(
            f"| {advice.called(job, arm, result.faults)} | {100 * fmean(draws):.2f} | {span} | {calibration} |"
        )
    paragraphs = [
        "\n".join(lines),
        f"`{advice.called(job, MAIN, {})}` is this model's recipe, `{SCRATCH}` the same without pretraining; "
        f"this model, of the first draw, reached {100 * result.draws[MAIN][0]:.2f} %.",
    ]
    if result.benchmark:
        rows = [
            f"| {r.form} | {100 * r.accuracy:.2f} | {'' if n == 0 else difference(r)} | {r.bytes:,} | "
            f"{1000 * r.latency_p50:.3g} |"
            for n, r in enumerate(result.benchmark.rows)
        ]
        head = "| form | test accuracy, % | difference, points | bytes | ms for an image |\n| --- | --- | --- | --- | --- |"
        paragraphs.append("\n".join([head, *rows]))
        paragraphs.append(
            f"Intervals are over the test images; times are ONNX Runtime's, on one thread of {result.benchmark.machine}."
        )
    return [*filter(None, [advice.sentence(result)]), *paragraphs]


def difference(row: Form) -> str:
    mean, low, high = (100 * v for v in row.difference)
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def cost(result: Results) -> str:
    stages = result.stages.present().items()
    seconds = ", ".join(f"{name} {stage.seconds:,.1f}" for name, stage in stages)
    return f"Seconds of computing: {seconds}."


def loading(job: Job, result: Results) -> list[str]:
    if (export := result.stages.export) is None:
        return [
            'With this package: `sft_exp.load_model("<run folder>")`, or `sft_exp predict <run folder> <files>`.',
            "Without it: run the command again with `export=onnx` (or torch_export, ort); nothing is trained again.",
        ]
    (request,) = job.requests["export"]
    channels, height, width = job.corpus.image
    scaled = "images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype='float32') / 255"
    raw = getattr(request["exporter"], "preprocess", False)
    image = IMAGE.format(
        mode="L" if channels == 1 else "RGB",
        width=width,
        height=height,
        channels=channels,
        scaling="images = pixels" if raw else scaled,
        answer=ANSWERS[job.experiment.task.predicts],
    )
    return [
        f"{'Without' if request['exporter'].alone else 'With'} this package, from the folder of `{export.file}`. A fresh "
        f"process ran the first of these lines (`load.py`) to check the file; its outputs differed by "
        f"{export.difference:.1g} at most (allowed: {export.tolerance:.1g}).",
        f"```python\n{request['exporter'].loader.strip()}\n{image}```",
        *([SHARE.format(encoder=encoder(job))] if request["exporter"].shared else []),
    ]


def encoder(job: Job) -> str:
    """The option of the run's encoder, with the name of a library's model where it has one."""
    option = job.experiment.choices.get("encoder", "mlp")
    name = getattr(job.experiment.encoder, "name", "")
    return f"{option} encoder.name={name}" if name else option
