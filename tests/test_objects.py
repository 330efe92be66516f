"""The user's modules, data sets and metrics from Python: `sft_exp.run(encoder=...)`."""

import functools
import importlib
import json
import logging
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Subset, TensorDataset

import sft_exp
from sft_exp import api, progress
from sft_exp.data import own_dataset
from sft_exp.data.decode import decode
from sft_exp.data.own_dataset import OwnDataset
from sft_exp.errors import ConfigError, DataError
from sft_exp.models import own_module
from sft_exp.models.own_module import OwnModule
from sft_exp.predict.__main__ import main as predict
from sft_exp.pretrainers.dae import DAE
from sft_exp.store import code_hash

NETS = """import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv, self.act = nn.Conv2d(a, b, 3, 2, 1), F.relu

    def forward(self, x):
        return self.act(self.conv(x))


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(Block(1, width), Block(width, width))

    def forward(self, x):
        return self.body(x).mean((2, 3))


class Several(Net):
    def forward(self, x):
        return {"low": self.body[0](x), "high": self.body(x)}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = self.a.weight
        self.register_buffer("one", torch.ones(64), persistent=False)
        self.register_buffer("two", torch.full((64,), 2.0), persistent=False)

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).relu()) * self.one * self.two


class Holds(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear, self.what = nn.Linear(64, 8), what

    def forward(self, x):
        return self.linear(x.flatten(1))


def double(x):
    return 2 * x
"""
QUICK = ["debug=tiny", "pretrainer=ae", "tracker=none", "report=false", "val=none", "draws=1"]
QUICK += ["controls=[scratch]"]


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The module of the user's networks; `nets.edit(old, new)` changes its file, as an editor would, and imports it again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "own_nets.py"
    file.write_text(NETS)

    def edit(old, new):
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        return load()

    def load():
        code_hash.forget_files()
        importlib.invalidate_caches()
        sys.modules.pop("own_nets", None)
        module = importlib.import_module("own_nets")
        module.edit = edit
        return module

    yield load()
    sys.modules.pop("own_nets", None)
    code_hash.forget_files()


def made(kind, *arguments):
    torch.manual_seed(0)
    return kind(*arguments)


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16).float().unsqueeze(1)
    labels = torch.from_numpy(bunch.target)
    return {
        "train": TensorDataset(images[:700], labels[:700]),
        "test": TensorDataset(images[1300:], labels[1300:]),
        "unlabelled": TensorDataset(images[700:1300], labels[700:1300]),
    }


