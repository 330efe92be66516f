"""Flipped bits in all files of a store: every one must be found, and none may end in anything but a StorageError.

Of JSON, JSONL and headers of weights every byte is tried, of tensors one of 97; of each one bit, which chance chooses.
"""

import random
from pathlib import Path

from faults import TINY

from sft_exp import api
from sft_exp.store import atomic_io
from sft_exp.store.store import Store

APART = 97  # bytes of tensors between two that are tried


def positions(file: Path) -> list[int]:
    """Places of the bytes that are tried."""
    size = file.stat().st_size
    header = size if file.suffix in (".json", ".jsonl") else 0
    if file.suffix == ".safetensors":
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    return [*range(header), *range(header, size, APART)]


def flipped(file: Path, position: int, bit: int) -> list[str]:
    """What goes unseen when the store reads the folder of a file in which one bit is flipped."""
    folder, whole = file, file.read_bytes()
    while not (folder / atomic_io.SEAL).exists():
        folder = folder.parent
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    file.write_bytes(damaged)
    try:
        faults = Store(folder.parent)._faults(folder.name)
        return [] if faults else [f"{file} byte {position} bit {bit}: unseen"]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault
        return [f"{file} byte {position} bit {bit}: {error!r}"]
    finally:
        file.write_bytes(whole)


def work(chance: random.Random, share: float, only: list[str]) -> tuple[str, list[str]]:
    """(what was tried, faults) in the store of a small run."""
    api.run([*TINY, "report=false"], folder="run")
    files = [f for f in sorted(Path("outputs/store").glob("*-*/**/*")) if f.is_file()]
    places = [(file, position) for file in files for position in positions(file)]
    chosen = chance.sample(places, max(1, round(share * len(places))))
    faults = [line for file, at in chosen for line in flipped(file, at, chance.randrange(8))]
    return f"{len(chosen)} of {len(places)} bytes of {len(files)} files", faults
