"""Every kind of part can be added from a folder outside of the package."""

import json
import sys

import pytest

import sft_exp
from sft_exp.config import help_text, register, sources
from sft_exp.errors import ConfigError

HEAD = "from dataclasses import dataclass\nfrom typing import ClassVar, Literal\nfrom enum import Enum\n"
PARTS = {  # file in the folder -> its source
    "pretrainers/own_pretrainer.py": "from sft_exp.pretrainers.ae import AE\n"
    "@dataclass\nclass OwnPretrainer(AE):\n    own: float = 0.5\n",
    "encoders/own_encoder.py": "from sft_exp.encoders.mlp import MLP\n"
    "@dataclass\nclass OwnEncoder(MLP):\n    own: float = 0.5\n",
    "tasks/own_task.py": "from sft_exp.tasks.classify import Classify\n"
    "@dataclass\nclass OwnTask(Classify):\n    own: float = 0.5\n",
    "strategies/own_strategy.py": "from sft_exp.core import Strategy\n"
    "class Order(Enum):\n    head_first = 0.5\n    together = 0.0\n"
    "@dataclass\nclass OwnStrategy(Strategy):\n    share: float = 0.5\n"
    "    order: Order = Order.head_first\n"
    "    def phases(self, layers):\n"
    "        everything = {n: 1.0 for names in layers.values() for n in names}\n"
    "        share = self.share * 2 * self.order.value\n"
    "        return [(share, {}), (1 - share, everything)]\n",
    "schedules/own_schedule.py": "from sft_exp.core import Schedule\n"
    "@dataclass\nclass OwnSchedule(Schedule):\n    power: float = 2.0\n"
    "    def __call__(self, progress):\n        return (1 - progress) ** self.power\n",
    "datasets/own_dataset.py": "from sft_exp.datasets.digits import Digits\n"
    "@dataclass\nclass OwnDataset(Digits):\n    own: float = 0.5\n",
    "metrics/own_metric.py": "from sft_exp.core import Metric\n"
    "@dataclass\nclass OwnMetric(Metric):\n"
    "    @property\n    def key(self):\n        return 'own_kappa'\n"
    "    def build(self, spec):\n"
    "        from torchmetrics.classification import MulticlassCohenKappa\n"
    "        return MulticlassCohenKappa(len(spec.classes))\n",
    "compressors/own_compressor.py": "from sft_exp.core import Compressor\n"
    "@dataclass\nclass OwnCompressor(Compressor):\n    pass\n",
    "exporters/own_exporter.py": "from sft_exp.exporters.safetensors import Safetensors\n"
    "@dataclass\nclass OwnExporter(Safetensors):\n"
    "    def write(self, model, folder):\n"
    "        super().write(model, folder)\n"
    "        names = sorted(model.network.state_dict())\n"
    "        (folder / 'shapes.txt').write_text('\\n'.join(names))\n",
    "trackers/own_tracker.py": "from sft_exp.core import Tracker\n"
    "@dataclass\nclass OwnTracker(Tracker):\n"
    "    def open(self, about, stop):\n"
    "        file = about.folder.parent.parent / 'opened.txt'\n"
    "        file.write_text(about.kind)\n"
    "        return super().open(about, stop)\n",
}
GROUPS = {folder: group for group, folder in sources.FOLDERS.items()}
OPTIONS = {  # YAML in conf/ of the folder -> its text; those of the parts above are added
    "optim/own_optim.yaml": "# Adagrad (Duchi et al., JMLR 12, 2011)\n"
    "_target_: torch.optim.Adagrad\nlr: 0.01\nhints: {search: {lr: [0.01, 0.03]}}\n",
    "augment/own_augment.yaml": "# Views that are moved a little\n"
    "defaults: [/schema/augment@_here_, _self_]\nshift: 0.1\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the user's with a part of every kind, plugged in for this module alone."""
    home = tmp_path_factory.mktemp("doors") / "own_parts"
    files = {name: f'"""One of my own."""\n\n{HEAD}{text}' for name, text in PARTS.items()}
    files |= {f"conf/{name}": text for name, text in OPTIONS.items()}
    for name in PARTS:
        place, stem = name.removesuffix(".py").split("/")
        if group := GROUPS.get(place):
            schema = f"defaults: [/schema/{group}/{stem}@_here_]\n"
            if group == "dataset":
                schema = f"defaults:\n  - /schema/dataset/{stem}@dataset\n  - _self_\n"
            header = "# @package _global_\n" if group == "dataset" else ""
            files[f"conf/{group}/{stem}.yaml"] = f"{header}# One of my own, for tests\n{schema}"
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    plugged, options, path = [*sources._plugged], [*sources._options], [*sys.path]
    register.plug(str(home))
    yield home
    sources._plugged[:], sources._options[:], sys.path[:] = plugged, options, path


def test_options_of_the_folder_are_listed_and_those_of_the_pretraining_follow(folder):
    for group in ("optim", "schedule", "dataset"):
        assert f"own_{group}" in help_text.options(group)
        assert help_text.options(f"pretrain_{group}")[f"own_{group}"].endswith(", for pretraining")


def test_a_run_is_made_of_a_users_parts_alone(folder, tmp_path):
    """All but compressor and exporter, which need libraries of their own or a finished model."""
    groups = (
        "pretrainer", "encoder", "task", "strategy", "optim", "schedule", "dataset", "tracker",
    )  # fmt: skip
    chosen = [f"{group}=own_{group}" for group in (*groups, "augment")]
    chosen += [f"pretrain_{group}=own_{group}" for group in ("optim", "schedule")]
    result = sft_exp.run(
        [
            *(f"plugins={folder}", "debug=tiny", "controls=false", "val=none", "report=false"),
            *(*chosen, "task.augment=true", "metrics=[own_metric]", "export=own_exporter"),
            f"store={tmp_path / 'store'}",
        ],
        tmp_path / "run",
    )
    assert 0 <= result["test"]["accuracy"] <= 1
    assert -1 <= result["test"]["own_kappa"] <= 1
    config = result["config"]
    assert config["schedule"] == config["pretrain_schedule"]
    assert config["pretrain_optim"]["_target_"] == "torch.optim.Adagrad"
    assert (tmp_path / "opened.txt").exists()
    store = tmp_path / "store"
    for kind in ("finetune", "export"):
        assert [*store.glob(f"{kind}-*")], kind
    request = json.loads(next(store.glob("finetune-*/request.json")).read_text())
    assert request["strategy"]["order"] == "head_first"
    assert sft_exp.load(tmp_path / "run").model.task.own == 0.5
    for key, name in (("encoder", "Encoder"), ("task", "Task"), ("schedule", "Schedule")):
        assert request[key]["is"].endswith(f"Own{name}")
    assert [*store.glob("export-*/shapes.txt")]


def test_a_metric_added_to_a_finished_run_trains_nothing(tmp_path):
    words = ["debug=tiny", "tracker=none", "report=false", "draws=2", "controls=[scratch]"]
    words += ["val=none", f"store={tmp_path / 'store'}"]
    first = sft_exp.run(words, tmp_path / "first")
    before = {f.name for f in (tmp_path / "store").iterdir()}
    torchmetric = "{_target_: torchmetrics.classification.MulticlassCohenKappa}"
    added = f"metrics=[accuracy,top_k,balanced_accuracy,auroc,{torchmetric}]"
    second = sft_exp.run([*words, added], tmp_path / "second")
    made = {
        f.name.partition("-")[0] for f in (tmp_path / "store").iterdir() if f.name not in before
    }
    assert made == {"metrics"}
    names = {"top_5", "balanced_accuracy", "auroc", "MulticlassCohenKappa"}
    assert second["test"].keys() - first["test"].keys() == names
    assert {k: v for k, v in second["test"].items() if k not in names} == first["test"]
    assert second["test"]["balanced_accuracy"] == pytest.approx(second["test"]["recall"])
    assert second["controls"]["scratch"].keys() >= names


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("[topk]", "metrics=topk: names no metric; did you mean top_k?"),
        ("[topk]", "is a file metrics/topk.py in the folder of plugins="),
        ("[{top_k: {k: 3}}]", "is written {_target_: sft_exp.metrics.top_k.TopK, k: 3}"),
        ("[{_target_: top_k, k: 3}]", "is written {_target_: sft_exp.metrics.top_k.TopK, k: 3}"),
        ("[{mine: {k: 3}}]", "is written {_target_: MODULE.CLASS, k: 3}"),
        ("[{_target_: mine, k: 3}]", "_target_=mine: must be the path of a class, MODULE.CLASS"),
        ("[top_k,top_k]", "is the name of two metrics"),
        ("[{_target_: torchmetrics.classification.Nope}]", "cannot be imported"),
        ("[{_target_: torchmetrics.MeanSquaredError}]", "cannot score logits"),
        (
            "[{_target_: sft_exp.metrics.top_k.TopK, k: 10}]",
            "must be below 10, the number of classes",
        ),
    ],
)
def test_a_metric_that_cannot_be_computed_is_refused_before_anything_is(metrics, words, tmp_path):
    with pytest.raises(ConfigError) as error:
        sft_exp.run(["debug=tiny", f"metrics={metrics}", f"store={tmp_path / 'store'}"])
    assert words in str(error.value)
    assert not (tmp_path / "store").exists()


def test_a_folder_of_plugins_that_is_not_there_is_said_to_be_missing(tmp_path):
    (tmp_path / "my_methods").mkdir()
    with pytest.raises(ConfigError, match=r"no such folder; did you mean .*/my_methods\?"):
        register.plug(str(tmp_path / "my_method"))
    with pytest.raises(ConfigError, match="must be a folder with one of"):
        register.plug(str(tmp_path / "my_methods"))
