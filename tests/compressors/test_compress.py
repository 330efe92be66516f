"""Compressed models: pruning, quantisation, distillation, and the measurements of each form."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sft_exp
from sft_exp.compressors.chain import Chain
from sft_exp.compressors.distill import Distil
from sft_exp.compressors.int8 import Int8
from sft_exp.compressors.prune import Prune
from sft_exp.compressors.qat import Qat
from sft_exp.core.arms import MAIN
from sft_exp.core.method import Method
from sft_exp.core.rng import stream
from sft_exp.core.task import Network
from sft_exp.core.types import Spec
from sft_exp.data.images import Images
from sft_exp.encoders.conv import Conv
from sft_exp.encoders.mlp import MLP
from sft_exp.errors import ConfigError, ToleranceError
from sft_exp.jobs import checks, prepare
from sft_exp.models.distillation import DistillationMethod, divergence
from sft_exp.models.feature_extractor import FeatureExtractor
from sft_exp.runs import pipeline
from sft_exp.stages import benchmark, compress
from sft_exp.stages import model as models
from sft_exp.stages.model import Model
from sft_exp.store.store import Result
from sft_exp.tasks.classify import Classify
from sft_exp.training.loop import train

SPEC = Spec((1, 28, 28), tuple("0123456789"))
SMALL = [
    "tracker=none", "hardware=cpu", "pretrainer=none", "encoder=conv", "encoder.channels=[8,16]",
    "encoder.code=16",
]  # fmt: skip
SHORT = ["finetune.steps=30", "draws=1", "val=none", "controls=false"]


def network(maps=(-1,), encoder=None, seed=0):
    torch.manual_seed(seed)
    encoder = encoder or Conv([8, 16], 24)
    nets = Classify().networks(
        FeatureExtractor(encoder.build(SPEC.image), maps, "avg", 1, SPEC.image), SPEC
    )
    nets["scale"].mean.normal_(generator=stream("mean"))
    return Network(Classify(), nets).eval()


@pytest.fixture
def x_BCHW():
    return torch.rand(20, 1, 28, 28, generator=stream("x"))


# Imitation


def test_the_divergence_is_hintons():
    z, v = torch.randn(4, 3, generator=stream("z")), torch.randn(4, 3, generator=stream("v"))
    p, q = (v / 2).softmax(1), (z / 2).softmax(1)
    assert divergence(z, v, 2.0) == pytest.approx(
        (4 * (p * (p / q).log()).sum(1).mean()).item(), rel=1e-5
    )
    assert divergence(v, v, 2.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_its_gradient_is_the_difference_of_the_soft_targets(temperature):
    """arXiv:1503.02531, equation 2, times T^2: T (q - p), a mean over rows."""
    z = torch.randn(4, 3, generator=stream("z")).requires_grad_()
    v = torch.randn(4, 3, generator=stream("v"))
    divergence(z, v, temperature).backward()
    expected = temperature * ((z / temperature).softmax(1) - (v / temperature).softmax(1)) / 4
    assert torch.allclose(z.grad, expected, atol=1e-6)


def test_imitation_moves_the_student_and_not_the_teacher(digits, plan):
    spec, task = digits.spec, Classify()

    def nets():
        return task.networks(
            FeatureExtractor(MLP([16]).build(spec.image), [-1], "avg", 1, spec.image), spec
        )

    teacher, student = Model(task, nets(), spec), nets()
    before = {k: v.clone() for k, v in teacher.nets.state_dict().items()}
    method = DistillationMethod(task, teacher, weight=1.0)
    optimizers = {"loss": torch.optim.Adam(student.parameters(), 1e-2)}
    optimizers["loss"].param_groups[0]["base_lr"] = 1e-2
    data = {"labelled": digits.train.at(torch.arange(10)), "unlabelled": digits.train}
    losses = [
        s.metrics["imitation"].item()
        for s in train(method, student, optimizers, data, plan(student, 40), torch.device("cpu"))
    ]
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(v, before[k]) for k, v in teacher.nets.state_dict().items())


def test_each_pool_is_walked_by_its_own_size(plan):
    """Two pools of a step have rows of their own, many or few."""

    class Both(Method):
        pools = {"few": 1, "many": 2}

        def draw(self, batch, rng, progress):
            seen.append({pool: b["row"].tolist() for pool, b in batch.items()})
            return (batch["few"]["x"],)

        def loss(self, nets, x):
            return nets["a"](x.flatten(1)).sum(), {}

    def images(n):
        return Images(
            torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.zeros(n, dtype=torch.long), [""] * n
        )

    seen, nets = [], nn.ModuleDict({"a": nn.Linear(4, 1)})
    optimizers = {"loss": torch.optim.SGD(nets.parameters(), 0.0)}
    optimizers["loss"].param_groups[0]["base_lr"] = 0.0
    told = plan(nets, 5, batch_size=4)
    list(
        train(
            Both(),
            nets,
            optimizers,
            {"few": images(3), "many": images(40)},
            told,
            torch.device("cpu"),
        )
    )
    assert all(s["few"] == [0, 1, 2] and len(s["many"]) == 8 for s in seen)
    assert len({row for s in seen for row in s["many"]}) == 40


# Pruning


@pytest.mark.parametrize("maps", [(-1,), ("conv2",)])
def test_pruned_channels_are_gone(maps, x_BCHW):
    """Also where the encoder goes on above the features."""
    pytest.importorskip("torch_pruning", reason="the extra export is not installed")
    net = network(maps)
    before = compress.cost(net, x_BCHW[:1])
    Prune().alter(net, x_BCHW)
    after = compress.cost(net, x_BCHW[:1])
    assert net.nets["encoder"].backbone.blocks[0][0].weight.shape[0] == 4
    assert net(x_BCHW).shape == (20, 10)
    assert after["macs"] <= 0.45 * before["macs"]
    assert after["parameters"] < 0.6 * before["parameters"]


def test_a_pruned_model_is_loaded_from_its_numbers(tmp_path, x_BCHW):
    pytest.importorskip("torch_pruning", reason="the extra export is not installed")
    net = network()
    request = {
        "encoder": Conv([8, 16], 24),
        "features": {"maps": ["code"], "pool": "avg", "grid": 1},
        "task": Classify(),
    }
    from sft_exp.strategies.full import Full

    Prune().alter(net, x_BCHW)
    net.eval()
    models.save(tmp_path, Model(net.task, net.nets, SPEC), {**request, "strategy": Full()})
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, "resized": True}))
    with torch.no_grad():
        assert torch.equal(models.load(tmp_path).predict(x_BCHW), net(x_BCHW))


# Rounding


def test_qat_trains_on_the_grid_of_the_integers(x_BCHW):
    """A weight has at most 255 values a channel, multiples of one step; what does not run is left alone."""
    pytest.importorskip("torchao", reason="the extra export is not installed")
    net = network(("conv1",))
    layer, idle = (
        net.nets["encoder"].backbone.blocks[0][0],
        net.nets["encoder"].backbone.blocks[1][0],
    )
    plain, keys = layer.weight.detach().clone(), set(net.state_dict())
    Qat().alter(net, x_BCHW)
    net.train()(x_BCHW)
    step_D111 = plain.abs().amax((1, 2, 3), keepdim=True) / 127
    rounded = layer.weight / step_D111
    assert torch.allclose(rounded, rounded.round(), atol=1e-3)
    assert (layer.weight - plain).abs().max() <= step_D111.max() / 2 * 1.01
    assert type(idle) is nn.Conv2d
    Qat().restore(net)
    assert set(net.state_dict()) == keys
    assert torch.equal(layer.weight, plain)
    assert not layer._forward_pre_hooks


def test_that_grid_moves_with_the_channels_scale(x_BCHW):
    """So that folding BatchNorm into the convolution afterwards keeps what was trained."""
    pytest.importorskip("torchao", reason="the extra export is not installed")
    scale = torch.tensor([0.5, 3.0])[:, None]

    def rounded(weight):
        layer = nn.Linear(4, 2, bias=False)
        layer.weight.data = weight.clone()
        holder = nn.Sequential(layer)
        Qat().alter(holder, torch.ones(1, 4))
        holder.train()(torch.ones(1, 4))
        return layer.weight.detach()

    weight = torch.randn(2, 4, generator=stream("w"))
    assert torch.allclose(rounded(weight * scale), rounded(weight) * scale, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("compressor", [Int8(), Int8(ranges="percentile"), Qat()])
def test_integers_say_nearly_the_same(compressor, tmp_path, x_BCHW):
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    graphs, net = pytest.importorskip("sft_exp.models.graphs"), network()
    (tmp_path / "float.onnx").write_bytes(graph(net))
    assert compressor.quantise(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", iter(x_BCHW.split(5))
    )
    made = onnx.load(tmp_path / "int8.onnx")
    held = {i.data_type for i in made.graph.initializer if len(i.dims) == 4}
    assert held == {onnx.TensorProto.INT8}
    with torch.no_grad():
        expected, found = net(x_BCHW), graphs.infer(graphs.session(tmp_path / "int8.onnx"), x_BCHW)
    assert 0 < (expected - found).abs().max() < 0.1 * expected.abs().max()
    assert not list(tmp_path.glob("*ready*"))


_graphs = {}


def graph(net):
    """The network's graph, made once."""
    from sft_exp.models import graphs

    if "float" not in _graphs:
        _graphs["float"] = graphs.export_onnx(net, SPEC)
    return _graphs["float"]


