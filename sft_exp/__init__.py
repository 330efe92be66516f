"""Pretrain without labels, fine-tune with few, evaluate, and say whether it helped."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

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
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    return module if _HOMES[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
