"""Transforms of torchvision in a view: each image's random numbers come from the step's stream.

torchvision draws from the global generators, so these are seeded for each image with a number of
the stream, and restored afterwards.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sft_exp.core.rng import Stream, seed_global, stream
from sft_exp.data.boxes import SEEN
from sft_exp.errors import ConfigError

OUTSIDE = 255  # mask value of pixels outside of the source image
KEY = "augment.transforms"


def built(nodes: Sequence[Any]) -> list[Any]:
    """The transforms that nodes with `_target_` describe. ConfigError."""
    return [inner(node) for node in nodes]


def check(nodes: Sequence[Any], image: tuple[int, int, int], targets: Sequence[str]) -> None:
    """ConfigError if they cannot be built, or cannot move the task's targets along."""
    built(nodes)
    mask = torch.zeros(1, 1, *image[1:], dtype=torch.long) if "mask" in targets else None
    boxes = torch.zeros(1, 1, 4) if "boxes" in targets else None
    if nodes and (mask is not None or boxes is not None):
        labels = torch.zeros(1, 1, dtype=torch.long)
        transformed(torch.zeros(1, *image), nodes, stream("transforms"), mask, boxes, labels)


def inner(value: Any) -> Any:
    """A value with its nodes built: `RandomApply` and others hold transforms."""
    if isinstance(value, list):
        return [inner(v) for v in value]
    if not isinstance(value, dict):
        return value
    path = str(value.get("_target_"))
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name, None)
    if not isinstance(cls, type):
        raise ConfigError(KEY, path, "a class of torchvision.transforms.v2")
    try:
        return cls(**{key: inner(v) for key, v in value.items() if key != "_target_"})
    except (TypeError, ValueError) as error:
        raise ConfigError(KEY, path, f"must fit its class ({error})") from error


def transformed(
    x_BCHW: Tensor,
    nodes: Sequence[Any],
    rng: Stream,
    mask_BMHW: Tensor | None = None,
    boxes_BM4: Tensor | None = None,
    labels_BM: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Each image, and with it its masks or boxes, after the transforms; values in [0, 1].

    Masks are OUTSIDE where the image has left the view. A box of which less than a quarter or less
    than a pixel remains gets label 0.
    """
    from torchvision import tv_tensors

    transforms, size = built(nodes), x_BCHW.shape[2:]
    halves = (rng.rand(len(x_BCHW), 2).double() * 2**24).long().tolist()
    images, masks, boxes = [], [], []
    for n, (high, low) in enumerate(halves):
        sample: dict[str, Any] = {"image": tv_tensors.Image(x_BCHW[n])}
        if mask_BMHW is not None:  # shifted by 1, because areas outside are filled with 0
            sample["mask"] = tv_tensors.Mask(mask_BMHW[n].long() + 1)
        if boxes_BM4 is not None:
            canvas: Any = {"format": "XYXY", "canvas_size": tuple(size)}
            sample["boxes"] = tv_tensors.BoundingBoxes(boxes_BM4[n], **canvas)
        with seeded((high << 24) | low, x_BCHW.device):
            for transform in transforms:
                try:
                    sample = transform(sample)
                except TypeError as error:
                    valid = f"transforms that move masks and boxes along ({error})"
                    raise ConfigError(KEY, type(transform).__name__, valid) from error
        image = sample["image"].as_subclass(Tensor)
        if image.shape != x_BCHW[n].shape:
            raise ConfigError(
                KEY,
                [type(t).__name__ for t in transforms],
                f"must keep the images' shape {tuple(x_BCHW[n].shape)}, not {tuple(image.shape)}",
            )
        images.append(image.to(x_BCHW).clamp(0, 1))
        if mask_BMHW is not None:
            masks.append(sample["mask"].as_subclass(Tensor) - 1)
        if boxes_BM4 is not None:
            boxes.append(sample["boxes"].as_subclass(Tensor).to(boxes_BM4))
    moved_BMHW, moved_BM4 = None, None
    if mask_BMHW is not None:
        moved_BMHW = torch.stack(masks)
        moved_BMHW = moved_BMHW.where(moved_BMHW >= 0, OUTSIDE).to(mask_BMHW.dtype)
    if boxes_BM4 is not None and labels_BM is not None:
        moved_BM4 = torch.stack(boxes)
        limit_4 = torch.tensor([size[1], size[0]] * 2).to(moved_BM4)
        inside_BM4 = moved_BM4.clamp_min(0).minimum(limit_4)
        sides_BM2 = inside_BM4[..., 2:] - inside_BM4[..., :2]
        whole_BM = (boxes_BM4[..., 2:] - boxes_BM4[..., :2]).prod(-1)
        seen_BM = (sides_BM2.prod(-1) >= SEEN * whole_BM) & (sides_BM2 >= 1).all(-1)
        moved_BM4 = inside_BM4 * seen_BM[..., None]
        labels_BM = labels_BM * seen_BM
    return torch.stack(images), moved_BMHW, moved_BM4, labels_BM


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators seeded inside, and as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_global(seed, device)
        yield
