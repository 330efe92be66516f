"""One epoch of the textbook autoencoder's pretraining on MNIST at batch 128, against the loop the textbooks write."""

import tempfile
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.timing import interleaved, report
from sft_exp.config import build, compose
from sft_exp.jobs import prepare
from sft_exp.stages import pretrain
from sft_exp.training.context import Context

BATCH = 128


def network() -> nn.Sequential:
    torch.manual_seed(0)
    widths = (784, 400, 100, 400, 784)
    return nn.Sequential(
        *[layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    )


def main(root: Path) -> None:
    overrides = [
        "experiment=seed_autoencoder",
        "pretrain.epochs=1",
        "controls=false",
        "tracker=none",
        "dataset.download=false",
    ]
    # they look five times a pretraining, however many epochs it has: no part of an epoch
    overrides.append("monitors=false")
    values, choices = compose.compose([*overrides, f"dataset.root={root}"])
    job = prepare.prepare(build.experiment(values, choices))
    request, ctx = (
        job.requests["pretrain"][0],
        Context.on(job.experiment.hardware, job.experiment.tracker),
    )

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            pretrain.run(Path(folder), request, ctx)

    data = MNIST(root, transform=ToTensor())
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def textbook() -> None:
        for x, _ in torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True):
            x = x.view(len(x), -1)
            loss = F.mse_loss(model(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    fused = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    one = torch.rand(BATCH, 784)

    def limit() -> None:
        for _ in range(len(data) // BATCH):
            loss = F.mse_loss(model(one), one)
            fused.zero_grad()
            loss.backward()
            fused.step()

    print(f"  {torch.get_num_threads()} threads")
    parts = {"sft_exp": ours, "textbook loop": textbook, "limit: one preloaded batch": limit}
    report(interleaved(parts, rounds=5), "sft_exp", "an epoch")
