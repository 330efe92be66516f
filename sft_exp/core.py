"""The vocabulary: what a method is, what an encoder offers, and where a step's randomness comes from.

What differs between methods is *what is corrupted* and *what is predicted*: `draw` is the first and `loss` the second.
An autoencoder draws x, a denoising one (x, noisy x), a VAE (x, eps), a GAN (x, z), fine-tuning (x, y).

Shape legend, the same in every file:
    N examples in a data set    B examples in a batch    C H W image channels, rows, columns
    D feature width             Z latent width           Y classes                 M boxes or numbers of an image
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from sft_exp.ranks import Share

Tensors = dict[str, Tensor]
Batch = dict[str, Tensors]  # pool -> {"x": images in [0, 1] [B, C, H, W], "y": labels [B], "row": positions in the pool [B],
#                                      and what else is annotated by name: "mask" [B, H, W], "boxes" [B, M, 4], "value" [B, M]}
Rates = dict[str, float]  # parameter name -> multiplier of the learning rate; a name left out is frozen
Layers = dict[str, list[str]]  # map of an encoder -> names of the parameters it adds to the maps before it, from the input up


def seed_of(*name: int | str) -> int:
    """The 63-bit seed that `name` stands for, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(name).encode(), digest_size=8).digest(), "big") >> 1


class Stream(torch.Generator):
    """A source of random numbers for the rows of a batch.

    Where several processes share the batch, numbers are drawn for all of it and each process gets those of its rows: the same
    draws whatever the number of processes. Shapes begin with rows, a multiple of the batch's here; or are empty: one number
    for the whole batch. `torch.rand(..., generator=rng)` would give the first rows' numbers to every process.
    """

    def __new__(cls, device: torch.device | str = "cpu", share: Share | None = None) -> "Stream":
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, device: torch.device | str = "cpu", share: Share | None = None):
        self.share = share

    def rand(self, *shape: int) -> Tensor:
        """Uniform between 0 and 1."""
        return self.mine(torch.rand(self.whole(shape), generator=self, device=self.device), shape)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal."""
        return self.mine(torch.randn(self.whole(shape), generator=self, device=self.device), shape)

    def bernoulli(self, p: Tensor) -> Tensor:
        """1 with the probability p, else 0: [B, ...] -> [B, ...]."""
        if self.share is None:
            return torch.bernoulli(p, generator=self)
        every = p.new_zeros(self.whole(p.shape))
        self.mine(every, p.shape).copy_(p)
        return self.mine(torch.bernoulli(every, generator=self), p.shape)

    def beta(self, a: float, rows: int) -> Tensor:
        """Beta(a, a) [rows]: the ratio of Gamma(a) draws."""
        g_2N = torch._standard_gamma(torch.full((2, *self.whole((rows,))), a, device=self.device), generator=self)
        return self.mine(g_2N[0] / g_2N.sum(0).clamp_min(1e-30), (rows,))

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape for the whole batch."""
        if self.share is None or not shape:
            return tuple(shape)
        return (self.share.times(shape[0]) * self.share.total, *shape[1:])

    def mine(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x if self.share is None or not shape else self.share.of(x)


def stream(*name: int | str, device: torch.device | str = "cpu", share: Share | None = None) -> Stream:
    """The random stream named by `name`, e.g. (seed, "draw", step): asking again gives it again from its start.

    Nothing random is carried from step to step, so a checkpoint holds no random state, and neither resuming nor the
    number of workers can change a result.
    """
    made = Stream(device, share)
    made.manual_seed(seed_of(*name))
    return made


def seed_global(seed: int, device: torch.device) -> None:
    """Seed what draws without being handed a stream: initial weights, dropout. (`torch.manual_seed` also queues a stack
    trace for each absent kind of GPU, which takes longer than a small step.)"""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@dataclass(frozen=True)
class Spec:
    """What a network must fit."""

    image: tuple[int, int, int]  # C, H, W
    classes: tuple[str, ...]  # names of the Y classes, in the order of their labels; none where numbers are predicted
    named: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)  # target -> its classes, where targets differ
    levels: tuple[int, int] | None = None  # values of deep files that are black and white; None = each file by its own

    def of(self, target: str) -> "Spec":
        """What a network of this target must fit."""
        return Spec(self.image, self.named.get(target, self.classes), levels=self.levels)


