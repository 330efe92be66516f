"""TensorBoard tracker: runs as event files, for `tensorboard --logdir outputs/tensorboard`."""

import io
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from sft_exp.core.tracker import Logged, Run, Tracker
from sft_exp.progress import console
from sft_exp.store import atomic_io


@dataclass
class Tensorboard(Tracker):
    dir: str | None = None  # folder of tensorboard/; null: the sweep's folder, or outputs
    images: bool = True  # write pictures; false keeps private images out

    def open(self, about, stop):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            console.message(f'tracker=tensorboard: {error}; pip install "sft_exp[tensorboard]"')
            return Run()
        folder = Path(self.dir or "outputs") / "tensorboard" / about.folder.name
        atomic_io.remove(folder)  # a resumed training logs all its metrics again
        writer = SummaryWriter(str(folder))
        writer.add_text("about", f"{about.name}\n\n{about.config}")
        return Events(writer, about.kind, str(folder), self.images)


class Events(Run):
    def __init__(self, writer: Any, kind: str, where: str, images: bool):
        self.writer, self.kind, self.where, self.images = writer, kind, where, images
        self.logged = Logged()

    def log(self, row):
        for name, value in self.logged.new(row).items():
            tag = name if "/" in name else f"{self.kind}/{name}"
            self.writer.add_scalar(tag, value, row["step"])

    def summary(self, values):
        for name, value in values.items():
            if isinstance(value, Real):
                self.writer.add_scalar(name, value)
            else:
                self.writer.add_text(name, str(value))

    def pictures(self, pngs):
        import numpy as np
        from PIL import Image

        for title, png in pngs.items() if self.images else ():
            pixels_HWC = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            self.writer.add_image(title, pixels_HWC, dataformats="HWC")

    def finish(self, code=0):
        self.writer.close()
