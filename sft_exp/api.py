"""The same parts from Python: `sft_exp.run(["pretrainer=vae", "labels=5"])`."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

from sft_exp.config import build
from sft_exp.config.compose import compose
from sft_exp.config.schema import Experiment
from sft_exp.core.encoder import Backbone
from sft_exp.errors import ConfigError, DataError
from sft_exp.execution import session
from sft_exp.failures import translated
from sft_exp.guidance import image_defaults
from sft_exp.jobs import prepare
from sft_exp.models import transfer
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.stages import model
from sft_exp.stages.model import Model


def run(overrides: list[str] | None = None, folder: str | Path | None = None) -> dict[str, Any]:
    """What `python -m sft_exp <overrides>` does, returning results.json's content. `folder` is the run folder.

    Raises ConfigError, DataError, NonFiniteError, StorageError or Interrupted instead of exiting.
    """
    with translated(overrides or []):
        words = image_defaults.with_defaults(overrides or [])
        values, choices = compose(words)
    name = f"{choices['pretrainer']}-{choices['optim']}-{choices['dataset']}"
    stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:4]}"
    where = Path(folder) if folder else Path("outputs/runs") / name / stamp
    command = ["python", "-m", "sft_exp", *words]
    return session.work(prepare.prepare(build.experiment(values, choices)), where, values, command)


def load_model(path: str | Path) -> Model:
    """The fine-tuned model (its first label draw) of a run folder or a `finetune-*` store folder, on the CPU."""
    return model.load(model.folder_of(Path(path)))


def load_encoder(path: str | Path) -> Backbone:
    """The encoder as it was fine-tuned, of a run or `finetune-*` folder, on the CPU: for `encoder(x)` or `encoder.maps(x)`."""
    encoder: Any = load_model(path).nets["encoder"]
    return encoder.backbone


def load_pretrained(path: str | Path) -> FeatureExtractor:
    """What a run's fine-tuning started from, on the CPU: images in [0, 1] -> the features it fine-tuned [B, D], as no label has
    changed them. Of a run without pretraining the encoder as it was fine-tuned."""
    folder = model.folder_of(Path(path))
    encoder: Any = model.load(folder).nets["encoder"]
    start = json.loads((folder / "request.json").read_text())["start"]
    if start:
        file = folder.parent / start / "encoder.safetensors"
        if not file.exists():
            raise DataError(f"{path}: its pretraining should be in {file.parent}, and is not there")
        transfer.load_own(encoder.backbone, transfer.read_own(file), file)
    return encoder.eval()


def reopen(path: str | Path) -> Experiment:
    """The experiment of a finished run folder. Its paths are relative to where the run was started."""
    file = Path(path) / "results.json"
    if not file.exists():
        raise DataError(f"{path}: no run folder with a results.json")
    result = json.loads(file.read_text())
    try:
        return build.experiment(result["config"], result["choices"])
    except (ConfigError, KeyError) as error:
        raise DataError(
            f"{path}: another version of sft_exp made this run ({error}); make it again with this one"
        ) from error