class Backbone(nn.Module):
    """What an encoder builds. One contract carries features by layer, layer-wise rates and gradual unfreezing."""

    width: int  # D of the code

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Named feature maps in order, [B, D] or [B, D, H, W], computed as they are asked for."""
        raise NotImplementedError

    def mirror(self, width: int) -> nn.Module:
        """A decoder as large as this encoder: [B, width] -> one logit a pixel [B, C, H, W]."""
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The last map, flattened: the code [B, D]."""
        *_, (_, last) = self.maps(x_BCHW)
        return last.flatten(1)


@dataclass
class Encoder:
    """A network from images to features, as hyperparameters.

    `mean` and `std` are applied around what `build` returns, by `nets.backbone`.
    """

    mean: list[float] | None = field(default=None, kw_only=True)  # of each channel: what public weights subtract from [0, 1]
    std: list[float] | None = field(default=None, kw_only=True)  # of each channel: what they then divide by; null = neither

    def build(self, image: tuple[int, int, int]) -> Backbone:
        """ConfigError if the encoder does not fit the image."""
        raise NotImplementedError

    def variants(self, image: tuple[int, int, int]) -> "list[Encoder]":
        """The encoders that fields left open (`auto`) may stand for, the usual one for such images first. Weights from a file
        choose the one that they fit best."""
        return [self]


@dataclass
class Method:
    """What to learn: hyperparameters (the fields, which are its typed config) and pure functions of networks and numbers.

    `draw`, `networks` and `loss` are each method's own; `after` and `prepare` are words that most leave neutral.
    """

    objectives: ClassVar[dict[str, tuple[str, int]]] = {"loss": ("", 1)}  # loss method -> (network it moves, every n-th step)
    pools: ClassVar[dict[str, int]] = {"labelled": 1}  # pool -> rows taken from it for each row of the batch size
    per_row: ClassVar[bool] = True  # the loss is a mean over rows, so a batch may be taken in pieces
    shared: ClassVar[bool] = True  # several processes may each have rows of it; False: a library's loss looks across them all

    def networks(self, encoder: nn.Module, spec: Spec) -> nn.ModuleDict:
        """All networks of the method, `encoder` among them."""
        raise NotImplementedError

    def prepare(self, nets: nn.ModuleDict, data: Tensors) -> None:
        """Closed forms, before the first step and without gradients: a head's start, a PCA. `data`: x [N, C, H, W] of the pool;
        of a task that starts at features, f [N, D], y [N], its targets by name, and the pool's features, pool [N, D]."""

    def draw(self, batch: Batch, rng: Stream, progress: float) -> tuple[Tensor, ...]:
        """ALL randomness of one step, made before any network runs; each [B or a multiple of B, ...] or 0-dim."""
        raise NotImplementedError

    def loss(self, nets: nn.ModuleDict, *drawn: Tensor) -> tuple[Tensor, Tensors]:
        """(scalar to minimise, scalars to log), without randomness: testable, repeatable, shardable."""
        raise NotImplementedError

    def after(self, nets: nn.ModuleDict, *drawn: Tensor) -> None:
        """Once a step, after the updates, without gradients: teachers, queues, centres."""


@dataclass
class Pretrainer(Method):
    """Learns an encoder from images alone."""

    unhashed: ClassVar[tuple[str, ...]] = ("init",)  # fields that cannot change a result: the file's content is hashed
    pools: ClassVar[dict[str, int]] = {"pool": 1}
    learns: ClassVar[str] = "by gradient"  # or "in closed form" (`prepare` alone), "from a file" (`init` alone), "nothing"
    labelled: ClassVar[bool] = False  # learns from the labels of another data set, the only ones it may see
    has_likelihood: ClassVar[bool] = False  # `log_weights` estimates it
    keeps: ClassVar[str] = "encoder"  # path of the network that is handed on
    features: ClassVar[tuple[int, ...]] = (-1,)  # which of its maps are fine-tuned, unless the user says otherwise;
    pool: ClassVar[str] = "avg"  # and how those with a height and a width are pooled: avg or max,
    grid: ClassVar[int] = 1  # to at most grid x grid

    init: str | None = field(default=None, kw_only=True)  # weights to start from: a file, a folder of ours, torchvision:resnet18

    def observe(self, x_BCHW: Tensor, rng: Stream) -> Tensor:
        """What of the images is modelled: their grey levels, unless the method draws something from them."""
        return x_BCHW

    def log_weights(self, nets: nn.ModuleDict, x_BCHW: Tensor, samples: int, rng: Stream) -> Tensor:
        """log p(x, z) - log q(z | x) [samples, B], nats, of what was observed, z from q: their log-mean-exp bounds log p(x)."""
        raise NotImplementedError

    def show(self, nets: nn.ModuleDict, x_BCHW: Tensor, rng: Stream) -> Tensors:
        """Pictures for the report: name -> images [B, C, H, W] in [0, 1]; e.g. reconstructions, samples."""
        return {}


