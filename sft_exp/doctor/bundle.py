"""What a bug report needs of a run, as texts without secrets, user names or data."""

import getpass
import io
import json
import os
import platform
import re
import shutil
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from sft_exp.config.secret_names import SECRETS
from sft_exp.errors import DataError
from sft_exp.store import results
from sft_exp.store.listing import folders, near, read

# files of a run folder, all of them text; predictions and pictures are not among them
FILES = (
    "status.json", "results.json", "strategy.json", "*.log",
    ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml",
)  # fmt: skip
LONGEST = 1_000_000  # characters of a file; of a longer log the end
SECRET = re.compile(SECRETS, re.IGNORECASE)  # of a variable's name
# `api_key=...`, `"token": "..."` and the like in a text
ASSIGNED = re.compile(
    r"((?:secret|token|passw\w*|api_?key|access_?key|credentials?)[\"']?\s*[=:]\s*[\"']?)[^\s\"',}]+",
    re.IGNORECASE,
)
TOKEN = re.compile(r"(?<=Bearer )\S+|\b(?:hf_|ghp_|github_pat_|sk-)\w{16,}")
IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # user:password of an address
HOMES = re.compile(r"([/\\](?:home|Users)[/\\]+)[^/\\\s\"']+")
VARIABLES = re.compile(r"SFT_EXP_|HYDRA_|OMP_|MKL_|CUDA_|PYTORCH_|TORCH_|SLURM_|NCCL_|WANDB_MODE")


def collect(run: Path) -> dict[str, str]:
    """Name in the archive -> text.

    Raises:
        DataError: not the folder of a run.
    """
    if not (run / "status.json").exists() and not (run / ".hydra").exists():
        raise DataError(
            f"{run}: no run folder (status.json); name the folder of the run that failed"
        )
    files = {
        f"run/{file.relative_to(run).as_posix()}": file.read_text(errors="replace")[-LONGEST:]
        for pattern in FILES
        for file in sorted(run.glob(pattern))
        if file.is_file()
    }
    files["versions.json"] = as_json(versions())
    files["machine.json"] = as_json(machine(run))
    files["store.json"] = as_json(store(run))
    return {name: scrubbed(text) for name, text in files.items()}


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str)


def versions() -> dict[str, str]:
    """Of Python, this package, and all installed packages that it names, extras included."""
    versions = {"python": sys.version.split()[0]}
    try:
        needed = metadata.requires("sft_exp") or []
        versions["sft_exp"] = metadata.version("sft_exp")
    except metadata.PackageNotFoundError:
        return versions
    names = {match[0] for text in needed if (match := re.match(r"[\w.-]+", text))}
    for name in sorted(names - {"sft_exp"}, key=str.lower):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def machine(run: Path) -> dict[str, Any]:
    """The system, processor, memory, disk, torch's build and GPUs, and variables that change computations."""
    disk = shutil.disk_usage(run)
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "memory": memory(),
        "disk_total": disk.total,
        "disk_free": disk.free,
        "torch": torch_build(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if VARIABLES.match(name) and not SECRET.search(name)
        },
    }


def memory() -> int | None:
    """Bytes of memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def torch_build() -> dict[str, Any]:
    """The build of torch and the GPUs that it sees; why they are unknown, where it does not start."""
    try:
        import torch  # late: takes seconds, and may be what is broken

        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": names}
    except (ImportError, OSError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def store(run: Path) -> list[dict[str, Any]]:
    """State and bytes of the store folders that the run names."""
    record = read(run / results.FILE)
    config = record.get("config") or {}
    named = json.dumps([record.get("stages"), record.get("folders")])
    for root in near(run, Path(str(config.get("store", "outputs/store")))):
        held = [
            {"name": e.name, "state": e.state, "bytes": e.size}
            for e in folders(root)
            if not record or e.name in named
        ]
        if held:
            return held
    return []


def scrubbed(text: str) -> str:
    """The text without values of secret variables, user names in paths, and the machine's name."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, "***")
    text = IN_URL.sub("***", TOKEN.sub("***", ASSIGNED.sub(r"\1***", text)))
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?!\w)", "~", text)
    text = HOMES.sub(r"\1USER", text)
    if user := user_name():
        text = re.sub(rf"(?<=[/\\]){re.escape(user)}(?=[/\\\"'\s])", "USER", text)
    if len(host := platform.node()) > 2 and host != "localhost":
        text = re.sub(rf"\b{re.escape(host)}\b", "HOST", text)
    return text


def user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return ""