# What is asked for


def test_a_chain_is_its_steps_and_several_are_forms(experiment):
    variants = experiment(
        "compress=prune_int8", "compress.parts.prune.ratio=0.3"
    ).compress.variants("prune_int8")
    assert variants == {"prune_int8": [Prune(ratio=0.3), Int8()]}
    names = experiment("compress=all").compress.variants("all")
    assert list(names) == [
        "int8",
        "int8_dynamic",
        "qat",
        "prune",
        "prune_int8",
        "distill",
        "distill_alone",
    ]
    assert experiment().compress.variants("none") == {}


def test_the_student_alone_differs_in_the_teacher_and_in_nothing_else(experiment):
    taught, alone = experiment("compress=distill").compress.variants("distill").values()
    assert alone == [replace(taught[0], weight=0.0)]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["compress=int8", "export=torch_export"], "export"),
        (["compress=prune_int8", "export=safetensors"], "export"),
        (["compress=all", "export=onnx"], "export"),
        (["strategy=svm", "compress=int8"], "compress"),
        (["strategy=svm", "export=onnx"], "export"),
        (["compress=distill", "compress.student=null"], "compress.student"),
        (
            ["compress=distill", "compress.student.channels=[4,4,4,4,4]"],
            "compress.student.channels",
        ),
        (["strategy=distill"], "strategy.teacher"),
        (["compress=prune", "features.maps=[layer1,layer2]"], "features.maps"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(experiment, overrides, key):
    if any(o.startswith("compress=") for o in overrides):
        pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    with pytest.raises(ConfigError) as error:
        prepare.prepare(experiment("pretrainer=none", *overrides))
    assert error.value.key == key


@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder=vit_tiny", "compress=prune"],
        ["encoder=vit_tiny", "strategy=lora", "compress=prune_int8"],
        ["encoder=vit_small", "encoder.depth=1", "compress=prune"],
    ],
)
def test_an_encoder_whose_channels_cannot_be_followed_is_refused(experiment, overrides):
    """It ended as a bug after the fine-tuning."""
    for library in ("onnxruntime", "torch_pruning"):
        pytest.importorskip(library, reason="the extra export is not installed")
    with pytest.raises(ConfigError, match="Prune cannot follow the channels of encoder") as error:
        prepare.prepare(experiment("pretrainer=none", *overrides))
    assert error.value.key == "compress"


