"""Likelihood of the test images under a generative model, in nats per image. It reads no label."""

import math
from pathlib import Path

import torch
from torch import Tensor

from sft_exp.core.pretrainer import Pretrainer
from sft_exp.core.rng import stream
from sft_exp.data.images import Images
from sft_exp.errors import StorageError
from sft_exp.models import transfer
from sft_exp.progress import bar
from sft_exp.stages import pretrain
from sft_exp.store import atomic_io
from sft_exp.store.store import Request
from sft_exp.training.context import Context

AT_ONCE = 20_000  # codes decoded at once


@torch.no_grad()
def run(folder: Path, request: Request, ctx: Context) -> None:
    """likelihood.json: `nll` and `elbo`, means over all test images, and `standard_error` of `nll`.

    `nll` = -log 1/K sum_k p(x, z_k) / q(z_k | x) (Burda et al., arXiv:1509.00519, equation 8) is a
    bound that tightens with the number K of importance samples; `elbo` is the bound for K = 1.
    """
    method: Pretrainer = request["method"]
    corpus = ctx.corpus(request["dataset"])
    if corpus.test is None:
        raise StorageError(
            f"{folder}: {corpus.name} has no test images of which to compute a likelihood"
        )
    nets, _ = pretrain.build({**request, "_init": None}, corpus)
    file = request["start"] / "networks.safetensors"
    transfer.load_own(nets, transfer.read_own(file), file)
    bounds_N2 = measure(
        method, nets.to(ctx.device).eval(), corpus.test, request["samples"], request["seed"], ctx
    )
    elbo, nll = bounds_N2.mean(0).tolist()
    error = (bounds_N2[:, 1].std() / math.sqrt(len(bounds_N2))).item()
    pixels = convention(
        method, corpus.test.floats(torch.arange(min(100, len(corpus.test))), ctx.device)
    )
    about = {"samples": request["samples"], "images": len(bounds_N2), "pixels": pixels}
    atomic_io.write_json(
        folder / "likelihood.json", {"nll": nll, "elbo": -elbo, "standard_error": error, **about}
    )


def measure(
    method: Pretrainer,
    nets: torch.nn.ModuleDict,
    images: Images,
    samples: int,
    seed: int,
    ctx: Context,
) -> Tensor:
    """(-ELBO, -log p(x)) of each image [N, 2], in nats."""
    bounds = []
    rows = torch.arange(len(images)).split(max(1, AT_ONCE // samples))
    with bar("likelihood", len(images)) as advance:
        for n, batch in enumerate(images.batches(rows, ctx.device)):
            rng = stream(seed, "likelihood", n, device=ctx.device)
            x_BCHW = method.observe(batch["x"], rng)
            weights_KB = method.log_weights(nets, x_BCHW, samples, rng).double()
            bounds.append(
                torch.stack([-weights_KB.mean(0), math.log(samples) - weights_KB.logsumexp(0)], 1)
            )
            advance(sum(map(len, bounds)), "")
    return torch.cat(bounds).cpu()


def convention(method: Pretrainer, x_BCHW: Tensor) -> str:
    """How pixels are modelled; likelihoods of different conventions cannot be compared."""
    if bool(((x_BCHW == 0) | (x_BCHW == 1)).all()):
        return "black and white in the data set (fixed binarisation)"
    if not torch.equal(method.observe(x_BCHW, stream("convention", device=x_BCHW.device)), x_BCHW):
        return (
            "black or white, drawn from grey levels afresh at each step, and once for this figure"
            " (dynamic binarisation)"
        )
    return "grey levels"
