"""Labelled images, in memory as uint8 or decoded from files batch by batch."""

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat, tee
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.core.device import to_device
from sft_exp.core.rng import stream
from sft_exp.core.types import Tensors
from sft_exp.errors import DataError

# values of all images in memory, [N, ...], or a function from an index to one image's value
Held = Tensor | Callable[[int], Tensor]


@dataclass(eq=False)
class Images:
    """N images of one size, in memory (`x` is a tensor) or on disk (`x` decodes one image)."""

    x: Held  # uint8 [N, C, H, W], or index -> uint8 [C, H, W]; or features, float [N, D]
    # int64 [N]: the class, or the stratum in data sets without classes; -1 = not annotated
    y: Tensor
    ids: list[str]  # one name per image, unique within the data set
    groups: list[str] | None = None  # patient, writer or video of each image: never split
    workers: int = 0  # worker processes that decode; 0 = the main process
    # indices of the N images in `x` and `targets`; None = all, in order
    rows: Tensor | None = None
    # further annotations by name: masks, boxes, numbers
    targets: Mapping[str, Held] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def at(self, rows: Tensor) -> "Images":
        """The images at these indices, without copying any."""
        base = rows if self.rows is None else self.rows[rows]
        groups = None if self.groups is None else [self.groups[r] for r in rows.tolist()]
        return Images(
            self.x,
            self.y[rows],
            [self.ids[r] for r in rows.tolist()],
            groups,
            self.workers,
            base,
            self.targets,
        )

    def to(self, device: torch.device) -> "Images":
        if not isinstance(self.x, Tensor):
            return self
        x = self.x if self.rows is None else self.x[self.rows]
        return self.having(x.to(device))

    def having(self, x: Tensor) -> "Images":
        """The same images and annotations with other inputs `x` [N, ...], e.g. their features."""
        targets = {
            name: held if self.rows is None else _at(held, self.rows)
            for name, held in self.targets.items()
        }
        return Images(x, self.y, self.ids, self.groups, self.workers, targets=targets)

    def target(self, name: str) -> Tensor:
        """The target of this name of all images, [N, ...]."""
        held = self.targets[name]
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        if isinstance(held, Tensor):
            return held[rows]
        return torch.stack([held(r) for r in rows.tolist()])

    def batches(self, rows: Iterable[Tensor], device: torch.device) -> Iterator[Tensors]:
        """Yield one batch for each tensor of indices, in that order.

        A batch is {"x": float [B, C, H, W] in [0, 1], "y": [B], "row": [B]} and the targets by
        name, integers as int64.
        """
        rows, rows_to_load = tee(rows)
        loaded = self._raw(rows_to_load, {"x": self.x, **self.targets})
        for r, values in zip(rows, loaded, strict=True):
            batch = {name: to_device(value, device) for name, value in values.items()}
            x_BCHW = batch.pop("x")
            yield {
                "x": x_BCHW.float().div_(255) if x_BCHW.dtype == torch.uint8 else x_BCHW,
                "y": to_device(self.y[r], device),
                "row": r,
                **{
                    name: value if value.is_floating_point() else value.long()
                    for name, value in batch.items()
                },
            }

    def _raw(self, rows: Iterable[Tensor], held: dict[str, Held]) -> Iterator[Tensors]:
        """Yield each batch of the named values as stored; worker processes decode those on disk."""
        tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        decode = {name: value for name, value in held.items() if not isinstance(value, Tensor)}
        rows, rows_to_decode = tee(r if self.rows is None else self.rows[r] for r in rows)
        batches = self._decoded(rows_to_decode, decode) if decode else repeat({})
        for r, decoded in zip(rows, batches, strict=False):
            yield {**{name: x[to_device(r, x.device)] for name, x in tensors.items()}, **decoded}

    def _decoded(
        self, rows: Iterable[Tensor], decode: dict[str, Callable[[int], Tensor]]
    ) -> Iterator[Tensors]:
        """Decode batches in worker processes. DataError for a file that cannot be decoded."""
        for batch in torch.utils.data.DataLoader(
            _Decoded(decode),
            batch_sampler=(r.tolist() for r in rows),
            num_workers=self.workers,
            collate_fn=_identity,
            worker_init_fn=_ignore_signals,
            generator=stream("workers"),
        ):
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def raw(self, row: int) -> Tensor:
        """One image as stored, uint8 [C, H, W]."""
        r = row if self.rows is None else int(self.rows[row])
        return self.x[r] if isinstance(self.x, Tensor) else self.x(r)

    def held(self) -> Iterator[Tensor]:
        """Yield all images as stored, in order, on the CPU: uint8 [B, C, H, W]."""
        for batch in self._raw(torch.arange(len(self)).split(1024), {"x": self.x}):
            yield batch["x"].cpu()

    def floats(self, rows: Tensor, device: torch.device) -> Tensor:
        """These images as one tensor, float [N, C, H, W] in [0, 1]."""
        parts = [b["x"] for b in replace(self, targets={}).batches(rows.split(1024), device)]
        return torch.cat(parts)


def _at(held: Held, rows: Tensor) -> Held:
    """The values of these rows, which become 0, 1, ..."""
    return held[rows] if isinstance(held, Tensor) else partial(_of_row, held, rows)


def _of_row(held: Callable[[int], Tensor], rows: Tensor, row: int) -> Tensor:
    # a function of the module and no lambda: worker processes that are not forked unpickle it
    return held(int(rows[row]))


def fitted(images: Images, image: tuple[int, int, int]) -> Images:
    """Convert images to [C, H, W] = `image`: to grey or colour, and resized, where they differ."""
    if not len(images) or tuple(images.raw(0).shape) == tuple(image):
        return images
    # masks and boxes do not fit resized images
    targets = images.targets if tuple(images.raw(0).shape[1:]) == tuple(image[1:]) else {}
    if isinstance(images.x, Tensor):
        rows = torch.arange(len(images)) if images.rows is None else images.rows
        x = torch.cat([_fit(images.x[r.to(images.x.device)], image) for r in rows.split(1024)])
        return replace(images, targets=targets).having(x)
    return replace(images, x=partial(_fitted_row, images.x, image), targets=targets)


def _fitted_row(decode: Callable[[int], Tensor], image: tuple[int, int, int], row: int) -> Tensor:
    return _fit(decode(row).unsqueeze(0), image)[0]


def _fit(x_BCHW: Tensor, image: tuple[int, int, int]) -> Tensor:
    """Resize uint8 [B, C, H, W] to [B, *image]; grey is the luma of ITU-R 601, as in Pillow."""
    channels, height, width = image
    x = x_BCHW.float()
    if channels == 1 and x.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
        x = (x * luma).sum(1, keepdim=True)
    x = F.interpolate(
        x.expand(-1, channels, -1, -1), (height, width), mode="bilinear", antialias=True
    )
    return x.round().clamp(0, 255).to(torch.uint8)


class _Decoded(torch.utils.data.Dataset):
    def __init__(self, decode: dict[str, Callable[[int], Tensor]]):
        self.decode = decode

    def __getitems__(self, rows: list[int]) -> Tensors | DataError:
        """A batch, or a file's error, which a worker would wrap in a traceback if it raised it."""
        try:
            return {
                name: torch.stack([decode(r) for r in rows]) for name, decode in self.decode.items()
            }
        except DataError as error:
            return error


def _identity(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Ignore signals in a worker process.

    Signals reach the whole process group, and the main process still needs the workers to finish
    its step and save.
    """
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
        if number := getattr(signal, name, None):  # Windows has the first two
            signal.signal(number, signal.SIG_IGN)
