"""A run's model with its preprocessing, for Python: `sft_exp.load(run).predict("photos")`."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sft_exp.core.rng import caller_generators
from sft_exp.data.decode import decode, look
from sft_exp.data.own_dataset import pixels
from sft_exp.data.readers.files import png
from sft_exp.errors import DataError
from sft_exp.models.heads import multilabel
from sft_exp.predict.files import BATCH, content, files, say_deep
from sft_exp.predict.inference import require_classes
from sft_exp.stages import model as models
from sft_exp.stages.model import Model

if TYPE_CHECKING:
    from sft_exp.evaluate.notebook import RichEvaluation


class LoadedModel:
    """The fine-tuned model of a run.

    Its methods accept one image or several: paths, folders, globs, Pillow images, arrays [H, W, C],
    tensors [C, H, W] or [N, C, H, W], uint8 or floats in [0, 1]. As in `sft_exp predict`, images
    are brought to the model's size as in its training, usually cropped at the centre and resized. DataError names an image that
    cannot be read.
    """

    def __init__(self, path: Path, model: Model):
        self.path, self.model = path, model

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `predict`'s columns."""
        return self.model.spec.classes

    def predict(self, images: Any) -> Tensor:
        """Probabilities [N, K], on the CPU. DataError for a model that gives none.

        Those of a multi-label model are of each class by itself, and do not sum to 1.
        """
        if self.model.task.predicts == "label sets":
            return self._each(
                images, lambda x_BCHW: self.model.predict(x_BCHW)[:, multilabel.LOGIT].sigmoid()
            )
        require_classes(self.path, self.model.task.predicts)
        if not self.model.probabilistic:
            raise DataError(
                f"{self.path}: its SVM has no probabilities; `classify` gives the classes"
            )
        return self._each(images, lambda x_BCHW: self.model.predict(x_BCHW).softmax(1))

    def classify(self, images: Any) -> list[str] | list[list[str]]:
        """The name of the class of each image; of a multi-label model, the names of its classes."""
        if self.model.task.predicts == "label sets":
            predicted_N2Y = self._each(images, self.model.predict)
            return [multilabel.names(p_2Y, self.classes) for p_2Y in predicted_N2Y]
        require_classes(self.path, self.model.task.predicts)
        best_N = self._each(images, lambda x_BCHW: self.model.predict(x_BCHW).argmax(1))
        return [self.classes[n] for n in best_N.tolist()]

    def embed(self, images: Any) -> Tensor:
        """The features that are the head's input, [N, D], on the CPU."""
        return self._each(images, self.model.encoder)

    @caller_generators()
    def evaluate(self, *dataset: str) -> "RichEvaluation":
        """Scores on labelled images: `evaluate("dataset.root=photos")`, as `sft_exp evaluate` does.

        Without overrides the run's own test images are scored. Needs the folder of a run.
        See `sft_exp.evaluate.evaluation.evaluate`.
        """
        from sft_exp.evaluate.notebook import rich

        return rich(self.path, dataset)

    def __repr__(self) -> str:
        return f"LoadedModel({str(self.path)!r}, classes={list(self.classes)})"

    @torch.no_grad()
    def _each(self, images: Any, compute: Any) -> Tensor:
        outputs, prepared = [], (self._fitted(image) for image in flattened(images))
        deep = 0
        while batch := list(islice(prepared, BATCH)):
            x_BCHW = torch.stack([x_CHW for x_CHW, _ in batch])
            outputs.append(compute(x_BCHW.float().div(255)))
            deep += sum(of_more_bits for _, of_more_bits in batch)
        if not outputs:
            raise DataError("no images were given")
        if not self.model.spec.levels:
            say_deep(deep, sum(map(len, outputs)))
        return torch.cat(outputs)

    def _fitted(self, image: Any) -> tuple[Tensor, bool]:
        """(an image as uint8 [C, H, W] of the model's size, whether its file holds more than 8 bits a
        pixel)."""
        spec, size = self.model.spec, self.model.spec.image
        if isinstance(image, Path):
            try:
                x_CHW, traits = look(content(image), size, spec.fit, spec.levels)
                return x_CHW, traits.span is not None
            except (DataError, OSError) as error:
                raise DataError(f"{image}: {getattr(error, 'strerror', None) or error}") from error
        x_CHW = pixels(image, "the image")
        same = tuple(x_CHW.shape) == tuple(size)
        return (x_CHW if same else decode(encoded(x_CHW), size, spec.fit)), False


def flattened(images: Any) -> Iterator[Any]:
    """The images one by one, paths as `Path`."""
    if isinstance(images, str | Path):
        yield from files([str(images)])
    elif isinstance(images, Tensor | np.ndarray):
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, Iterable):
        for image in images:
            yield from flattened(image)
    else:
        yield images


def encoded(x_CHW: Tensor) -> bytes:
    """uint8 [C, H, W] as the content of a PNG file, which is lossless."""
    from PIL import Image

    if len(x_CHW) not in (1, 3):
        raise DataError(f"an image has {len(x_CHW)} channels; grey or colour images can be resized")
    array = x_CHW[0].numpy() if len(x_CHW) == 1 else x_CHW.movedim(0, -1).numpy()
    return png(Image.fromarray(array))


@caller_generators()
def load(path: str | Path) -> LoadedModel:
    """The model of a run (its first labelled split), or of a `finetune-*` store folder, on the CPU.

    Raises:
        DataError: if there is no model, or a class of the user's in it cannot be imported.
    """
    return LoadedModel(Path(path), models.load(models.folder_of(Path(path))))
