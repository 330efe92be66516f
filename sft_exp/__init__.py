"""Pretrain without labels, fine-tune with few, evaluate, and say whether it helped."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_encoder", "load_model", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported when asked for, so that `--help` does not wait for torch
        from sft_exp import api

        return getattr(api, name)
    raise AttributeError(name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