@dataclass
class Task(Method):
    """Learns to predict, starting at an encoder. The words' neutral values are those of classification, which starts at the
    features [B, D] and predicts logits [B, Y]."""

    predicts: ClassVar[str] = "classes"  # or pixels, boxes, numbers, several: what strategies, floors, forms and pictures fit
    needs: ClassVar[tuple[str, ...]] = ()  # targets that a data set must have; none = a class for each image
    pooled: ClassVar[bool] = True  # starts at features [B, D], computed once if the encoder is frozen; False: at its maps
    score: ClassVar[str] = "accuracy"  # the metric that models are chosen and judged by; higher is better
    columns: ClassVar[dict[str, str]] = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1"}
    # metric -> head of its column in tables, `score` the first; fractions, shown in per cent, but for those
    readout: ClassVar[str] = "head"  # path, among its networks, of what a strategy may solve
    raw: ClassVar[tuple[str, ...]] = ()  # that are in units of their own
    footing: ClassVar[str] = "macro precision, recall and F1"  # what must be said of the columns

    def alters(self) -> bool:
        """Whether `draw` changes images or pairs them anew, so that a frozen encoder's features cannot be computed once."""
        return False

    def predict(self, nets: nn.ModuleDict, x_BCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def metrics(self, spec: Spec) -> nn.ModuleDict:
        """torchmetrics objects by the names that results.json uses; evaluate updates them batch by batch. One that computes a
        vector gives a number for each class, `name/class`; one that computes a dict gives several, by names of their own."""
        raise NotImplementedError

    def compared(self, predictions: Tensor, batch: Tensors) -> tuple[object, object]:
        """(predicted, true) as the metrics take them."""
        return predictions, batch["y"]

    def record(self, predictions: Tensor, batch: Tensors) -> Tensors:
        """What is kept of each image's prediction, [B, ...] each; where it is a class, as `predicted` and `confidence`."""
        confidence_B, predicted_B = predictions.softmax(1).max(1)
        return {"predicted": predicted_B.to(torch.int16), "confidence": confidence_B.float()}

    def show(self, predictions: Tensor, batch: Tensors, spec: Spec) -> Tensors:
        """Pictures of predictions for the report, beside the truth: name -> images [B, 3, H, W] in [0, 1]; {} = none."""
        return {}

    def of(self, spec: Spec) -> Spec:
        """What the head predicts, where a data set's targets have classes of their own."""
        return spec.of(self.needs[0]) if self.needs else spec

    def probed(self) -> bool:
        """Whether `prepare` is given the frozen encoder's features of the labelled images."""
        return self.pooled

    def alone(self) -> "dict[str, Task]":
        """Where several things are learnt at once: each alone, by name; as controls, `alone_<name>`."""
        return {}

    def solvable(self) -> "Task":
        """The same task with a head that a strategy can solve in closed form."""
        return self

    def examples(self, nets: nn.ModuleDict, batch: Tensors, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What such a head is fitted on: (features [M, D], their targets [M] or [M, K])."""
        return nets["encoder"](batch["x"]), batch["y"]


@dataclass
class Strategy:
    """How labels change a network: which numbers move, when, how fast; or a head solved in closed form.

    What does not move is frozen: its bytes, its BatchNorm statistics, without weight decay and dropout. `phases`, or `solve`
    and `head`, are each strategy's own; `adapt`, `merge` and `penalty` are words that most leave neutral.
    """

    probabilistic: ClassVar[bool] = True  # the head's predictions are logits; False: scores without that meaning
    solves: ClassVar[bool] = False  # the head comes from `solve`, and nothing is trained by gradient
    solved: ClassVar[tuple[str, ...]] = ("classes", "pixels")  # what tasks must predict for that; others need a gradient

    def adapt(self, encoder: nn.Module, rng: torch.Generator) -> None:
        """Add parameters to the encoder, pretrained by now, before `phases` is asked about them."""

    def merge(self, encoder: nn.Module) -> None:
        """After training, fold what `adapt` added into the encoder's own parameters, so that it is saved like any other."""

    def phases(self, layers: Layers) -> list[tuple[float, Rates]]:
        """[(share of the steps, rates of the encoder's parameters)]; shares sum to 1; the head always moves, at rate 1."""
        raise NotImplementedError

    def penalty(self, now: Tensors, start: Tensors) -> Tensor | None:
        """A term of the loss [scalar], of what moves: the parameters now, and the encoder's as they started."""
        return None

    def unlabelled(self) -> int:
        """How many unlabelled images `solve` is shown at most."""
        return 0

    def solve(self, f_BD: Tensor, y_B: Tensor, spec: Spec, seed: int) -> nn.Module:
        """A head fitted to convergence on frozen features; `y_B` are classes, or numbers [B, K]. Unlabelled images come last,
        with the class -1."""
        raise NotImplementedError

    def head(self, shapes: dict[str, torch.Size], spec: Spec) -> nn.Module:
        """The empty head that saved weights of these shapes fit."""
        raise NotImplementedError


class Network(nn.Module):
    """A task's networks as one module: images in [0, 1] [B, C, H, W] -> its predictions, e.g. logits [B, Y]."""

    def __init__(self, task: Task, nets: nn.ModuleDict):
        super().__init__()
        self.task, self.nets = task, nets

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.task.predict(self.nets, x_BCHW)


@dataclass
class Compressor:
    """How a finished model becomes smaller or faster. The stage calls `alter`, trains if there are steps, calls `restore`,
    and hands the ONNX graph to `quantise`; each compressor has something to say to one or two of them.

    A field `tolerance` is the accuracy (a fraction) that may be lost: more fails the run.
    """

    graph: ClassVar[bool] = False  # what it leaves is an ONNX graph alone, and no torch network

    def forms(self, name: str) -> "dict[str, list[Compressor]]":
        """What comes of it: name -> the steps that lead there. The first one is what is exported."""
        return {name: [self]}

    def alter(self, network: Network, x_BCHW: Tensor) -> None:
        """Change the network in place, e.g. take channels out of it."""

    def training(self) -> tuple[int, float, int]:
        """(steps, learning rate, batch size) in which the altered network is trained to imitate the original; 0 steps: not."""
        return 0, 0.0, 0

    def restore(self, network: Network) -> None:
        """Take away what only that training needed."""

    def quantise(self, source: Path, target: Path, calibration: Iterable[Tensor]) -> bool:
        """Write the ONNX graph `source` as one of small integers to `target`; False if there is nothing to write.
        `calibration` are training images in [0, 1], [B, C, H, W] each."""
        return False


@dataclass
class Finished:
    """A model to export: as a network, as an ONNX graph, or as both."""

    spec: Spec
    network: Network | None
    graph: bytes | None
    description: str  # of the network's parts: the content of model.json


@dataclass
class Exporter:
    """A file format in which a model leaves this project."""

    file: ClassVar[str] = ""  # its name; empty: nothing is exported
    loader: ClassVar[str] = ""  # Python that defines `predict`: images as an array [B, ...] -> predictions [B, Y]; and `classes`
    alone: ClassVar[bool] = True  # the file needs nothing of this package
    network: ClassVar[bool] = False  # it is made from a torch network, not from an ONNX graph

    def write(self, model: Finished, folder: Path) -> None:
        """The file, or files, into the folder."""
        raise NotImplementedError

    def input(self, x_BCHW: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] as the file wants them."""
        return x_BCHW.float().div(255)