def test_a_run_of_objects_is_cached_by_their_content_and_its_model_predicts(
    nets, digits, tmp_path, capsys
):
    kappa = functools.partial(torchmetrics.classification.MulticlassCohenKappa, weights="linear")
    count = 0

    def run(net, dataset=digits, metrics=("top_k", kappa)):
        nonlocal count
        count += 1
        result = sft_exp.run(
            [*QUICK, f"store={tmp_path / 'store'}"],
            tmp_path / f"run{count}",
            encoder=net,
            dataset=dataset,
            metrics=metrics,
        )
        stages = ("pretrain", "finetune", "evaluate")
        return result, [result["stages"][name]["cached"] for name in stages]

    first, cached = run(made(nets.Net))
    assert cached == [False] * 3
    assert first["test"].keys() >= {"top_5", "MulticlassCohenKappa"}
    assert {request["encoder"]["name"] for request in requests(tmp_path, "finetune")} == {"Net"}
    again, cached = run(made(nets.Net))
    assert cached == [True] * 3
    assert again["test"] == first["test"]

    files = []
    for n, (image, _) in enumerate(digits["test"][i] for i in range(5)):
        files.append(tmp_path / f"{n}.png")
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(files[-1])
    model = sft_exp.load(first.folder)
    probabilities = model.predict(files)
    capsys.readouterr()
    assert predict([str(first.folder), *map(str, files), "format=jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_command = torch.tensor([list(line["probabilities"].values()) for line in lines])
    assert torch.allclose(probabilities, by_command, atol=1e-6)
    assert model.classes == tuple(lines[0]["probabilities"])
    assert model.classify(files) == [line["class"] for line in lines]
    stack = torch.stack([digits["test"][i][0] for i in range(5)])
    pictures = [Image.fromarray(np.asarray(Image.open(f))) for f in files]
    for images in (stack, [*stack], pictures, [str(f) for f in files]):
        assert torch.allclose(model.predict(images), probabilities, atol=1e-6)
    assert torch.allclose(model.predict(str(tmp_path / "?.png")), probabilities, atol=1e-6)
    arrays = (stack * 255).round().byte().movedim(1, -1).numpy()
    assert torch.allclose(model.predict(arrays), probabilities, atol=1e-6)
    large = np.asarray(Image.open(files[0]).resize((20, 20)))
    Image.fromarray(large).save(tmp_path / "large.png")
    assert torch.equal(model.predict(large), model.predict(tmp_path / "large.png"))
    assert model.embed(stack).shape == (5, 8)
    with pytest.raises(DataError, match=r"nowhere\.png: No such file"):
        model.predict(tmp_path / "nowhere.png")

    changed = made(nets.Net)
    with torch.no_grad():
        changed.body[0].conv.bias[0] += 1
    assert run(changed)[1] == [False] * 3
    changed = made(nets.Net)
    changed.body[0].conv.stride = (1, 1)
    assert run(changed)[1] == [False] * 3
    relabelled = TensorDataset(digits["test"].tensors[0], digits["test"].tensors[1].roll(1))
    assert run(made(nets.Net), {**digits, "test": relabelled})[1] == [True, True, False]
    nets = nets.edit("self.act(self.conv(x))", "self.act(self.conv(x) + 1)")
    assert run(made(nets.Net))[1] == [False] * 3


def requests(tmp_path, stage):
    return [json.loads(f.read_text()) for f in (tmp_path / "store").glob(f"{stage}-*/request.json")]


def digest(module, tmp_path):
    part = OwnModule(**own_module.describe(module, tmp_path))
    return code_hash.digest({"encoder": part}, own_module.describe)


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("self.act(self.conv(x))", "self.act(self.conv(x)) * 2", True),
        ("self.body(x).mean((2, 3))", "self.body(x).amax((2, 3))", True),
        ("def double(x):\n    return 2 * x", "def double(x):\n    return 3 * x", False),
        ("class Tied(nn.Module):", "class Tied(nn.Module):\n    # words\n", False),
    ],
)
def test_an_edit_of_what_the_module_is_made_of_changes_the_hash(nets, tmp_path, old, new, lost):
    before = digest(made(nets.Net), tmp_path)
    assert digest(made(nets.Net), tmp_path) == before
    assert (digest(made(nets.edit(old, new).Net), tmp_path) != before) is lost


def test_a_block_inside_of_a_library_s_container_is_hashed_too(nets, tmp_path):
    before = digest(nn.Sequential(nets.Block(1, 4), nn.Flatten()), tmp_path)
    nets = nets.edit("self.act(self.conv(x))", "self.conv(x)")
    assert digest(nn.Sequential(nets.Block(1, 4), nn.Flatten()), tmp_path) != before


@pytest.mark.parametrize("name", ["Net", "Several", "Tied", "resnet18", "vit"])
def test_a_module_is_built_again_from_its_description(nets, tmp_path, name):
    image = (3, 32, 32)
    if name in vars(nets):
        image, net = (1, 8, 8), made(getattr(nets, name))
    else:
        from torchvision import models

        transformer = models.VisionTransformer(32, 16, 1, 2, 16, 32)
        net = transformer if name == "vit" else models.resnet18()
    part = OwnModule(**json.loads(json.dumps(own_module.describe(net, tmp_path))))
    backbone, x = part.build(image).eval(), torch.rand(2, *image)
    expected = net.eval()(x)
    for (_, m), wanted in zip(
        backbone.maps(x),
        expected.values() if isinstance(expected, dict) else [expected],
        strict=True,
    ):
        assert torch.equal(m, wanted)
    assert backbone.decoder(8)(torch.zeros(2, 8)).shape == (2, *image)
    if name == "Tied":
        assert backbone.net.a.weight is backbone.net.b.weight
    # as model.json describes it: trained weights are loaded afterwards, or nothing is a number
    part.weights = ""
    assert part.build(image)(x).isnan().all()
    assert own_module.describe(net, tmp_path)["architecture"] == part.architecture


