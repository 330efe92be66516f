"""Planted edits of the package, and the cached results of two jobs that each edit must invalidate.

Half of them cannot change a number. Edits are located by a text that occurs once in the package and
not by file, so that definitions may move.
"""

from typing import NamedTuple

VAE = ("pretrainer=vae", "draws=1")
SIMCLR = ("pretrainer=simclr", "encoder=conv", "draws=1", "controls=[scratch]")


class Kept(NamedTuple):
    what: str
    old: str
    new: str


class Lost(NamedTuple):
    what: str
    old: str
    new: str
    vae: set[str]  # stages, and for the two that have some their arms, that are computed anew
    simclr: set[str]


def arms(*names: str, stages: tuple[str, ...] = ("finetune", "evaluate")) -> set[str]:
    return {f"{stage} {name}" for stage in stages for name in names}


NOTHING: set[str] = set()
FLOORS = ("raw_pixels", "raw_svm", "pca_svm")
ARMS = ("pretrained", "scratch", "random_frozen", *FLOORS)
MAIN = {"pretrain", "validate", *arms("pretrained")}
TUNED, TUNED_SIMCLR = {"validate", *arms(*ARMS)}, {"validate", *arms("pretrained", "scratch")}
EVALUATED = {"validate", *arms(*ARMS, stages=("evaluate",))}
EVALUATED_SIMCLR = {"validate", *arms("pretrained", "scratch", stages=("evaluate",))}
STORED = {"features", "test_features"}  # of the principal components, which pca_svm is fitted on
NETWORKS = {"pretrain", "validate", *arms("pretrained", "scratch", "random_frozen")}


