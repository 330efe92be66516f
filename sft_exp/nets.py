"""Network parts that several methods share."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from math import inf, isfinite, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_exp.core import Backbone, Encoder, Layers
from sft_exp.errors import ConfigError, require
from sft_exp.ranks import now


def perceptron(
    *widths: int, activation: type[nn.Module] = nn.ReLU, norm: Callable[[int], nn.Module] | None = None
) -> nn.Sequential:
    """Linear layers of these widths with an activation, and a norm before it, between them: [B, widths[0]] -> [B, widths[-1]]."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), *([norm(b)] if norm else []), activation()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def projector(*widths: int, norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths with BatchNorm and ReLU between them, and with `norm` BatchNorm at the end:
    [B, widths[0]] -> [B, widths[-1]]."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not norm))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if norm else []))


def chain(**parts: nn.Module) -> nn.Sequential:
    """Parts one after another, by name."""
    return nn.Sequential(OrderedDict(parts))


class Memory(nn.Module):
    """Numbers that a method carries from step to step, moved by its `after` and by no gradient: a queue, a centre."""

    value: Tensor

    def __init__(self, value: Tensor):
        super().__init__()
        self.register_buffer("value", value)


def teacher_of(student: nn.Module) -> nn.Module:
    """A copy that no gradient reaches, to be moved by `follow`."""
    return deepcopy(student).requires_grad_(False)


@torch.no_grad()
def taught(teacher: nn.Module, x_BCHW: Tensor) -> Tensor:
    """What the teacher says, without gradients. Its BatchNorm uses and records the batch's own statistics: followed ones lag
    behind its weights, and in a short run a teacher that used them would say the same of every image."""
    return teacher(x_BCHW)