Typed = type("Typed", (nn.Linear,), {"__module__": "__main__"})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda nets: Typed(2, 2), "%%writefile"),
        (
            lambda nets: type("Local", (nn.Linear,), {"__qualname__": "f.<locals>.Local"})(2, 2),
            "in a function",
        ),
        (
            lambda nets: type("Lost", (nn.Linear,), {"__module__": "own_nets"})(2, 2),
            "no source file",
        ),
        (lambda nets: nets.Holds(lambda x: x), "cannot be written"),
        (lambda nets: nets.Holds(nets.double), "own_nets.double: is held by the module"),
        (lambda nets: nets.Holds(open), "is held by the module"),
        (lambda nets: hooked(nets), "is held by the module"),
        (lambda nets: 3, "must be a torch.nn.Module"),
        (
            lambda nets: nets.Net,
            "encoder=Net: is the class and no object of it; call it: encoder=Net()",
        ),
    ],
)
def test_a_module_that_no_other_process_could_build_is_refused(nets, tmp_path, make, words):
    with pytest.raises(ConfigError) as error:
        api.encoder_node(make(nets), {}, tmp_path)
    assert words in str(error.value)


def hooked(nets):
    net = nets.Net()
    net.register_forward_hook(nets.double)
    return net


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Flatten(2), "must give features [B, D] or maps [B, D, H, W]"),
        (nn.Linear(3, 4), "does not take images [2, 1, 8, 8]"),
        (nn.Conv2d(3, 4, 3), "dataset.channels= and dataset.size= change what it is given"),
        (nn.Sequential(nn.Flatten(0)), "must give features"),
    ],
)
def test_a_module_that_does_not_fit_the_images_is_refused(tmp_path, net, words):
    part = OwnModule(**own_module.describe(net, tmp_path))
    with pytest.raises(ConfigError) as error:
        part.build((1, 8, 8))
    assert words in str(error.value)


def test_damaged_weights_are_refused(tmp_path):
    part = OwnModule(**own_module.describe(nn.Linear(2, 2), tmp_path))
    own_module.read_weights.cache_clear()
    with open(part.weights, "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="not the weights"):
        part.build((1, 8, 8))


# Data sets


def test_the_same_images_are_the_same_data_set_however_they_are_held(tmp_path):
    x = torch.randint(0, 256, (20, 3, 6, 5), dtype=torch.uint8)
    y = torch.arange(20) % 4
    arrays = [a.movedim(0, -1).numpy() for a in x]
    kinds = [
        TensorDataset(x, y),
        TensorDataset(x.float() / 255, y),
        [(Image.fromarray(a), int(label)) for a, label in zip(arrays, y, strict=True)],
        [(a, np.int64(label)) for a, label in zip(arrays, y, strict=True)],
    ]
    found = [OwnDataset(**own_dataset.described(kind, tmp_path)).load() for kind in kinds]
    assert len({corpus.fingerprint for corpus in found}) == 1
    assert torch.equal(found[0].train.x, x)
    assert found[0].classes == ("0", "1", "2", "3")
    assert found[0].test is None
    assert found[0].image == (3, 6, 5)


class Restless(TensorDataset):
    def __getitem__(self, n):
        return torch.rand(1, 4, 4), 0


GREY = torch.zeros(4, 1, 4, 4)


class Named(TensorDataset):
    """Images whose grey level is the number of their class's letter."""

    def __init__(self, classes, labels):
        self.classes = [*classes]
        grey = torch.tensor([ord(self.classes[n]) for n in labels], dtype=torch.uint8)
        super().__init__(grey.view(-1, 1, 1, 1).expand(-1, 1, 4, 4), torch.tensor(labels))


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (Named("bc", [1, 0, 1]), [2, 1, 2]),  # a folder without a
        (Named("cba", [0, 1, 2]), [2, 1, 0]),
        (Named("abc", [0, 2]), [0, 2]),
        (Named("ab", [1]), [1]),
        (Subset(Named("bcd", [0, 1, 2]), [1, 0]), [2, 1]),  # d has no image
    ],
)
def test_classes_of_test_images_are_matched_by_name(tmp_path, test, expected):
    train = Named("abc", [0, 1, 2])
    made = own_dataset.described({"train": train, "test": test}, tmp_path)
    corpus = OwnDataset(**made).load()
    assert corpus.classes == ("a", "b", "c")
    assert corpus.test.y.tolist() == expected
    levels = [int(corpus.test.raw(n).max()) for n in range(len(expected))]
    assert [corpus.classes[n] for n in expected] == [chr(level) for level in levels]


