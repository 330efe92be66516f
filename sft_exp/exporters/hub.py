"""A folder for the Hugging Face hub: weights as safetensors, `model.json` and `config.json`, a loader, and a model card whose
YAML header the hub reads (huggingface.co/docs/hub/model-cards). `pretrainer.init=hf:owner/repo` starts from it."""

import json
from dataclasses import dataclass
from typing import ClassVar

from sft_exp.exporters.safetensors import Safetensors
from sft_exp.store import atomic_io


@dataclass
class Hub(Safetensors):
    shared: ClassVar[bool] = True

    def write(self, model, folder):
        super().write(model, folder)
        about = {
            "library_name": "sft_exp",
            "encoder": json.loads(model.description)["encoder"],
            "image": model.spec.image,
            "id2label": dict(enumerate(model.spec.classes)),
        }
        atomic_io.write_json(folder / "config.json", about)
