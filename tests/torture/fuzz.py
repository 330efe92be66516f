"""Nonsense as input: overrides, images, files of annotations, archives. It is refused in the user's terms, or it works."""

import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from sft_exp.config import build, compose
from sft_exp.errors import Failure
from sft_exp.failures import translated
from sft_exp.jobs import prepare

VALUES = (
    "-1", "0", "1e999", "nan", "-inf", "null", "''", "true", "[]", "{}", "[[1]]", "{a: 1}", "9" * 40, "auto", "../..",
    "'\\0'", "${seed}", "${no.such}", "\u202e", "\ud7ff", "a" * 5000, "1_0", "0x10", "1e-320", "/dev/null", "-", ",",
)  # fmt: skip
TINY = ("tracker=none", "pretrain.steps=2", "finetune.steps=2", "draws=1", "val=none")


def keys(node: dict, prefix: str = "") -> list[str]:
    """Every dotted key of a configuration."""
    inner = [
        k for key, v in node.items() if isinstance(v, dict) for k in keys(v, f"{prefix}{key}.")
    ]
    return [*(f"{prefix}{key}" for key in node), *inner]


def ready(overrides: list[str]) -> None:
    """Compose and prepare a job, which reads its data."""
    with translated(overrides):
        prepare.prepare(build.experiment(*compose.compose(overrides)))


def unhandled(what: str, call: Callable[[], object]) -> list[str]:
    """The fault, if a call ends in anything but a result or a message for the user."""
    try:
        call()
    except Failure:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault
        return [f"{what}: {type(error).__name__}: {str(error).splitlines()[:1]}"]
    return []


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Data with bytes changed, cut off, repeated or put in front."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 3, 20])):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    kind, at = chance.randrange(4), chance.randrange(len(data))
    return bytes((changed, changed[:at], changed + changed[at:], changed[at:])[kind])


def overrides(chance: random.Random, count: int) -> list[str]:
    values, _ = compose.compose(list(TINY))
    names, faults = keys(values), []
    for _ in range(count):
        chosen = [
            f"{chance.choice(names)}={chance.choice(VALUES)}"
            for _ in range(chance.choice([1, 1, 2]))
        ]
        faults += unhandled(" ".join(chosen)[:200], lambda chosen=chosen: ready([*TINY, *chosen]))
    return faults


def png(number: int, format_: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (number * 40 % 256, 90, number * 7 % 256)).save(file, format_)
    return file.getvalue()


def folder_of_images(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for number in range(24):
        file = root / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))


def images(chance: random.Random, count: int) -> list[str]:
    folder_of_images(Path("images"))
    faults = []
    for number in range(count):
        file = (
            Path("images/cat") / f"bad.{chance.choice(['png', 'jpg', 'bmp', 'tif', 'webp', 'gif'])}"
        )
        format_ = chance.choice(["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
        file.write_bytes(damaged(png(number, format_), chance))
        job = [*TINY, "dataset=image_folder", "dataset.root=images", "labels=2"]
        faults += unhandled(
            f"image {number} ({format_} as {file.name})", lambda job=job: ready(job)
        )
        file.unlink()
    return faults


def annotations(chance: random.Random, count: int) -> list[str]:
    """COCO's JSON with damaged bytes or with a value of another kind."""
    root, faults = Path("boxes"), []
    root.mkdir(exist_ok=True)
    for number in range(12):
        (root / f"{number}.png").write_bytes(png(number))
    sound = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 12, "height": 12} for n in range(12)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [1, 1, 5, 5]} for n in range(12)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip
    for number in range(count):
        content = json.loads(json.dumps(sound))
        if chance.random() < 0.5:
            row = chance.choice(content[chance.choice(list(content))])
            row[chance.choice(list(row))] = chance.choice([None, -1, "x", [], {}, 1e300, True])
            data = json.dumps(content).encode()
        else:
            data = damaged(json.dumps(content).encode(), chance)
        (root / "annotations.json").write_bytes(data)
        job = [*TINY, "task=detect", "dataset=boxes", "dataset.root=boxes", "labels=2"]
        faults += unhandled(f"annotations {number}: {data[:80]!r}", lambda job=job: ready(job))
    return faults


def archives(chance: random.Random, count: int) -> list[str]:
    """WebDataset's tar files with damaged bytes, or with members that point elsewhere."""
    faults = []
    for number in range(count):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for n in range(12):
                prefix = chance.choice(["", "", "", "../", "/", "a/../../"])
                for name, data in (
                    (f"{prefix}{n}.png", png(n)),
                    (f"{prefix}{n}.cls", str(n % 2).encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size, member.type = (
                        len(data),
                        chance.choice([tarfile.REGTYPE] * 9 + [tarfile.SYMTYPE]),
                    )
                    tar.addfile(member, io.BytesIO(data))
        data = file.getvalue() if chance.random() < 0.3 else damaged(file.getvalue(), chance)
        Path("shard-0.tar").write_bytes(data)
        job = [
            *TINY,
            "dataset=webdataset",
            "dataset.root=.",
            "dataset.train=shard-0.tar",
            "dataset.test=shard-0.tar",
            "labels=2",
        ]
        faults += unhandled(f"archive {number}", lambda job=job: ready(job))
    return faults


KINDS = {overrides: 1000, images: 200, annotations: 100, archives: 50}


def work(chance: random.Random, share: float, only: list[str]) -> tuple[str, list[str]]:
    """(what was tried, faults) of `share` times as many inputs of each kind as `KINDS` says."""
    tried, faults, before = [], [], {p.name for p in Path.cwd().iterdir()}
    for kind, count in KINDS.items():
        tried.append(f"{(number := max(1, round(share * count)))} {kind.__name__}")
        faults += kind(chance, number)
    ours = {"images", "boxes", "shard-0.tar"}
    left = {p.name for p in Path.cwd().iterdir()} - before - ours
    return ", ".join(tried), [*faults, *(f"left behind: {name}" for name in sorted(left))]
