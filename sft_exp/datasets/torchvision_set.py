"""Any classification set of torchvision that holds its images in memory: one YAML each."""

import tarfile
from dataclasses import dataclass, field
from typing import Any

import torch

from sft_exp.core import stream
from sft_exp.data import Corpus, Dataset, Images, fingerprint
from sft_exp.errors import ConfigError, DataError


@dataclass
class TorchvisionSet(Dataset):
    name: str = "MNIST"  # class in torchvision.datasets
    root: str = "data"  # folder of the files
    download: bool = True  # fetch what is missing there
    train: dict = field(default_factory=lambda: {"train": True})  # arguments that select the training images
    test: dict = field(default_factory=lambda: {"train": False})
    extra: dict = field(default_factory=lambda: {})  # arguments that select unlabelled images, if the set has any
    classes: list[str] = field(default_factory=lambda: [])  # names, where torchvision has none
    binarise: bool = False  # make each pixel black or white, once: drawn with its grey level as probability, from a fixed stream

    def load(self):
        import torchvision.datasets

        kind = getattr(torchvision.datasets, self.name, None)
        if kind is None:
            raise ConfigError("name", self.name, "must be a class of torchvision.datasets")
        train, names = self.split(kind, "train", self.train)
        test, _ = self.split(kind, "test", self.test)
        extra, _ = self.split(kind, "unlabelled", self.extra) if self.extra else (None, ())
        shape: Any = tuple(train.raw(0).shape)
        return Corpus(self.name, names, train, test, extra, shape, {}, fingerprint(train, extra), fingerprint(test))

    def split(self, kind, label: str, arguments: dict) -> tuple[Images, tuple[str, ...]]:
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)  # else members with `../` leave the folder
        try:
            found = kind(self.root, download=self.download, **arguments)
        except (RuntimeError, OSError) as error:
            hint = "could not be downloaded there either" if self.download else "with dataset.download=true it would be fetched"
            raise DataError(
                f"dataset.root={self.root}: torchvision finds no complete {self.name} there ({error}); {hint}"
            ) from error
        x = torch.as_tensor(found.data)
        if x.dim() == 3:
            x = x.unsqueeze(1)
        elif x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
            x = x.permute(0, 3, 1, 2).contiguous()
        if self.binarise:
            x = (torch.rand(x.shape, generator=stream("binarise", label)) * 255 < x).to(torch.uint8) * 255
        y = torch.as_tensor(found.targets if hasattr(found, "targets") else found.labels).long()
        names = tuple(self.classes or getattr(found, "classes", None) or [str(c) for c in range(int(y.max()) + 1)])
        return Images(x, y, [f"{label}/{n:06d}" for n in range(len(y))]), names
