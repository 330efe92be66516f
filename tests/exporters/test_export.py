"""Exported files load without this project and agree with the model, or are not kept."""

import json
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module

import pytest
import torch
import yaml
from faults import TINY

import sft_exp
from sft_exp.core.deploy import Finished
from sft_exp.core.rng import stream
from sft_exp.core.task import Network
from sft_exp.core.types import Spec
from sft_exp.data.corpus import Corpus
from sft_exp.data.images import Images
from sft_exp.encoders.conv import Conv
from sft_exp.errors import DataError, StorageError
from sft_exp.exporters.hub import Hub
from sft_exp.exporters.onnx import Onnx
from sft_exp.exporters.ort import Ort
from sft_exp.exporters.safetensors import Safetensors
from sft_exp.exporters.torch_export import TorchExport
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.predict import inference
from sft_exp.stages import export
from sft_exp.stages import model as models
from sft_exp.stages.model import Model
from sft_exp.strategies.full import Full
from sft_exp.tasks.classify import Classify
from sft_exp.tasks.regress import Regress
from sft_exp.tasks.segment import Segment

SPEC = Spec((3, 12, 9), ("cat", "dog", "a fish"))
EXPORTERS = [Onnx(), TorchExport(), Safetensors(), Onnx(preprocess=True), Ort(), Hub()]


@cache
def network():
    torch.manual_seed(0)
    nets = Classify().networks(
        FeatureExtractor(Conv([8, 8], 8).build(SPEC.image), [-1], "avg", 1, SPEC.image), SPEC
    )
    return Network(Classify(), nets).eval()


@pytest.fixture
def trained(tmp_path):
    """A folder as fine-tuning leaves it."""
    request = {"encoder": Conv([8, 8], 8), "features": {"maps": ["code"], "pool": "avg", "grid": 1}}
    (tmp_path / "trained").mkdir()
    models.save(
        tmp_path / "trained",
        Model(Classify(), network().nets, SPEC),
        {**request, "task": Classify(), "strategy": Full()},
    )
    return tmp_path / "trained"


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (20, *SPEC.image), generator=stream("pixels"), dtype=torch.uint8)


@pytest.fixture
def ctx(pixels):
    """Where the stage finds its data set."""
    images = Images(pixels, torch.zeros(20, dtype=torch.long), [str(n) for n in range(20)])

    class Ctx:
        def corpus(self, dataset):
            return Corpus("some", SPEC.classes, images, image=SPEC.image)

    return Ctx()


