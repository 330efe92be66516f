"""Batch normalisation across processes, and with running statistics that stay unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sft_exp.core.comm import now
from sft_exp.errors import ConfigError

LEAST_MOMENTUM = 0.1  # torch's default: the share of a batch in the running statistics


def batch_norms(net: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def follow(net: nn.Module) -> None:
    """Let the running statistics follow the network within some tens of steps.

    Networks made for long trainings update them by as little as 0.0003 a step (MNASNet) or 0.01
    (MobileNetV3). After some hundred steps they are still those of the untrained network: a
    MobileNetV3 that fits its labels is at chance on new images.
    """
    for norm in batch_norms(net):
        if norm.momentum is not None:  # None: the mean over all steps
            norm.momentum = max(norm.momentum, LEAST_MOMENTUM)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batch of all ranks. With a single rank it equals torch's to the bit.

    torch.nn.SyncBatchNorm does the same, but only for tensors on a GPU.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # [B, C] or [B, C, ...], as in BatchNorm1d, 2d and 3d

    def forward(self, input: Tensor) -> Tensor:
        ranks, x = now(), input
        if ranks.count == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)
        over, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        local_2C = torch.stack(torch.var_mean(wide, over, correction=0))
        count_R = ranks.each(wide.new_full((), x.numel() // x.shape[1]))
        n = count_R.sum()
        share_R1, (var_RC, mean_RC) = (count_R / n)[:, None], ranks.each(local_2C).unbind(1)
        mean_C = (share_R1 * mean_RC).sum(0)
        var_C = (share_R1 * (var_RC + (mean_RC - mean_C).square())).sum(0)
        if self.training and self.track_running_stats and self.running_mean is not None:
            self.remember(mean_C.detach(), var_C.detach() * (n / (n - 1)))
        gain_C = (var_C + self.eps).rsqrt()
        if self.weight is not None:
            gain_C = gain_C * self.weight
        shift_C = -mean_C * gain_C if self.bias is None else self.bias - mean_C * gain_C
        return (wide * gain_C.view(shape) + shift_C.view(shape)).to(x.dtype)

    @torch.no_grad()
    def remember(self, mean_C: Tensor, var_C: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean), share)
        self.running_var.lerp_(var_C.to(self.running_var), share)


def across_ranks(net: nn.Module) -> None:
    """Replace each BatchNorm of torch by ours, with its weights and statistics.

    ConfigError for other subclasses, which may have a forward of their own.
    """
    for path, norm in list(net.named_modules()):
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or isinstance(norm, BatchNorm):
            continue
        if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            kind = type(norm).__name__
            raise ConfigError(
                "encoder",
                kind,
                "normalises by its own process's examples;"
                " take an encoder without it, or one process",
            )
        new = BatchNorm(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        new._parameters, new._buffers = norm._parameters, norm._buffers
        new.training = norm.training
        owner, _, leaf = path.rpartition(".")
        setattr(net.get_submodule(owner), leaf, new)


@contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm layers normalise by their batch and leave their running statistics alone.

    For example, a generator's images must not change a discriminator's statistics of real images.
    """
    norms = [m for m in batch_norms(net) if m.track_running_stats]
    for m in norms:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in norms:
            m.track_running_stats = True


@contextmanager
def statistics_repeated(net: nn.Module) -> Iterator[None]:
    """Inside, a forward pass can be repeated without updating the running statistics again.

    Unlike inside `statistics_kept`, BatchNorm layers save the same tensors for backward as in the
    first pass.
    """
    norms = [m for m in batch_norms(net) if m.training and m.track_running_stats]
    before = [(m, m.momentum, m.num_batches_tracked) for m in norms]
    for m, _, count in before:
        m.momentum, m.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for m, momentum, count in before:
            m.momentum, m.num_batches_tracked = momentum, count
