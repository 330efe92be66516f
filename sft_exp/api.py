"""The same parts from Python: `sft_exp.run(["pretrainer=vae", "labels=5"])`."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from sft_exp import config
from sft_exp.core import Backbone
from sft_exp.errors import DataError
from sft_exp.stages import model
from sft_exp.stages.model import Model


def run(overrides: list[str] | None = None, folder: str | Path | None = None) -> dict[str, Any]:
    """What `python -m sft_exp <overrides>` does, returning results.json's content. `folder` is the run folder.

    Raises ConfigError, DataError, NonFiniteError, StorageError or Interrupted instead of exiting.
    """
    config.register()
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=overrides or [], return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    made = config.experiment(cfg, choices)
    from sft_exp import pipeline, session

    name = f"{choices['pretrainer']}-{choices['optim']}-{choices['dataset']}"
    stamp = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:4]}"
    where = Path(folder) if folder else Path("outputs/runs") / name / stamp
    plain = {k: v for k, v in OmegaConf.to_container(cfg, resolve=False).items() if k != "hydra"}  # type: ignore[union-attr]
    return session.work(pipeline.prepare(made), where, plain)


def load_model(path: str | Path) -> Model:
    """The fine-tuned model (its first label draw) of a run folder or a `finetune-*` store folder, on the CPU."""
    return model.load(stage_folder(Path(path), "finetune", "model.json"))


def load_encoder(path: str | Path) -> Backbone:
    """The encoder as it was fine-tuned, of a run or `finetune-*` folder, on the CPU: for `encoder(x)` or `encoder.maps(x)`."""
    encoder: Any = load_model(path).nets["encoder"]
    return encoder.backbone


def stage_folder(path: Path, stage: str, file: str) -> Path:
    if (path / file).exists():
        return path
    if (path / "results.json").exists():
        return Path(json.loads((path / "results.json").read_text())["stages"][stage]["folder"])
    raise DataError(f"{path}: neither a run folder (results.json) nor a store folder ({file})")