@pytest.mark.parametrize("ink", ["black", "white", "red"])
def test_a_picture_that_alpha_draws_is_seen_as_of_a_file(tmp_path, ink):
    alpha = Image.new("L", (8, 8), 0)
    alpha.paste(255, (0, 0, 4, 8))
    image = Image.new("RGB", (8, 8), ink)
    image.putalpha(alpha)
    image.save(tmp_path / "drawn.png")
    x_CHW = own_dataset.pixels(image, "the image")
    assert torch.equal(x_CHW, decode((tmp_path / "drawn.png").read_bytes(), (3, 8, 8)))
    assert len(x_CHW.flatten(1).unique(dim=1).T) == 2


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ([], "is empty"),
        ([GREY[0]], "must be (image, label)"),
        ([(GREY[0], 0.5)], "its label is 0.5"),
        ([(GREY[0], True)], "its label is True"),
        ([(GREY[0], -1)], "whole number from 0 up"),
        ([(GREY[0] - 1, 0)], "encoder.mean and encoder.std"),
        ([(GREY[0].long(), 0)], "is of torch.int64"),
        ([("cat.png", 0)], "must hold a Pillow image"),
        ([(GREY[0], 0), (GREY[0, :, :3], 1)], "item 1 is [1, 3, 4] and item 0 [1, 4, 4]"),
        ([(Image.new("I;16", (4, 4)), 0)], "more than 8 bits"),
        (Restless(GREY), "changes from one read to the next"),
        ({"train": [(GREY[0], 0)], "test": [(GREY[0, :, :3], 0)]}, "images are [1, 3, 4]"),
        (iter([]), "has no length"),
        ([(GREY[0].byte() + 1, 0)], "holds no values but 0 and 1 as uint8"),
        (
            {"train": Named("ab", [0, 1]), "test": Named("bd", [0, 1])},
            "has images of d, which is no class of train: a, b",
        ),
    ],
)
def test_items_that_are_no_images_with_classes_are_named(tmp_path, dataset, words):
    with pytest.raises(DataError) as error:
        own_dataset.described(dataset, tmp_path)
    assert words in str(error.value)


def test_parts_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(ConfigError, match="a dict of them by part"):
        own_dataset.described({"train": [(GREY[0], 0)], "valid": [(GREY[0], 0)]}, tmp_path)
    with pytest.raises(ConfigError, match=r"is the class .*; call it: dataset=TensorDataset\(\)"):
        own_dataset.described(TensorDataset, tmp_path)


def test_what_is_given_twice_or_as_a_built_metric_is_refused(digits):
    with pytest.raises(ConfigError, match="encoder=conv: is given as an object, too"):
        sft_exp.run(["encoder=conv"], encoder=nn.Flatten())
    kappa = torchmetrics.classification.MulticlassCohenKappa(10)
    with pytest.raises(ConfigError, match=r"functools\.partial"):
        api.metric_node(kappa)


# Around a run


def test_the_examples_run(monkeypatch, tmp_path):
    from sft_exp.config.sources import HERE

    monkeypatch.syspath_prepend(HERE.parent / "examples")
    plain_loop = importlib.import_module("plain_loop")
    before, after = plain_loop.main(steps=60)
    assert before + 0.05 < after
    my_model = importlib.import_module("my_model")
    result = my_model.main([*QUICK, f"store={tmp_path / 'store'}"])
    assert result["choices"]["encoder"] == "Network"
    page = result._repr_html_()
    assert "scratch" in page
    assert f"{100 * result['test']['accuracy']:.1f}" in page


