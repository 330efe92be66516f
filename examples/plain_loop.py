"""Pretrain a network of your own on images of your own, without Hydra, store or files; then a linear probe.

python examples/plain_loop.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import sft_exp
from sft_exp.pretrainers.simclr import SimCLR


def network() -> nn.Module:
    """Any module that maps images [B, C, H, W] to features [B, D]."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64),
    )


@torch.no_grad()
def probe(encoder: nn.Module, images: Tensor, labels: Tensor, few: int = 50) -> float:
    """Test accuracy of a logistic regression on the features of the first `few` images."""
    features = encoder.eval()(images).numpy()
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    head.fit(features[:few], labels[:few])
    return float(head.score(features[1000:], labels[1000:]))


def main(steps: int = 300) -> tuple[float, float]:
    """(accuracy of the probe before pretraining, after it)."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float().unsqueeze(1)  # [N, 1, 8, 8] in [0, 1]
    labels = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    encoder = network()
    before = probe(encoder, images, labels)
    views = {"crop": [0.6, 1.0], "flip": 0.0, "rotate": 15, "jitter": 0.2}
    sft_exp.fit(SimCLR(views=views), encoder, images[:1000], steps=steps, batch_size=128)
    return before, probe(encoder, images, labels)


if __name__ == "__main__":
    print("linear probe on 50 labels: {:.3f} before, {:.3f} after".format(*main()))
