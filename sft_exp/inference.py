"""A trained model, wherever it lies, as one thing that predicts: of a run, of a store folder, or in an exported file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sft_exp import graphs
from sft_exp.errors import DataError
from sft_exp.stages import model as models

GRAPHS = (".onnx", ".ort")


@dataclass(frozen=True)
class Predictor:
    image: tuple[int, int, int]  # C, H, W
    classes: tuple[str, ...]
    probabilistic: bool  # whether the softmax of its logits means anything
    logits: Callable[[Tensor], Tensor]  # uint8 [B, C, H, W] -> [B, Y]

    def probabilities(self, x_BCHW: Tensor) -> Tensor:
        """Of uint8 images [B, C, H, W]: [B, Y]."""
        return self.logits(x_BCHW).softmax(1)


def load(path: Path) -> Predictor:
    """The model of a run folder, a store folder, or an exported .onnx or .ort file; DataError if it is none of these."""
    if path.suffix in GRAPHS:
        return from_graph(path)
    if path.suffix == ".pt2":
        raise DataError(f"{path}: torch.export.load may run code of the file, so take the run's folder, or an .onnx or .ort file")
    model = models.load(models.folder_of(path))
    if model.task.predicts != "classes":
        raise DataError(f"{path}: its task predicts {model.task.predicts}, and this is for models that give an image a class")
    return Predictor(
        model.spec.image, model.spec.classes, model.probabilistic, lambda x_BCHW: model.predict(x_BCHW.float().div(255))
    )


def load_other(path: Path) -> models.Model | None:
    """The model of a run folder or a store folder whose task gives images something else than one class; else None."""
    if path.suffix in (*GRAPHS, ".pt2"):
        return None
    model = models.load(models.folder_of(path))
    return None if model.task.predicts == "classes" else model


def from_graph(path: Path) -> Predictor:
    """An exported file in ONNX Runtime, one thread."""
    graphs.require_onnx("model", path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        opened = graphs.session(path)
        about = graphs.about(opened)
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise DataError(f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error
    if about is None:
        raise DataError(f"{path}: its metadata does not say what it takes and which classes it knows; export=onnx writes that")
    pixels = about["preprocess"]
    return Predictor(
        tuple(about["image"]),
        tuple(about["classes"]),
        True,
        lambda x_BCHW: graphs.run(opened, x_BCHW.permute(0, 2, 3, 1).contiguous() if pixels else x_BCHW.float().div(255)),
    )