KEPT = [
    # Edits that lost every result while whole modules were hashed; a new metric is below
    Kept("a column's head", '"accuracy": "accuracy",', '"accuracy": "share right",'),
    Kept(
        "one more method on a class that stages use",
        "    def input(self, x_BCHW: Tensor) -> Tensor:",
        "    def more(self):\n        return 1\n\n    def input(self, x_BCHW: Tensor) -> Tensor:",
    ),
    Kept(
        "an error's words",
        "has no maps with rows and columns, which this task starts at",
        "has none",
    ),
    Kept(
        "a word in a tuple",
        '("crop", "stretch", "letterbox")',
        '("crop", "stretch", "letterbox", "pad")',
    ),
    # Text
    Kept(
        "a footnote of a table",
        "macro precision, recall and F1",
        "macro-averaged precision, recall and F1",
    ),
    Kept("a docstring", "A task's networks, ready to predict.", "Networks that predict."),
    Kept("a comment", "# the last of each so many", "# each so many"),
    Kept("a message", "measuring feature quality took", "monitors took"),
    Kept(
        "a message about a stop", ": stopped after step {saved_step}", ": ended after {saved_step}"
    ),
    Kept(
        "what is said to be valid",
        '"a list of widths above 0",\n        )\n        require(\n            self.activation',
        '"widths above 0",\n        )\n        require(\n            self.activation',
    ),
    Kept(
        "annotations",
        "def kl_to_standard_normal(mean_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:",
        "def kl_to_standard_normal(mean_BZ, logvar_BZ):",
    ),
    # What the jobs do not use
    Kept("another pretrainer", "class DAE(Pretrainer):", "class DAE(Pretrainer):\n    more = 1\n"),
    Kept(
        "a new loss",
        "def squared(mean_BCHW: Tensor",
        "def cubed(x):\n    return x**3\n\n\ndef squared(mean_BCHW: Tensor",
    ),
    Kept(
        "a likelihood not asked for",
        "rng.randn(samples, len(x_BCHW), self.latent)",
        "rng.randn(samples + 1, len(x_BCHW), self.latent)",
    ),
    Kept(
        "a new word of the contract",
        "    def probed(self) -> bool:",
        "    def brand_new(self):\n        return 1\n\n    def probed(self) -> bool:",
    ),
    Kept("another strategy", "re.compile(self.trainable)", "re.compile(self.trainable + '$')"),
    Kept("another task", "f[:, 4] >= detectors.SURE", "f[:, 4] > detectors.SURE"),
    Kept(
        "a compressor",
        "    def quantise(self, source: Path",
        "    def shrink(self):\n        return 1\n\n    def quantise(self, source: Path",
    ),
    # What is reached and neutral
    Kept(
        "checkpoints",
        "    buffer = io.BytesIO()\n    torch.save",
        "    buffer = io.BytesIO()\n\n    assert state\n    torch.save",
    ),
    Kept("monitors", "clamp_min(1e-12) + 1e-7", "clamp_min(1e-12) + 1e-8"),
    Kept(
        "engines of several processes", "batch_size >= 2 * processes", "batch_size >= 4 * processes"
    ),
    Kept("the context", '"cpu"\n    if name == "cuda"', '"cpu"\n    if name != "cpu"'),
]
METRIC = '            "accuracy": MulticlassAccuracy(classes, average="micro"),\n'
FULL = "class Full(Strategy):\n    def phases(self, layers):\n        return [("
LOST = [
    Lost(
        "one metric more",
        METRIC,
        METRIC + '            "top5": MulticlassAccuracy(classes, top_k=5),\n',
        EVALUATED,
        EVALUATED_SIMCLR,
    ),
    Lost(
        "what is kept of a prediction",
        "predictions.softmax(1).max(1)",
        "predictions.softmax(1).min(1)",
        EVALUATED,
        EVALUATED_SIMCLR,
    ),
    Lost(
        "the loss of the VAE",
        "return 0.5 * (mean_BZ.square() +",
        "return 0.6 * (mean_BZ.square() +",
        MAIN,
        NOTHING,
    ),
    Lost(
        "the loss of SimCLR",
        "z_MZ @ every_NZ.T / temperature",
        "z_MZ @ every_NZ.T * temperature",
        NOTHING,
        MAIN,
    ),
    Lost(
        "a method that a loss calls",
        "min(1.0, progress / self.warmup)",
        "min(2.0, progress / self.warmup)",
        MAIN,
        NOTHING,
    ),
    Lost(
        "a layer's forward",
        "h_BD = self.activation(h_BD)",
        "h_BD = self.activation(h_BD) * 2",
        NETWORKS,
        NOTHING,
    ),
    Lost(
        "a table of layers",
        '"leaky_relu": LeakyReLU,',
        '"leaky_relu": nn.ReLU,',
        NETWORKS,
        NOTHING,
    ),
    Lost(
        "a projector",
        "nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn",
        "nn.Linear(a, b), nn.BatchNorm1d(b), nn",
        NOTHING,
        MAIN,
    ),
    Lost(
        "a constant of the views",
        "COLOUR_CHANCE = 0.8",
        "COLOUR_CHANCE = 0.7",
        TUNED,
        {"pretrain", *TUNED_SIMCLR},
    ),
    Lost(
        "a default of the views",
        "grey: float = 0.2",
        "grey: float = 0.3",
        TUNED,
        {"pretrain", *TUNED_SIMCLR},
    ),
    Lost(
        "the schedule",
        "high if a == b else high",
        "low if a == b else high",
        NETWORKS,
        {"pretrain", *TUNED_SIMCLR},
    ),
    Lost(
        "the shuffled walk",
        "divmod(step, n // size)",
        "divmod(step + 1, n // size)",
        {"pretrain", *STORED, *TUNED},
        {"pretrain", *TUNED_SIMCLR},
    ),
    Lost(
        "the name of a stream",
        '"finetune", request["draw"], fold)',
        '"tune", request["draw"], fold)',
        TUNED,
        TUNED_SIMCLR,
    ),
    Lost(
        "a step",
        "(value * (share * engine.weight))",
        "(value * share)",
        {"pretrain", *STORED, *TUNED},
        {"pretrain", *TUNED_SIMCLR},
    ),
    Lost(
        "the engine of one process",
        "value + term, {**logged",
        "value - term, {**logged",
        {"pretrain", *STORED, *TUNED},
        {"pretrain", *TUNED_SIMCLR},
    ),
    Lost(
        "a default of a plan",
        "recompute: bool = False  # blocks keep",
        "recompute: bool = True  # blocks keep",
        {"pretrain", *STORED, *TUNED},
        {"pretrain", *TUNED_SIMCLR},
    ),
    Lost(
        "a fit in closed form",
        'grid = {"C": list(self.c)}',
        'grid = {"C": list(self.c)[:2]}',
        arms("raw_pixels"),
        NOTHING,
    ),
    Lost(
        "a forward that torch calls",
        "votes[:, i] += d_B > 0",
        "votes[:, i] += d_B >= 0",
        arms("raw_svm", "pca_svm"),
        NOTHING,
    ),
    Lost("a strategy", f"{FULL}1.0", f"{FULL}0.9", TUNED_SIMCLR, TUNED_SIMCLR),
    Lost(
        "where a head starts",
        'by L-BFGS from zero."""\n    nn.init.zeros_(head.weight)',
        'by L-BFGS from zero."""\n    nn.init.ones_(head.weight)',
        TUNED,
        TUNED_SIMCLR,
    ),
    Lost(
        "how labels are drawn",
        "FOLDS = 5\n\n\n@dataclass(frozen=True)\nclass Labels",
        "FOLDS = 6\n\n\n@dataclass(frozen=True)\nclass Labels",
        {"pretrain", *STORED, *TUNED},
        {"pretrain", *TUNED_SIMCLR},
    ),
]