def follow(teacher: nn.Module, student: nn.Module, momentum: Tensor | float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student. He et al., arXiv:1911.05722, equation 2."""
    for theirs, mine in zip(teacher.parameters(), student.parameters(), strict=True):
        theirs.lerp_(mine, 1 - momentum)


def upsampler(
    width: int, channels: list[int], sizes: list[tuple[int, int]], norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Sequential:
    """A convolutional decoder: [B, width] -> [B, channels[0], *sizes[0]], from the last, smallest size up to the first."""
    layers: list[nn.Module] = [nn.Linear(width, channels[-1] * prod(sizes[-1])), nn.ReLU()]
    layers.append(nn.Unflatten(1, (channels[-1], *sizes[-1])))
    for n in range(len(channels) - 1, 0, -1):
        layers += [nn.Upsample(sizes[n - 1]), nn.Conv2d(channels[n], channels[n - 1], 3, padding=1)]
        if n > 1:
            layers += [norm(channels[n - 1]), nn.ReLU()]
    return nn.Sequential(*layers)


def blocks(net: nn.Module) -> list[nn.Module]:
    """What a network repeats: of the modules in its lists and sequences, those that have parts themselves, innermost ones."""
    found = [b for child in net.children() for b in blocks(child)]
    if found or not isinstance(net, nn.ModuleList | nn.Sequential):
        return found
    return [m for m in net.children() if list(m.children()) and any(True for _ in m.parameters())]


def batch_norms(net: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """torch's BatchNorm, but for the batch that it normalises by: that of all ranks. (torch.nn.SyncBatchNorm does the same for
    tensors on a GPU and refuses others.) Alone it is torch's to the bit."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # [B, C] or [B, C, ...], as for each of torch's three

    def forward(self, input: Tensor) -> Tensor:
        ranks, x = now(), input
        if ranks.count == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)
        over, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        local_2C = torch.stack(torch.var_mean(wide, over, correction=0))
        count_R = ranks.each(wide.new_tensor(float(x.numel() // x.shape[1])))
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
    """Put ours in the place of every BatchNorm of torch's, with its numbers. ConfigError for layers derived from it, whose
    forward is their own."""
    for path, norm in [(p, m) for p, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]:
        if isinstance(norm, BatchNorm):
            continue
        if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            kind = type(norm).__name__
            raise ConfigError("encoder", kind, "normalises by its own process's rows; take an encoder without it, or one process")
        ours = BatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        ours._parameters, ours._buffers, ours.training = norm._parameters, norm._buffers, norm.training
        owner, _, leaf = path.rpartition(".")
        setattr(net.get_submodule(owner), leaf, ours)


@contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm layers normalise by their batch and leave their running statistics alone: what a discriminator is
    shown of a generator must not colour what it later makes of real images."""
    norms = [m for m in batch_norms(net) if m.track_running_stats]
    for m in norms:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in norms:
            m.track_running_stats = True


class Normalise(nn.Module):
    """(x - mean) / std, channel by channel: [B, C, H, W] -> [B, K, H, W] for K means. A grey image (C = 1) is repeated."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return (x_BCHW - self.mean) / self.std


class Grey(nn.Module):
    """The mean of all channels: [B, K, H, W] -> [B, 1, H, W]."""

    def forward(self, x_BKHW: Tensor) -> Tensor:
        return x_BKHW.mean(1, keepdim=True)


class Normalised(Backbone):
    """An encoder behind the normalisation of its images. Part of the network, so that whatever uses the network applies it:
    training, evaluation, export, serving."""

    def __init__(self, body: Backbone, normalise: Normalise, image: tuple[int, int, int]):
        super().__init__()
        self.normalise, self.body, self.image, self.width = normalise, body, image, body.width

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        return self.body.maps(self.normalise(x_BCHW))

    def mirror(self, width: int) -> nn.Module:
        decoder = self.body.mirror(width)
        return nn.Sequential(decoder, Grey()) if len(self.normalise.mean) > self.image[0] else decoder


def backbone(encoder: Encoder, image: tuple[int, int, int]) -> Backbone:
    """The encoder's network for images in [0, 1], with its normalisation if it has one. ConfigError if it does not fit them."""
    mean, std = encoder.mean, encoder.std
    if mean is None and std is None:
        return encoder.build(image)
    require(mean is not None and std is not None, "mean" if std else "std", None, "given: mean and std go together")
    assert mean is not None
    assert std is not None
    require(len(mean) == len(std), "std", std, f"as many numbers as mean={mean}")
    require(all(isfinite(m) for m in mean), "mean", mean, "finite numbers")
    require(all(0 < s < inf for s in std), "std", std, "numbers above 0")
    channels = max(image[0], len(mean))
    fits = len(mean) in (1, image[0]) or image[0] == 1
    require(fits, "mean", mean, f"one number, or one for each of the images' {image[0]} channels")
    return Normalised(encoder.build((channels, *image[1:])), Normalise(mean, std), image)


DENSE = "dense"  # of features.maps: all that have rows and columns


class Readout(nn.Module):
    """Features of an image, [B, D]: some of an encoder's maps, pooled to at most `grid` x `grid` and concatenated.

    The encoder runs no further than the last map asked for.
    """

    def __init__(self, backbone: Backbone, maps: Iterable[int | str], pool: str, grid: int, image: tuple[int, int, int]):
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            shapes = {name: m.shape for name, m in backbone.eval().maps(torch.zeros(1, *image))}
        backbone.train()
        self.names = resolve(list(maps), list(shapes)) if list(maps) != [DENSE] else [n for n, s in shapes.items() if len(s) == 4]
        if not self.names:
            raise ConfigError("encoder", type(backbone).__name__, "has no maps with rows and columns, which this task starts at")
        self.shapes = {name: tuple(shapes[name][1:]) for name in self.names}  # (D,) or (D, H, W)
        self.pool = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
        self.grids = {n: (min(grid, shapes[n][2]), min(grid, shapes[n][3])) for n in self.names if len(shapes[n]) == 4}
        self.width = sum(shapes[n][1] * prod(self.grids.get(n, ())) for n in self.names)

    def maps(self, x_BCHW: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Those maps as they are, [B, D] or [B, D, H, W], by name."""
        for name, m in self.backbone.maps(x_BCHW):
            if name in self.names:
                yield name, m
            if name == self.names[-1]:
                return

    def read(self, name: str, m: Tensor) -> Tensor:
        """A map as features [B, D]."""
        return (self.pool(m, self.grids[name]) if name in self.grids else m).flatten(1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([self.read(name, m) for name, m in self.maps(x_BCHW)], dim=1)


def layers(encoder: Readout, image: tuple[int, int, int]) -> Layers:
    """Which parameters each map adds to the maps before it, as gradients tell; without those past the last map asked for."""
    left = {name: p for name, p in encoder.backbone.named_parameters() if p.requires_grad}
    device, found = next((p.device for p in left.values()), None), Layers()
    for map_name, m in encoder.backbone.eval().maps(torch.zeros(1, *image, device=device)):
        reached = (
            torch.autograd.grad(m.sum(), list(left.values()), retain_graph=True, allow_unused=True)
            if left and m.requires_grad
            else ()
        )
        found[map_name] = [name for name, g in zip(left, reached, strict=False) if g is not None]
        left = {name: p for name, p in left.items() if name not in found[map_name]}
        if map_name == encoder.names[-1]:
            break
    return found


def follow_all(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, numbers and statistics. Of a student's weight that is computed
    from others (LoRA) it is the value that is followed."""
    with torch.no_grad():
        for name, t in [*teacher.named_parameters(), *teacher.named_buffers()]:
            path, _, leaf = name.rpartition(".")
            s = getattr(student.get_submodule(path), leaf)
            t.lerp_(s, 1 - decay) if t.is_floating_point() else t.copy_(s)


def resolve(wanted: list[int | str], names: list[str]) -> list[str]:
    """Names of the maps asked for by name or by position, in the encoder's order; -1 is the last, -99 stops at the first."""
    chosen = set()
    for w in wanted:
        if isinstance(w, int) and w < len(names):
            chosen.add(names[max(w, -len(names))])
        elif w in names:
            chosen.add(w)
        else:
            raise ConfigError("features.maps", w, f"this encoder has {', '.join(names)} (or positions, -1 the last)")
    return [n for n in names if n in chosen]


class Standardise(nn.Module):
    """(f - mean) / sd with fixed numbers, fitted once: [B, D] -> [B, D]."""

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))

    def fit(self, f_ND: Tensor, each: bool) -> None:
        """`each`: every feature by its own spread (a dead one is left alone); else all by one common scale."""
        spread = f_ND.std(0) if each else f_ND.std(0).square().mean().sqrt().expand(f_ND.shape[1])
        self.mean.copy_(f_ND.mean(0))
        self.sd.copy_(spread.where(spread > 1e-2 * spread.max().clamp_min(1e-8), torch.ones_like(spread)))

    def forward(self, f_BD: Tensor) -> Tensor:
        return (f_BD - self.mean) / self.sd


class LinearMap(Backbone):
    """One map `projection`: [B, D]."""

    def __init__(self, image: tuple[int, int, int], width: int):
        super().__init__()
        self.image, self.width = image, width
        self.linear = nn.Linear(prod(image), width)

    def maps(self, x_BCHW):
        yield "projection", self.linear(x_BCHW.flatten(1))

    def mirror(self, width):
        return nn.Sequential(nn.Linear(width, prod(self.image)), nn.Unflatten(1, self.image))


class PatchNet(Backbone):
    """Single-layer features of Coates, Lee & Ng (AISTATS 2011): each patch by its likeness to K centroids.

    A patch p is normalised, (p - mean) / sqrt(var + 10 / 255^2), and whitened; feature k is max(0, mean distance - distance
    to centroid k), their "triangle" activation (section 3.2.2). Maps: `triangle` [B, K, H, W], and `quadrants` [B, 4K], its
    sums over the image's quarters (means here, which differ by a factor).
    """

    shift: Tensor
    whitening: Tensor

    def __init__(self, image: tuple[int, int, int], patch: int, count: int, stride: int):
        super().__init__()
        self.patch, self.stride, width = patch, stride, image[0] * patch**2
        self.grid = (min(2, (image[1] - patch) // stride + 1), min(2, (image[2] - patch) // stride + 1))
        self.width = count * prod(self.grid)
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("whitening", torch.eye(width))
        self.centroids = nn.Parameter(torch.randn(count, width))

    def patches(self, x_BCHW: Tensor) -> Tensor:
        """All patches [B, L, C * patch^2], each with its own brightness and contrast taken out."""
        p_BLP = F.unfold(x_BCHW, self.patch, stride=self.stride).transpose(1, 2)
        return (p_BLP - p_BLP.mean(2, keepdim=True)) / (p_BLP.var(2, keepdim=True) + 10 / 255**2).sqrt()

    def whiten(self, p_BLP: Tensor) -> Tensor:
        return (p_BLP - self.shift) @ self.whitening

    def maps(self, x_BCHW):
        p_BLP = self.whiten(self.patches(x_BCHW))
        distance_BLK = torch.cdist(p_BLP, self.centroids)
        triangle_BLK = (distance_BLK.mean(2, keepdim=True) - distance_BLK).relu()
        rows = (x_BCHW.shape[2] - self.patch) // self.stride + 1
        triangle_BKHW = triangle_BLK.transpose(1, 2).unflatten(2, (rows, -1))
        yield "triangle", triangle_BKHW
        yield "quadrants", F.adaptive_avg_pool2d(triangle_BKHW, self.grid).flatten(1)

    def mirror(self, width):
        raise ConfigError("encoder", "patches", "has no decoder; take another encoder, or pretrainer=kmeans or rotation")