def available(exporter):
    if not exporter.network:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason="the extra export is not installed")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "exporter",
    EXPORTERS,
    ids=lambda e: f"{type(e).__name__}{'-pixels' if getattr(e, 'preprocess', 0) else ''}",
)
def test_a_file_is_loaded_by_a_fresh_process_and_says_the_same(
    exporter, trained, tmp_path, ctx, pixels
):
    """The stage's own check; then load.py once more, by a process that cannot import this package."""
    available(exporter)
    folder = tmp_path / "made"
    folder.mkdir()
    export.run(folder, {"model": trained, "exporter": exporter, "dataset": None}, ctx)
    about = json.loads((folder / "export.json").read_text())
    assert about["file"] == exporter.file
    assert 0 <= about["difference"] <= about["tolerance"] == pytest.approx(1e-4)
    if exporter.network:
        return
    model = inference.load(folder / exporter.file)
    assert (model.spec.image, model.spec.classes) == (SPEC.image, SPEC.classes)
    with torch.no_grad():
        assert torch.allclose(
            model.logits(pixels[:5]), network()(pixels[:5].float() / 255), atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("exporter", [Onnx(), TorchExport()], ids=["onnx", "pt2"])
@pytest.mark.parametrize(
    ("task", "maps", "named"),
    [
        (Segment(width=8), ["conv1", "conv2"], {"mask": ("ground", "cell")}),
        (Regress(), ["code"], {"value": ("height", "width")}),
    ],
    ids=["segment", "regress"],
)
def test_masks_and_numbers_leave_too(task, maps, named, exporter, tmp_path, ctx):
    """Predict, which gives images a class, refuses them."""
    available(exporter)
    spec, features = Spec(SPEC.image, (), named), {"maps": maps, "pool": "avg", "grid": 1}
    torch.manual_seed(0)
    nets = task.networks(models.readout(Conv([8, 8], 8), features, spec), spec)
    (tmp_path / "trained").mkdir()
    (tmp_path / "made").mkdir()
    request = {"encoder": Conv([8, 8], 8), "features": features, "task": task, "strategy": Full()}
    models.save(tmp_path / "trained", Model(task, nets, spec), request)
    export.run(
        tmp_path / "made",
        {"model": tmp_path / "trained", "exporter": exporter, "dataset": None},
        ctx,
    )
    assert json.loads((tmp_path / "made" / "export.json").read_text())["difference"] <= 1e-4
    assert isinstance(inference.load(tmp_path / "trained"), Model)
    if not exporter.network:
        with pytest.raises(DataError, match=f"its task predicts {task.predicts}"):
            inference.load(tmp_path / "made" / exporter.file)


@pytest.mark.slow
def test_what_says_something_else_is_not_kept(trained, tmp_path, ctx, monkeypatch):
    """Here: weights that changed on their way into the file."""
    folder = tmp_path / "made"
    folder.mkdir()
    write = Safetensors.write

    def spoiled(self, model, folder):
        with torch.no_grad():
            model.network.nets["head"].bias.add_(1e-3)
            write(self, model, folder)
            model.network.nets["head"].bias.sub_(1e-3)

    monkeypatch.setattr(Safetensors, "write", spoiled)
    with pytest.raises(
        StorageError,
        match=r"not exported, since the outputs of the reloaded model differ by 0.001 > 0.0001",
    ):
        export.run(folder, {"model": trained, "exporter": Safetensors(), "dataset": None}, ctx)


@pytest.mark.slow
def test_what_cannot_be_loaded_is_not_kept(trained, tmp_path, ctx, monkeypatch):
    folder = tmp_path / "made"
    folder.mkdir()
    monkeypatch.setattr(
        Safetensors,
        "write",
        lambda self, model, folder: (folder / self.file).write_bytes(b"no weights"),
    )
    with pytest.raises(StorageError, match="a new process cannot load it"):
        export.run(folder, {"model": trained, "exporter": Safetensors(), "dataset": None}, ctx)


def test_the_check_would_see_an_import_of_ours(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", export.WITHOUT_US + "import sft_exp"], capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "ModuleNotFoundError" in found.stderr


def test_a_finished_graph_needs_no_network(tmp_path):
    (tmp_path / "facts.json").write_text(json.dumps({"image": [1, 2, 2], "classes": ["a"]}))
    (tmp_path / "model.onnx").write_bytes(b"graph")
    assert export.finished(tmp_path) == Finished(Spec((1, 2, 2), ("a",)), None, b"graph", "")


@pytest.mark.parametrize("name", ["onnx", "ort", "torch_export", "safetensors", "hub"])
def test_a_loader_stands_alone(name):
    """Its lines are in the model card, so they are Python that defines what the card says."""
    module = import_module(f"sft_exp.exporters.{name}")
    (kind,) = [
        v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__
    ]
    names = set(compile(kind.loader, name, "exec").co_names)
    assert {"predict", "classes"} <= names
    assert ("sft_exp" in names) == (not kind.alone)


@pytest.mark.slow
def test_a_folder_for_the_hub_is_read_back_from_it(tmp_path, monkeypatch):
    """Its files, placed as huggingface_hub caches a repository, start another run."""
    quick = [*TINY, "report=false", "monitors=false"]
    result = sft_exp.run([*quick, "pretrainer=ae", "export=hub"])
    folder = result.folder / "export"
    files = {file.name for file in folder.iterdir()}
    assert files == {"README.md", "config.json", "load.py", "model.json", "model.safetensors"}
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(header)
    (entry,) = about["model-index"][0]["results"]
    assert about["pipeline_tag"] == entry["task"]["type"] == "image-classification"
    assert entry["metrics"][0]["value"] == pytest.approx(result["draws"]["pretrained"][0], abs=1e-6)
    assert text.lstrip().startswith("# Model card: digits")
    assert "pretrainer.init=hf:OWNER/NAME encoder=mlp" in text
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(n): str(n) for n in range(10)}
    assert sft_exp.load_model(folder).spec.image == tuple(config["image"])

    hub = pytest.importorskip("huggingface_hub", reason="timm brings it")
    card = hub.ModelCard((folder / "README.md").read_text())
    assert card.data.eval_results[0].metric_value == entry["metrics"][0]["value"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--owner--repo"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    again = sft_exp.run([*quick, "pretrainer=checkpoint", "pretrainer.init=hf:owner/repo"])
    transfer = again["stages"]["pretrain"]["transfer"]
    assert (transfer["loaded"], transfer["missing"]) == (transfer["layers"], [])
    assert transfer["images"] == "images are seen as they are, in [0, 1]"
