"""Images with their labels: held in memory as uint8 or decoded from files batch by batch."""

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import repeat, tee
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_exp.core.rng import stream
from sft_exp.core.types import Tensors
from sft_exp.errors import DataError

# of each image: in memory [N, ...], or row -> the one's, read as it is asked for
Held = Tensor | Callable[[int], Tensor]


@dataclass(eq=False)
class Images:
    """Some images of one size, in memory (`x` is a tensor) or on disk (`x` decodes one)."""

    x: Held  # uint8 [N, C, H, W], or row -> uint8 [C, H, W]; or features, float [N, D]
    # int64 [N]: the class, or where an image has none, the stratum it is drawn from; -1 where
    # nothing is annotated
    y: Tensor
    ids: list[str]  # one name an image, unique within the data set
    groups: list[str] | None = None  # patient, writer, video: never split
    workers: int = 0  # processes that decode; 0 = this one
    # positions in `x` and `targets` of the N images; None = all, in order
    rows: Tensor | None = None
    # what else is annotated, by name: masks, boxes, numbers
    targets: Mapping[str, Held] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def at(self, rows: Tensor) -> "Images":
        """The images at these rows, without copying any."""
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
        """The same images, annotations and all, as `x` [N, ...] shows them: e.g. their features."""
        targets = {
            name: held if self.rows is None else _at(held, self.rows)
            for name, held in self.targets.items()
        }
        return Images(x, self.y, self.ids, self.groups, self.workers, targets=targets)

    def target(self, name: str) -> Tensor:
        """One kind of annotation of all the images, [N, ...]."""
        held, rows = self.targets[name], torch.arange(len(self)) if self.rows is None else self.rows
        return (
            held[rows]
            if isinstance(held, Tensor)
            else torch.stack([held(r) for r in rows.tolist()])
        )

    def batches(self, rows: Iterable[Tensor], device: torch.device) -> Iterator[Tensors]:
        """One {"x": float [B, C, H, W] in [0, 1], "y": [B], "row": [B]} for each tensor of rows, in that order; and the targets
        by name, whole numbers as int64."""
        asked, loaded = tee(rows)
        for r, found in zip(asked, self._raw(loaded, {"x": self.x, **self.targets}), strict=True):
            moved = {name: value.to(device, non_blocking=True) for name, value in found.items()}
            x_BCHW = moved.pop("x")
            yield {
                "x": x_BCHW.float().div_(255) if x_BCHW.dtype == torch.uint8 else x_BCHW,
                "y": self.y[r].to(device, non_blocking=True),
                "row": r,
                **{
                    name: value if value.is_floating_point() else value.long()
                    for name, value in moved.items()
                },
            }

    def _raw(self, rows: Iterable[Tensor], held: dict[str, Held]) -> Iterator[Tensors]:
        """Of each batch what is held under these names; what must be decoded, by the workers."""
        here = {name: of for name, of in held.items() if isinstance(of, Tensor)}
        decode = {name: of for name, of in held.items() if not isinstance(of, Tensor)}
        first, second = tee(r if self.rows is None else self.rows[r] for r in rows)
        for r, decoded in zip(
            first, self._decoded(second, decode) if decode else repeat({}), strict=False
        ):
            yield {**{name: of[r.to(of.device)] for name, of in here.items()}, **decoded}

    def _decoded(
        self, rows: Iterable[Tensor], decode: dict[str, Callable[[int], Tensor]]
    ) -> Iterator[Tensors]:
        for found in torch.utils.data.DataLoader(
            _Decoded(decode),
            batch_sampler=(r.tolist() for r in rows),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=_deaf,
            generator=stream("workers"),
        ):
            if isinstance(found, DataError):
                raise found
            yield found

    def raw(self, row: int) -> Tensor:
        """One image as it is held, uint8 [C, H, W]."""
        r = row if self.rows is None else int(self.rows[row])
        return self.x[r] if isinstance(self.x, Tensor) else self.x(r)

    def held(self) -> Iterator[Tensor]:
        """All images as they are held, in order, on the CPU: uint8 [B, C, H, W]."""
        yield from (
            found["x"].cpu()
            for found in self._raw(torch.arange(len(self)).split(1024), {"x": self.x})
        )

    def floats(self, rows: Tensor, device: torch.device) -> Tensor:
        """These images as one tensor, float [N, C, H, W] in [0, 1]."""
        parts = [b["x"] for b in replace(self, targets={}).batches(rows.split(1024), device)]
        return torch.cat(parts)


def _at(held: Held, rows: Tensor) -> Held:
    """What is held of these rows alone."""
    return held[rows] if isinstance(held, Tensor) else lambda row: held(int(rows[row]))


def fitted(images: Images, image: tuple[int, int, int]) -> Images:
    """The images with these channels, rows and columns: grey or colour, and resized, if they are of another size."""
    if not len(images) or tuple(images.raw(0).shape) == tuple(image):
        return images
    # masks and boxes would not fit
    targets = images.targets if tuple(images.raw(0).shape[1:]) == tuple(image[1:]) else {}
    if isinstance(images.x, Tensor):
        rows = torch.arange(len(images)) if images.rows is None else images.rows
        x = torch.cat([_fit(images.x[r.to(images.x.device)], image) for r in rows.split(1024)])
        return replace(images, targets=targets).having(x)
    decode = images.x
    return replace(images, x=lambda row: _fit(decode(row).unsqueeze(0), image)[0], targets=targets)


def _fit(x_BCHW: Tensor, image: tuple[int, int, int]) -> Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, *image]; grey is the luminance of ITU-R 601, as in Pillow."""
    channels, height, width = image
    x = x_BCHW.float()
    if channels == 1 and x.shape[1] == 3:
        x = (x * torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)).sum(
            1, keepdim=True
        )
    x = F.interpolate(
        x.expand(-1, channels, -1, -1), (height, width), mode="bilinear", antialias=True
    )
    return x.round().clamp(0, 255).to(torch.uint8)


class _Decoded(torch.utils.data.Dataset):
    def __init__(self, decode: dict[str, Callable[[int], Tensor]]):
        self.decode = decode

    def __getitems__(self, rows: list[int]) -> Tensors | DataError:
        """A batch, or what is wrong with a file: raised in a worker, it would arrive wrapped in the worker's traceback."""
        try:
            return {
                name: torch.stack([decode(r) for r in rows]) for name, decode in self.decode.items()
            }
        except DataError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _deaf(worker: int) -> None:
    """Signals reach whole process groups: the workers must outlive them until the trainer has finished its step and saved."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
        if number := getattr(signal, name, None):  # Windows has the first two
            signal.signal(number, signal.SIG_IGN)