def test_an_encoder_whose_channels_are_followed_is_rehearsed_before_anything_runs(
    experiment, monkeypatch
):
    """Without the libraries: the network is that of the run, and the message names what may be taken."""
    altered = []
    monkeypatch.setattr(Prune, "alter", lambda self, network, x: altered.append(network(x).shape))
    monkeypatch.setattr("sft_exp.models.graphs.find_spec", lambda name: name)
    job = prepare.prepare(experiment(*SMALL, "compress=prune"))
    assert altered == [(2, len(job.corpus.spec.classes))]

    def lost(self, network, x):
        raise ZeroDivisionError("modulo by zero")

    monkeypatch.setattr(Prune, "alter", lost)
    with pytest.raises(ConfigError, match="must be int8, int8_dynamic, qat or distill"):
        prepare.prepare(experiment(*SMALL, "compress=prune"))


@pytest.mark.parametrize("parts", [{"a": Int8(), "b": Prune()}, {"a": 3}])
def test_a_chain_refuses_what_cannot_follow(parts):
    with pytest.raises(ConfigError):
        Chain(parts=parts)


def test_an_absent_library_is_named(experiment, monkeypatch):
    from sft_exp.models import graphs

    monkeypatch.setattr(graphs, "LIBRARIES", ("onnx_is_not_there",))
    for overrides in (["compress=int8"], ["export=onnx"]):
        with pytest.raises(ConfigError, match=r"pip install 'sft_exp\[export\]'"):
            prepare.prepare(experiment("pretrainer=none", *overrides))


