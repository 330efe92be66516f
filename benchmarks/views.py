"""Views of 256 images on one thread: a whole batch at once, torchvision's transforms of one PIL image after the other, and
kornia's of a batch if it is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import interleaved, report
from sft_exp.config.schema import AugmentConfig
from sft_exp.core.rng import stream
from sft_exp.data.augment import view

BATCH = 256
DIGITS = AugmentConfig(crop=[0.5, 1.0], flip=0.0, rotate=20.0, shear=15.0, jitter=0.4, grey=0.0)


def main(_: Path) -> None:
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    random_crop = v2.RandomResizedCrop
    scaled = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
    blur = v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], 0.5)
    pictures = [
        random_crop(32, (0.2, 1.0)),
        v2.RandomHorizontalFlip(),
        jitter,
        v2.RandomGrayscale(0.2),
        scaled,
    ]
    photos = [
        random_crop(96, (0.2, 1.0)),
        v2.RandomHorizontalFlip(),
        jitter,
        v2.RandomGrayscale(0.2),
        blur,
        scaled,
    ]
    digits = [
        v2.RandomAffine(20, shear=15),
        random_crop(28, (0.5, 1.0)),
        v2.RandomApply([v2.ColorJitter(0.32, 0.32)], 0.8),
        scaled,
    ]
    others = batched() if find_spec("kornia") else {}
    for name, size, how, transforms in (
        ("digits 1x28x28", (1, 28, 28), DIGITS, digits),
        ("pictures 3x32x32", (3, 32, 32), AugmentConfig(), pictures),
        ("photos 3x96x96", (3, 96, 96), AugmentConfig(blur=0.5), photos),
    ):
        raw_BCHW = torch.randint(256, (BATCH, *size), dtype=torch.uint8, generator=stream("views"))
        pil, one = [v2.functional.to_pil_image(x) for x in raw_BCHW], v2.Compose(transforms)
        parts = {
            f"{name}, batch": lambda raw=raw_BCHW, how=how: view(
                raw.float().div_(255), how, stream("views")
            ),
            f"{name}, one by one": lambda pil=pil, one=one: torch.stack([one(x) for x in pil]),
        }
        if name in others:
            parts[f"{name}, kornia"] = lambda raw=raw_BCHW, of=others[name]: of(
                raw.float().div_(255)
            )
        report(interleaved(parts, rounds=7), f"{name}, batch", f"for {BATCH}")


def batched() -> dict[str, Any]:
    """The same views by kornia, drawn anew for each image of a batch."""
    import kornia.augmentation as K

    def colours(crop: int) -> list[Any]:
        return [
            K.RandomResizedCrop((crop, crop), (0.2, 1.0)),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            K.RandomGrayscale(p=0.2),
        ]

    blur = K.RandomGaussianBlur((9, 9), (0.1, 2.0), p=0.5)
    digits = [
        K.RandomAffine(20, shear=15, p=1.0),
        K.RandomResizedCrop((28, 28), (0.5, 1.0)),
        K.RandomBrightness((0.68, 1.32), p=0.8),
        K.RandomContrast((0.68, 1.32), p=0.8),
    ]
    return {
        "digits 1x28x28": torch.nn.Sequential(*digits),
        "pictures 3x32x32": torch.nn.Sequential(*colours(32)),
        "photos 3x96x96": torch.nn.Sequential(*colours(96), blur),
    }
