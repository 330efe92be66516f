"""Nonsense as input: overrides, images, files of annotations, archives. It is refused in the user's terms, or it works."""

import io
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from data import tool_exports
from faults import cli, ended, fork
from PIL import Image

from sft_exp.config import build, compose
from sft_exp.errors import Failure
from sft_exp.failures import translated
from sft_exp.jobs import prepare

VALUES = (
    "-1", "0", "1e999", "nan", "-inf", "null", "''", "true", "[]", "{}", "[[1]]", "{a: 1}", "9" * 40, "auto", "../..",
    "'\\0'", "${seed}", "${no.such}", "\u202e", "\ud7ff", "a" * 5000, "1_0", "0x10", "1e-320", "/dev/null", "-", ",",
)  # fmt: skip
EXPORTS = (
    tool_exports.of_coco, tool_exports.of_voc, tool_exports.of_yolo, tool_exports.cvat, tool_exports.label_studio,
    tool_exports.label_studio_min, tool_exports.via, tool_exports.via_table, tool_exports.labelme,
)  # fmt: skip
CODES = {0, 2, 3, 4, 5, 6, 7, 8, 75, 130}  # of the README's list, in which 1 is a bug
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
    except Failure as failure:
        if failure.code not in CODES:
            return [f"{what}: exit code {failure.code}"]
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


# choices whose keys are tried; the first is the default
CHOICES: tuple[list[str], ...] = (
    [],
    ["pretrainer=simclr", "encoder=conv", "optim=sgd", "val=cv"],
    ["pretrainer=mae", "encoder=vit", "strategy=logistic", "schedule=one_cycle"],
    ["pretrainer=bigan", "strategy=lora", "compress=distill", "export=safetensors"],
    ["dataset=digit_pairs", "task=multitask", "augment=none", "pretrainer=none"],
    ["dataset=image_folder", "task=fixmatch", "hardware=ddp", "tracker=csv"],
)


def overrides(chance: random.Random, count: int) -> list[str]:
    """Overrides with nonsense as values; every tenth as a command, with what it prints and leaves."""
    names, faults = [keys(compose.compose([*TINY, *c])[0]) for c in CHOICES], []
    options = [
        f"{group.name}={option.stem}"
        for group in Path(compose.__file__).parents[2].glob("conf/*")
        if group.is_dir() and group.name not in ("hydra", "wandb_sweep", "experiment")
        for option in sorted(group.glob("*.yaml"))
    ]
    for number in range(count):
        at = chance.randrange(len(CHOICES))
        chosen = [*CHOICES[at]]
        if chance.random() < 0.2:
            chosen.append(chance.choice(sorted(options)))
        chosen += [
            f"{chance.choice(names[at])}={chance.choice(VALUES)}"
            for _ in range(chance.choice([1, 1, 2]))
        ]
        if number % 10 == 9:
            faults += as_command([*TINY, *chosen])
        else:
            faults += unhandled(
                " ".join(chosen)[:300], lambda chosen=chosen: ready([*TINY, *chosen])
            )
    return faults


def as_command(words: list[str]) -> list[str]:
    """The fault, if a command ends in another way than README says, or leaves files when it is refused."""
    here, before = set(Path.cwd().iterdir()), set(Path.cwd().rglob("*"))
    out = Path("said").absolute()
    words = [word for word in words if "\0" not in word]  # no process can be given these
    try:
        code = ended(fork(cli, out, None, None, *words), 300)
    except AssertionError as error:
        return [f"{' '.join(words)[:300]}: {error}"]
    text = out.read_text(errors="replace")
    out.unlink()
    left = sorted(str(p) for p in set(Path.cwd().rglob("*")) - before)
    if code in CODES and "Traceback" not in text and not (code == 2 and left):
        for made in set(Path.cwd().iterdir()) - here:  # of a run that succeeded
            shutil.rmtree(made, ignore_errors=True)
        return []
    return [f"{' '.join(words)[:300]}: exit code {code}, left {left[:5]}\n{text[-1500:]}"]


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


def number_table(root: Path) -> list[Path]:
    rows = [f"{n}.jpg,{n / 4},{'train' if n % 3 else 'test'},g{n}" for n in range(12)]
    tool_exports.write(root / "table.csv", "\n".join(["file,target,split,group", *rows]))
    return [root / f"{n}.jpg" for n in range(12)]


def label_table(root: Path) -> list[Path]:
    rows = [f"{n}.jpg,{('cat', 'dog')[n % 2]}" for n in range(12)]
    tool_exports.write(root / "labels.csv", "\n".join(["file,label", *rows]))
    return [root / f"{n}.jpg" for n in range(12)]


BOXES = ("task=detect", "dataset=boxes", "dataset.root=boxes")
# what writes the files of annotations, and the overrides that read them
TABLES: list[tuple[Callable, tuple[str, ...]]] = [
    (number_table, ("task=regress", "dataset=number_table", "dataset.table=boxes/table.csv")),
    (
        label_table,
        ("dataset=image_folder", "dataset.labels=boxes/labels.csv", "dataset.root=boxes"),
    ),
    *((export, BOXES) for export in EXPORTS),
]


def annotations(chance: random.Random, count: int) -> list[str]:
    """Tables and the exports of labelling tools, with damaged bytes or values of another kind."""
    root, faults = Path("boxes"), []
    for number in range(count):
        maker, job = TABLES[number % len(TABLES)]
        shutil.rmtree(root, ignore_errors=True)
        written = maker(root)
        for n, path in enumerate(written[0] if isinstance(written, tuple) else written):
            tool_exports.noise(path, n)
        kinds = (".json", ".xml", ".txt", ".yaml", ".csv")
        file = chance.choice(sorted(p for p in root.rglob("*") if p.suffix in kinds))
        if chance.random() < 0.5:
            tool_exports.damage(file, chance)
        else:
            file.write_bytes(damaged(file.read_bytes(), chance))
        what = f"annotations {number}, {file}: {file.read_bytes()[:400]!r}"
        faults += unhandled(what, lambda job=job: ready([*TINY, *job, "labels=2"]))
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


def decoded_alone(path: Path) -> bool:
    """Whether a path is a store, or the folder of one, that holds nothing but decoded images."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return bool(files) and all("decoded" in file.relative_to(path).parts for file in files)


KINDS = {overrides: 1000, images: 200, annotations: 100, archives: 50}


def work(chance: random.Random, share: float, only: list[str]) -> tuple[str, list[str]]:
    """(what was tried, faults) of `share` times as many inputs of each kind as `KINDS` says, or of those
    that `only` names."""
    tried, faults, before = [], [], {p.name for p in Path.cwd().iterdir()}
    chosen = {k: n for k, n in KINDS.items() if k.__name__ in only} or KINDS
    for kind, count in chosen.items():
        tried.append(f"{(number := max(1, round(share * count)))} {kind.__name__}")
        faults += kind(chance, number)
    ours = {"images", "boxes", "shard-0.tar"}
    left = {p.name for p in Path.cwd().iterdir() if not decoded_alone(p)} - before - ours
    return ", ".join(tried), [*faults, *(f"left behind: {name}" for name in sorted(left))]
