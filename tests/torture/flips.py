"""Flipped bits in all files of three stores: every one must be found, and none may end in anything but a StorageError.

Of JSON, JSONL and headers of weights every byte is tried, of other content one of 97; of each one bit, which chance
chooses. Then commands on stores with one flipped bit: what they print must be what they print without it, or name the
damage, and a training that is repeated or continued must end in the same bits.
"""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faults import TINY, cli, contents, ended, fork, stepwise
from PIL import Image

from sft_exp.errors import StorageError
from sft_exp.store import atomic_io, collect
from sft_exp.store.store import Store

APART = 97  # bytes of tensors between two that are tried
COMMANDS = 300
CODES = {0, 2, 3, 4, 5, 6, 7, 8, 75, 130}  # of the README's list, in which 1 is a bug
CHANGING = r"\b\d+(\.\d+)? (s|min|h|d|ms)\b|\d{4}-\d\d-\d\d_[\w-]+|\s+|─+"
CONV = ("encoder=conv", "encoder.channels=[4,8]")
MASKS = (
    "dataset=mask_folder", "dataset.root=masks", "dataset.size=16", "dataset.values=[0,255]",
    "labels=4", "finetune.batch_size=4",
)  # fmt: skip


def without(*keys: str) -> tuple[str, ...]:
    return tuple(word for word in TINY if word.partition("=")[0] not in keys)


# store -> overrides of its run: a generative model with its likelihood and a memo; features of a frozen encoder with
# cross-validation; masks
RUNS: dict[str, tuple[str, ...]] = {
    "generative": (*TINY, "nll_samples=4", "controls=true", "export=safetensors"),
    "frozen": (
        *without("encoder.hidden", "val", "draws"), *CONV, "pretrainer=simclr", "strategy=logistic", "val=cv", "draws=2",
    ),
    "masks": (*without("encoder.hidden"), *CONV, *MASKS, "pretrainer=dae", "task.width=4"),
}  # fmt: skip


def positions(file: Path) -> list[int]:
    """Places of the bytes that are tried."""
    size = file.stat().st_size
    header = size if file.suffix in (".json", ".jsonl") else min(size, 128)
    if file.suffix == ".safetensors":
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    return [*range(header), *range(header, size, APART)]


def flip(file: Path, position: int, bit: int) -> bytes:
    """Flip one bit of a file; its content before."""
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    file.write_bytes(damaged)
    return whole


def is_seen(file: Path, sound: dict[Path, dict]) -> bool:
    """Whether a changed file is noticed by what reads it: the record of a run, or a file of a sealed folder."""
    if file in sound:
        try:
            return collect.root(file) == sound[file]  # the bit may be without a meaning
        except StorageError:
            return True
    folder = file
    while not (folder / atomic_io.SEAL).exists():
        folder = folder.parent
    return bool(Store(folder.parent)._faults(folder.name))


def flipped(file: Path, position: int, bit: int, sound: dict[Path, dict]) -> list[str]:
    """What goes unseen when a file is read in which one bit is flipped."""
    whole, what = flip(file, position, bit), f"{file} byte {position} bit {bit}"
    try:
        return [] if is_seen(file, sound) else [f"{what}: unseen"]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault
        return [f"{what}: {error!r}"]
    finally:
        file.write_bytes(whole)


def make_masks() -> None:
    """Twelve images with a bright square in noise, with their masks, and four to test on."""
    noise = random.Random(0)
    for number in range(16):
        where = Path("masks") / ("test" if number >= 12 else "train")
        square = (number % 4, 2, 9 + number % 4, 11)
        image, mask = Image.frombytes("L", (16, 16), noise.randbytes(256)), Image.new("L", (16, 16))
        image.paste(200, square)
        mask.paste(255, square)
        for kind, picture in (("images", image), ("masks", mask)):
            (where / kind).mkdir(parents=True, exist_ok=True)
            picture.save(where / kind / f"{number}.png")


def files_of(store: Path) -> list[Path]:
    """Every file of a store that says anything."""
    files = [path for path in sorted(store.rglob("*")) if path.is_file()]
    return [file for file in files if file.suffix != ".lock"]


def said(words: tuple[str, ...], prepare: object = None) -> tuple[int, str]:
    """(exit code, what it printed) of a command, in a process forked from one that has imported everything."""
    out = Path("said").absolute()
    code = ended(fork(cli, out, prepare, None, *words), 1800)
    return code, out.read_text(errors="replace")


def plain(text: str) -> str:
    """What a command printed, line by line in alphabetical order, since `ls` sorts by time; without times and names that
    differ from one run to the next."""
    lines = (re.sub(CHANGING, " ", line) for line in text.splitlines())
    return "\n".join(sorted(lines))


@dataclass
class Scene:
    """A folder with a store, and the commands that are given there."""

    run: tuple[
        str, ...
    ]  # overrides of the run that made the store, or that was stopped while it did
    others: tuple[tuple[str, ...], ...]  # commands that only read
    expected: dict  # contents of the store after the run
    usual: dict[tuple[str, ...], str]  # command -> what it prints, undamaged


