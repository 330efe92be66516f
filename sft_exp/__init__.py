"""Pretrain without labels, fine-tune with few, evaluate, and say whether it helped."""

from importlib import import_module
from typing import Any

_HOMES = {  # name -> its module, imported when the name is asked for, so that `--help` does not wait for torch
    "compare": "compare",
    "fit": "api",
    "load": "predict.loaded",
    "load_encoder": "api",
    "load_model": "api",
    "load_pretrained": "api",
    "losses": "losses",
    "run": "api",
    "sweep": "sweep",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    return module if _HOMES[name] == name else getattr(module, name)


def _version() -> str:
    """The version of the installed package; "unknown" where the source runs without being installed."""
    from importlib import metadata

    try:
        return metadata.version("sft_exp")
    except metadata.PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
