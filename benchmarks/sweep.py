"""Eight jobs after one MNIST autoencoder pretraining, against eight stand-alone runs of the textbook script."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """
import sys, torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor
root, name, lr = sys.argv[1], sys.argv[2], float(sys.argv[3])
torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 100), nn.ReLU())
decoder = nn.Sequential(nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 784), nn.ReLU())
data = MNIST(root, transform=ToTensor())
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
for epoch in range(3):
    for x, _ in DataLoader(data, batch_size=128, shuffle=True):
        x = x.view(len(x), -1)
        loss = F.mse_loss(decoder(encoder(x)), x)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
model = nn.Sequential(encoder, nn.Linear(100, 10))
optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](model.parameters(), lr=lr)
few = Subset(data, torch.randperm(len(data))[:1000].tolist())
for epoch in range(20):
    for x, y in DataLoader(few, batch_size=32, shuffle=True):
        loss = F.cross_entropy(model(x.view(len(x), -1)), y)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
test = MNIST(root, train=False, transform=ToTensor())
right = 0
with torch.no_grad():
    for x, y in DataLoader(test, batch_size=1000):
        right += (model(x.view(len(x), -1)).argmax(1) == y).sum().item()
print(right / len(test))
"""
RATES = ("0.001", "0.003", "0.01", "0.03")


def main(root: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "sft_exp",
            "-m",
            "experiment=seed_autoencoder",
            f"dataset.root={root}",
        ]
        command += [
            "dataset.download=false",
            "labels=100",
            "pretrain.epochs=3",
            "finetune.epochs=20",
            "finetune.batch_size=32",
        ]
        command += [
            "optim=sgd,adam",
            f"optim.lr={','.join(RATES)}",
            "controls=false",
            "tracker=none",
            "draws=1",
        ]
        ours = timed(command, folder, env)
    alone = sum(
        timed([sys.executable, "-c", SCRIPT, str(root), name, lr], "/", env)
        for name in ("sgd", "adam")
        for lr in RATES
    )
    print(f"  sft_exp -m, eight jobs             {ours:8.1f} s")
    print(
        f"  the textbook script, eight times   {alone:8.1f} s   sft_exp / this = {ours / alone:.3f} (1/{alone / ours:.1f})"
    )


def timed(command: list[str], folder: str, env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return time.perf_counter() - started
