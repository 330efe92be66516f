"""Loading a trained classifier from a run, a store folder or an exported file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sft_exp.core.types import Spec
from sft_exp.errors import DataError, absent, first_line
from sft_exp.models import graphs
from sft_exp.models.heads import multilabel
from sft_exp.stages import familiarity
from sft_exp.stages import model as models
from sft_exp.store import atomic_io

GRAPHS = (".onnx", ".ort")
CLASSES = ("classes", "label sets")  # what models predict that give images classes, one or several


@dataclass(frozen=True)
class Predictor:
    """A classifier that is ready to predict images."""

    spec: Spec
    probabilistic: bool  # whether the softmax of the logits is a probability
    # uint8 [B, C, H, W] -> [B, Y], or of a multi-label model [B, 2, Y] (models/heads/multilabel.py)
    logits: Callable[[Tensor], Tensor]
    # of a multi-label model: the probability from which each class is predicted
    thresholds: Tensor | None = None
    # uint8 [B, C, H, W] -> (logits [B, Y], whether each image is unlike those learnt from [B])
    logits_and_unlike: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def predict(self, x_BCHW: Tensor) -> tuple[Tensor, list[bool] | None]:
        """(probabilities [B, Y], whether each image is unlike those that the model learnt from).

        The latter is None for a model that does not know its training images.
        """
        if self.logits_and_unlike is None:
            return self.probabilities(x_BCHW), None
        logits_BY, unlike_B = self.logits_and_unlike(x_BCHW)
        return logits_BY.softmax(1), unlike_B.tolist()

    def probabilities(self, x_BCHW: Tensor) -> Tensor:
        """Probabilities [B, Y] of uint8 images [B, C, H, W]."""
        if self.thresholds is not None:
            return self.logits(x_BCHW)[:, multilabel.LOGIT].sigmoid()
        return self.logits(x_BCHW).softmax(1)

    def with_thresholds(self, predicts: str) -> "Predictor":
        """The predictor of a model of this kind: its thresholds are what it says of any image."""
        if predicts != "label sets":
            return self
        (blank_2Y,) = self.logits(torch.zeros(1, *self.spec.image, dtype=torch.uint8))
        logits_Y = blank_2Y[multilabel.LOGIT] - blank_2Y[multilabel.MARGIN]
        return replace(self, thresholds=logits_Y.sigmoid())

    def present(self, p_Y: Tensor) -> list[str]:
        """The classes that a multi-label model predicts for an image, from its probabilities."""
        assert self.thresholds is not None
        pairs = zip(self.spec.classes, p_Y >= self.thresholds, strict=True)
        return [name for name, present in pairs if present]


def load(path: Path) -> Predictor | models.Model:
    """Load the model of a run folder, a store folder, an exported .onnx or .ort file, or its folder:
    a Predictor if it gives images classes.

    Raises:
        DataError: the path is none of these, or an exported model that does not classify images.
    """
    if file := graph_of(path):
        return from_graph(file)
    if path.suffix == ".pt2":
        raise DataError(
            f"{path}: torch.export.load may run code of the file,"
            " so take the run's folder, or an .onnx or .ort file"
        )
    folder = models.folder_of(path)
    model = models.load(folder)
    if model.task.predicts not in CLASSES:
        return model
    reference = familiarity.read(path / familiarity.FILE, folder.name)

    def logits_and_unlike(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        assert reference is not None
        logits_BY, f_BD = familiarity.predicted(model, x_BCHW.float().div(255))
        return logits_BY, reference.unlike(f_BD)

    return Predictor(
        model.spec,
        model.probabilistic,
        lambda x_BCHW: model.predict(x_BCHW.float().div(255)),
        logits_and_unlike=logits_and_unlike if reference else None,
    ).with_thresholds(model.task.predicts)


def graph_of(path: Path) -> Path | None:
    """The exported graph: `path` itself, or a graph in a folder without model.json; else None."""
    if path.suffix in GRAPHS:
        return path
    if (path / "model.json").exists():
        return None
    files = (path / f"model{suffix}" for suffix in GRAPHS)
    return next((file for file in files if file.is_file()), None)


def require_classes(path: Path, predicts: str) -> None:
    """DataError unless the model gives images classes."""
    if predicts not in CLASSES:
        raise DataError(
            f"{path}: its task predicts {predicts},"
            " and this is for models that give an image a class"
        )


def from_graph(path: Path) -> Predictor:
    """Load an exported file into ONNX Runtime, which predicts with one thread.

    Raises:
        ConfigError: the libraries are not installed.
        DataError: the file is missing, damaged, of other origin, or does not classify images.
    """
    graphs.require_onnx("model", path)
    if not path.is_file():
        raise DataError(f"{path}: {absent(path, 'file')}")
    atomic_io.require_intact(path.parent)
    try:
        session = graphs.session(path)
        about = graphs.read_metadata(session)
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise DataError(f"{path}: ONNX Runtime cannot load it ({first_line(error)})") from error
    if about is None:
        raise DataError(
            f"{path}: its metadata does not say what it takes and which classes it knows;"
            " export=onnx writes that"
        )
    predicts = about.get("predicts", "classes")
    require_classes(path, predicts)

    def logits(x_BCHW: Tensor) -> Tensor:
        if about["preprocess"]:  # the graph takes pixels as decoders return them
            return graphs.infer(session, x_BCHW.permute(0, 2, 3, 1).contiguous())
        return graphs.infer(session, x_BCHW.float().div(255))

    return Predictor(models.spec_in(about), True, logits).with_thresholds(predicts)