PROGRAM = """
import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import sft_exp

OmegaConf.register_new_resolver("twice", lambda x: 2 * x)


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    before = GlobalHydra.instance(), GlobalHydra.instance().hydra, HydraConfig.get().job.name
    result = sft_exp.run({words!r}, {folder!r})
    after = GlobalHydra.instance(), GlobalHydra.instance().hydra, HydraConfig.get().job.name
    assert before == after
    assert OmegaConf.create({{"a": "${{twice:2}}"}}).a == 4
    assert not OmegaConf.has_resolver("sweep_name")
    print(HydraConfig.get().job.name, cfg.lr, result["score"])


main()
"""


@pytest.mark.slow  # test_habits has a quick one, in this process
def test_inside_of_another_hydra_program_its_state_stays(tmp_path):
    words = [*QUICK, "dataset=digits", "controls=false", f"store={tmp_path / 'store'}"]
    (tmp_path / "theirs.py").write_text(PROGRAM.format(words=words, folder=str(tmp_path / "run")))
    answer = subprocess.run(
        [sys.executable, "theirs.py", "+lr=0.3"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "theirs 0.3 accuracy"


def test_who_calls_us_goes_on_drawing_the_same_random_numbers(tmp_path):
    def drawn():
        return random.random(), np.random.rand(), float(torch.rand(()))

    def seeded():
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    seeded()
    expected = drawn()
    seeded()
    words = [*QUICK, "dataset=digits", "controls=false", f"store={tmp_path / 'store'}"]
    sft_exp.run(words, tmp_path / "run")
    sft_exp.load(tmp_path / "run").evaluate()
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sft_exp.fit(DAE(), net, images, steps=2)
    assert drawn() == expected


def test_our_logger_is_below_the_package_s_name():
    """A logger of the caller's program of a common name, such as `run`, is not ours."""
    assert progress.LOG.name.startswith("sft_exp.")
    assert not logging.getLogger("run").handlers


def test_a_slip_in_an_override_is_a_config_error_with_a_hint():
    with pytest.raises(ConfigError, match=r"did you mean optim\.lr=3"):
        sft_exp.run(["optim.lrr=3"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("pretrainer=ae", "must be a list of overrides"),
        ({"pretrainer": "ae"}, "must be a list of overrides"),
        ([*QUICK, 5], "must be a list of overrides"),
        ([*QUICK, "plan=true"], "plan=true: is of commands"),
        ([*QUICK, "study=choose"], "study=choose: is a sweep, which sft_exp.sweep runs"),
        ([*QUICK, "hydra.run.dir=x"], "the folder is the second argument"),
        ([*QUICK, "hydra/launcher=ray"], "has no effect"),
    ],
)
def test_what_a_run_from_python_would_not_follow_is_refused(overrides, words):
    """A plan trained, a study was one run, and a folder was not used, without a word."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        sft_exp.run(overrides)
    assert not list(Path().iterdir())


def test_runs_of_several_threads_wait_for_one_another(tmp_path):
    """They composed with the same Hydra, which ended one of them, and drew from the same generators."""
    small = [*QUICK, "pretrainer=none", "controls=false"]

    def accuracy(seed):
        return sft_exp.run([*small, f"seed={seed}"], tmp_path / str(seed))["test"]["accuracy"]

    alone = [sft_exp.run([*small, f"seed={n}", "store=other"])["test"]["accuracy"] for n in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(accuracy, (1, 2))) == alone


def test_a_sweep_from_python_is_a_table(tmp_path, monkeypatch):
    words = [*QUICK, "dataset=digits", f"store={tmp_path / 'store'}", "optim.lr=0.01,0.001"]
    comparison = sft_exp.sweep(words, tmp_path / "sweep")
    rows = comparison.to_pandas()
    rows = rows if isinstance(rows, list) else rows.to_dict("records")
    assert {row["optim.lr"] for row in rows} == {0.01, 0.001}
    assert all(0 <= row["test_accuracy"] <= 1 for row in rows)
    assert "<table>" in comparison._repr_html_()
    assert sft_exp.compare(tmp_path / "sweep").csv() == comparison.csv()
    with pytest.raises(ConfigError, match="did you mean"):
        sft_exp.sweep(["optim.lrr=3,4"], tmp_path / "other")
