"""Dotted keys, by which overrides and messages name the values of a nested config."""

from typing import Any


def leaves(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"pretrain": {"epochs": 5}} -> {"pretrain.epochs": 5}. An empty dict is a leaf."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