def begin(name: str) -> Scene:
    """Make a store in the folder `name`, as the command line does."""
    run, where = (*RUNS[name], "report=false"), Path(name)
    code, text = said((*run, f"store={where}/store", f"hydra.run.dir={where}/run"))
    assert code == 0, text
    Image.new("L", (16, 16), 90).save(where / "image.png")
    places = (f"store={where}/store", f"runs={where}")
    masks = "dataset=mask_folder" in run  # classes are printed
    out = (f"out={where}/predictions",) if masks else ()
    others = (
        ("check", f"{where}/run"),
        ("predict", f"{where}/run", f"{where}/image.png", *out),
        ("ls", *places),
        ("gc", "dry_run=true", *places),
        ("compare", f"{where}/run", f"out={where}/compared"),
    )  # fmt: skip
    usual = {}
    for words in others:
        code, text = said(words)
        assert code in CODES - {2}, f"{words}: {code} {text}"
        usual[words] = plain(f"{code} {text}")
    return Scene(run, others, contents(where / "store"), usual)


def told(name: str, scene: Scene, chance: random.Random, tally: Counter) -> list[str]:
    """What goes wrong in one command after one bit of the store was flipped."""
    where, kept = Path(name), Path(f"{name}-kept")
    shutil.copytree(where, kept, symlinks=True)
    file = chance.choice(files_of(where / "store"))
    position, bit = chance.choice(positions(file)), chance.randrange(8)
    repeated = chance.random() < 0.4
    words = chance.choice(scene.others)
    if repeated:
        words = (*scene.run, f"store={where}/store", f"hydra.run.dir={where}/again")
    tally["repeated" if repeated else words[0]] += 1
    what = f"{file} byte {position} bit {bit}: {' '.join(words[-5:])}"
    flip(file, position, bit)
    code, text = said(words)
    faults = []
    if code not in CODES or "Traceback" in text:
        faults.append(f"{what}: exit code {code}\n{text[-1500:]}")
    elif repeated and (code != 0 or contents(where / "store") != scene.expected):
        if not (code == 5 and "roots" in text):
            faults.append(f"{what}: exit code {code}, or other bits\n{text[-1500:]}")
    elif not repeated and plain(f"{code} {text}") != scene.usual[words]:
        tally["named"] += 1
        if not re.search("damaged|unreadable|changed|does not fit|not JSON", text):
            faults.append(f"{what}: silently other output\n{text[-1500:]}")
    shutil.rmtree(where)
    kept.rename(where)
    return faults


def continued(number: int, chance: random.Random) -> list[str]:
    """What goes wrong when a bit flips in the unfinished work of a killed run, and the command is given again."""
    where = Path(f"killed-{number}")
    run = (*TINY, "report=false", f"store={where}/store", f"hydra.run.dir={where}/run")
    said(run, partial(stepwise, kill_at=chance.randint(2, 9)))
    file = chance.choice(files_of(where / "store"))
    position, bit = chance.choice(positions(file)), chance.randrange(8)
    flip(file, position, bit)
    code, text = said((*run[:-1], f"hydra.run.dir={where}/again"))
    whole = contents(Path("whole/store"))
    right = code == 0 and contents(where / "store") == whole and "Traceback" not in text
    shutil.rmtree(where)
    what = f"{file} byte {position} bit {bit}, then the run that was killed: exit code {code}"
    return [] if right else [f"{what}, or other bits\n{text[-1500:]}"]


def every_byte(names: list[str], chance: random.Random, share: float) -> Iterator[list[str]]:
    """For each store, what was tried, followed by the faults."""
    for name in names:
        store = Path(name) / "store"
        sound = {file: json.loads(file.read_text()) for file in store.glob("roots/*.json")}
        files = files_of(store)
        places = [(file, position) for file in files for position in positions(file)]
        chosen = chance.sample(places, max(1, round(share * len(places))))
        found = [x for file, at in chosen for x in flipped(file, at, chance.randrange(8), sound)]
        kinds = Counter(file.suffix for file in files)
        what = f"{name}: {len(chosen)} of {len(places)} bytes of {len(files)} files {dict(kinds)}"
        print(f"  {what}, {len(found)} faults", flush=True)
        yield [what, *found]


def under_commands(
    scenes: dict[str, Scene], chance: random.Random, count: int
) -> tuple[str, list[str]]:
    """(what was tried, faults): a flip and then a command, every fourth time the one that was killed."""
    faults, tally = [], Counter[str]()
    said((*TINY, "report=false", "store=whole/store", "hydra.run.dir=whole/run"))
    for number in range(count):
        name = chance.choice(list(scenes))
        if number % 4 == 3:
            tally["continued"] += 1
            faults += continued(number, chance)
        else:
            faults += told(name, scenes[name], chance, tally)
        print(f"  {number + 1}: {dict(tally)}, {len(faults)} faults so far", flush=True)
    return f"commands {dict(tally)}", faults


def work(chance: random.Random, share: float, only: list[str]) -> tuple[str, list[str]]:
    """(what was tried, faults) in three stores; `bytes` and `commands` among the words choose one of the two."""
    make_masks()
    parts = [word for word in only if word in ("bytes", "commands")] or ["bytes", "commands"]
    names = [word for word in only if word in RUNS] or list(RUNS)
    scenes, tried, faults = {name: begin(name) for name in names}, [], []
    if "bytes" in parts:
        for what, *found in every_byte(names, chance, share):
            tried.append(what)
            faults += found
    if "commands" in parts:
        what, found = under_commands(scenes, chance, max(1, round(share * COMMANDS)))
        tried.append(what)
        faults += found
    return "; ".join(tried), faults