@pytest.mark.parametrize(("compressor", "module"), [(Qat, "torchao"), (Prune, "torch_pruning")])
def test_an_absent_library_of_one_compressor_is_named(compressor, module, experiment, monkeypatch):
    from sft_exp.models import graphs

    monkeypatch.setattr(graphs, "LIBRARIES", ())
    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == module else name)
    option = compressor.__name__.lower()
    with pytest.raises(ConfigError, match=rf"needs {module}: pip install 'sft_exp\[export\]'"):
        prepare.prepare(experiment("pretrainer=none", f"compress={option}"))


# The bill


def row(variant, accuracy):
    return {"form": variant, "accuracy": accuracy}


@pytest.mark.parametrize(
    ("most", "said"), [(None, None), (0.02, None), (0.005, "int8 lost 1.00 points of accuracy")]
)
def test_more_loss_than_allowed_fails(tmp_path, most, said):
    rows = [row("original", 0.9), row("int8", 0.89), row("distill_alone", 0.1)]
    (tmp_path / "bill.json").write_text(json.dumps({"rows": rows}))
    job = SimpleNamespace(
        experiment=SimpleNamespace(compress=Int8(most)),
        results={"bill": [Result(tmp_path, False, 0.0)]},
    )
    if said is None:
        pipeline.require_tolerance(job)
        return
    with pytest.raises(ToleranceError, match=said) as error:
        pipeline.require_tolerance(job)
    assert error.value.code == 7
    assert "alone" not in str(error.value)


def test_turns_are_interleaved_and_end(monkeypatch):
    monkeypatch.setattr(benchmark, "TURNS", {1: 3, 64: 2})
    calls = []
    variants = {name: lambda x, name=name: calls.append((len(x), name)) for name in "ab"}
    found = benchmark.measured(variants, torch.zeros(10, 1, 2, 2))
    assert calls == [*[(1, n) for n in "ababbaab"], *[(64, n) for n in "ababba"]]
    assert all(v > 0 for speeds in found.values() for v in speeds.values())
    monkeypatch.setattr(benchmark, "SECONDS", 0.0)
    assert list(benchmark.turns(100)) == list(range(benchmark.FEWEST))


# The whole line


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Results of a run that quantises and exports, and of the same command again."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra export is not installed")
    folder = tmp_path_factory.mktemp("line")
    command = [
        *SMALL,
        *SHORT,
        f"store={folder}/store",
        "compress=int8",
        "compress.tolerance=0.5",
        "export=onnx",
    ]
    patch = pytest.MonkeyPatch()
    patch.setattr(benchmark, "TURNS", {1: 5, 64: 5})
    first = sft_exp.run(command, folder / "run")
    second = sft_exp.run([*command, "compress.tolerance=0.4", "report=false"], folder / "again")
    patch.undo()
    return folder / "run", first, second


def test_the_line_ends_in_a_bill(line):
    folder, result, again = line
    original, int8 = result["benchmark"]["rows"]
    assert (original["form"], int8["form"]) == ("original", "int8")
    assert original["accuracy"] == pytest.approx(result["draws"][MAIN][0])
    assert original["difference"] == [0, 0, 0]
    mean, low, high = int8["difference"]
    assert mean == pytest.approx(int8["accuracy"] - original["accuracy"])
    assert low <= mean <= high
    assert int8["bytes"] < original["bytes"]
    assert int8["macs"] == original["macs"] > 0
    assert all(r["memory"] > 0 and r["latency_p50"] <= r["latency_p95"] for r in (original, int8))
    assert all(about["cached"] for about in again["stages"].values() if about)
    assert again["benchmark"] == result["benchmark"], "also with another tolerance"
    assert (folder / "bill.png").stat().st_size > 1000
    page = (folder / "report.html").read_text()
    assert "Compressed" in page
    assert "Accuracy against latency" in page


def test_a_bill_that_fails_is_shown(line, capsys):
    """Also of a stricter tolerance afterwards, which computes nothing again."""
    store = line[0].parent / "store"
    command = [
        *SMALL,
        *SHORT,
        f"store={store}",
        "compress=int8",
        "compress.tolerance=-1",
        "export=onnx",
        "report=false",
    ]
    with pytest.raises(ToleranceError):
        sft_exp.run(command, line[0].parent / "strict")
    said = capsys.readouterr().err
    assert all(word in said for word in ("original", "int8", "p95 ms"))
    assert json.loads((line[0].parent / "strict" / "status.json").read_text())["exit_code"] == 7


def test_ls_has_words_for_each_stage(line):
    from sft_exp.store import listing

    store = line[0].parent / "store"
    words = {
        e.stage: listing.words(e, store)
        for e in listing.folders(store)
        if e.stage in ("compress", "bill", "export")
    }
    assert words["bill"] == "bill of original, int8"
    assert words["export"].startswith("Onnx file of Int8 of scratch Conv Full, Digits")
    assert words["compress"].endswith("10 labels a class, draw 0, seed 0, 30 steps, Adam lr 0.001")


def test_the_line_leaves_a_card_and_the_exported_file(line):
    folder, result, _ = line
    assert {p.name for p in (folder / "export").iterdir()} == {
        "model.onnx",
        "load.py",
        "model_card.md",
    }
    assert result["stages"]["export"]["difference"] <= result["stages"]["export"]["tolerance"]
    card = (folder / "model_card.md").read_text()
    for word in (
        "## Data",
        "## Protocol",
        "## Numbers",
        "## Cost",
        "## Intended use",
        "## How to load it",
        "int8",
        "session.run",
    ):
        assert word in card


def test_a_run_teaches_another(line, tmp_path):
    """strategy=distill: the teacher's folder is part of what the student's result depends on."""
    folder, _, _ = line
    command = [
        *SMALL[:3],
        *SHORT,
        "encoder.hidden=[16]",
        "strategy=distill",
        f"strategy.teacher={folder}",
        "report=false",
    ]
    result = sft_exp.run([*command, f"store={tmp_path}/store"], tmp_path / "run")
    request = json.loads(
        (tmp_path / "store" / result["stages"]["finetune"]["folder"] / "request.json").read_text()
    )
    assert request["strategy"]["teacher"].startswith("finetune-")
    rows = (
        (tmp_path / "store" / result["stages"]["finetune"]["folder"] / "metrics.jsonl")
        .read_text()
        .splitlines()
    )
    assert json.loads(rows[-1])["imitation"] < json.loads(rows[0])["imitation"]


def test_a_teacher_must_know_the_same_images(line):
    with pytest.raises(ConfigError) as error:
        checks.teacher_of(SimpleNamespace(spec=SPEC, name="others"), "teacher", str(line[0]))
    assert error.value.key == "strategy.teacher"


def test_losses_of_a_student_without_weight_are_the_tasks():
    """weight=0 is the student alone."""
    task, spec = Classify(), Spec((1, 8, 8), ("a", "b"))
    nets = task.networks(
        FeatureExtractor(MLP([4]).build(spec.image), [-1], "avg", 1, spec.image), spec
    )
    method = DistillationMethod(task, Model(task, nets, spec), weight=0.0)
    x, y, u = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0]), torch.rand(5, 1, 8, 8)
    total, _ = method.loss(nets, x, y, u, torch.randn(5, 2))
    assert total.item() == pytest.approx(F.cross_entropy(task.predict(nets, x), y).item())
    assert Distil(weight=0.0).weight == 0
