"""Mistakes on the command line are refused at once, in one message, and leave no files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import ENVIRONMENT, cli, ended, fork, run

from sft_exp.errors import ConfigError, DataError
from sft_exp.failures import nearest

# What is typed, the exit code, and what the message must hold: the key, and what is valid.
TYPED = [
    ("optm=adam", 2, "optm", "did you mean optim=adam?"),
    ("lables=5", 2, "lables", "did you mean labels=5?"),
    ("pretrainer.bta=1", 2, "pretrainer.bta", "did you mean pretrainer.beta=1?"),
    ("strategy=lineer", 2, "strategy/lineer", "logistic", "did you mean strategy=linear?"),
    ("+key=1", 2, "key=1: no such key"),
    ("labels", 2, "labels: no such command", "did you mean label?"),
    ("pretrainer=ae,vae", 2, "pretrainer=ae,vae", "--multirun"),
    ("pretrain.epochs=1.5", 2, "pretrain.epochs", "Integer"),
    ("labels=0", 2, "labels=0: must be a number above 0", "5%", "all"),
    ("finetune.batch_size=0", 2, "finetune.batch_size=0: must be a whole number above 0"),
    ("encoder=conv encoder.channels=[8,8,8,8,8]", 2, "encoder.channels=[8, 8, 8, 8, 8]", "8x8"),
    ("optim._target_=os.system", 2, "optim._target_=os.system", "torch.optim.Optimizer"),
    ("labels=1000", 3, "labels=1000", "valid are 1 to 128"),
    (
        "dataset=mnist dataset.root=nowhere dataset.download=false",
        3,
        "nowhere",
        "MNIST",
        "download=true",
    ),
]


@pytest.mark.parametrize(
    ("typed", "code", "words"), [(t, c, w) for t, c, *w in TYPED], ids=[t for t, *_ in TYPED]
)
@pytest.mark.sampled(5)
def test_errors_come_before_compute_and_leave_nothing_behind(typed, code, words):
    before = sorted(Path().rglob("*"))
    left, said = run(cli, *typed.split())
    assert left == code, said
    assert said.count("sft_exp: ") == 1
    assert "Traceback" not in said
    assert not [word for word in words if word not in said], said
    assert "provider=" not in said, "Hydra's search path helps nobody"
    assert sorted(Path().rglob("*")) == before


# The same of what the command line passes on: the value, and what is valid.
REFUSED = [
    ("labels=101%", "labels=101%: must be a number above 0"),
    ("labels=true", "labels=True: must be a number above 0"),
    ("labels_total=0", "labels_total=0: must be above 0"),
    ("labels_total=9", "labels_total=9 asks for 9 of", "valid are 10"),
    ("draws=0", "draws=0: must be above 0"),
    ("seed=-1", "seed=-1: must be 0 or more"),
    ("val=test", "val=test: must be auto, cv, holdout, none or full"),
    ("val=full labels=all", "val=full needs labels outside the budget", "holdout, cv or none"),
    ("optim.lr=-1", "optim.lr=-1: must be a number above 0"),
    ("optim.lr=nan", "optim.lr=nan: must be a number above 0"),
    ("pretrain_optim.lr=fast", "pretrain_optim.lr=fast: must be a number above 0"),
    ("optim.betas=[2,3]", "optim", "Invalid beta"),
    ("optim._target_=nowhere.Adam", "optim._target_=nowhere.Adam: cannot be imported"),
    (
        "pretrainer._target_=subprocess.Popen",
        "must be a class derived from sft_exp.core.pretrainer.Pretrainer",
    ),
    ("encoder._target_=sft_exp.pretrainers.ae.Autoencoder", "encoder._target_"),
    ("+pretrainer.key=1", "pretrainer.key"),
    ("pretrain.steps=-1", "pretrain.steps=-1: must be 0 or more"),
    ("encoder=conv finetune.batch_size=1", "finetune.batch_size=1: must be 2 or more", "BatchNorm"),
    ("encoder=conv pretrain.batch_size=1", "pretrain.batch_size=1: must be 2 or more", "BatchNorm"),
    ("pretrain.micro_batch_size=0", "pretrain.micro_batch_size=0: must be above 0"),
    ("pretrainer.beta=-1", "pretrainer.beta=-1.0: must be 0 or more"),
    ("schedule.points=[]", "schedule.points=[]: must be pairs [progress, factor]"),
    ("hardware.precision=fp8", "hardware.precision=fp8: must be fp32, bf16, fp16"),
    ("hardware.device=gpu", "hardware.device=gpu: is not available here", "try auto or cpu"),
    ("hardware.device=cuda:99", "hardware.device=cuda:99: is not available here"),
    ("hardware.threads=0", "hardware.threads=0: must be a number above 0, or auto"),
    ("features.maps=[nope]", "features.maps=nope", "layer1, layer2"),
    ("features.pool=sum", "features.pool=sum: must be avg or max"),
]


@pytest.mark.parametrize(
    ("typed", "words"), [(t, w) for t, *w in REFUSED], ids=[t for t, *_ in REFUSED]
)
def test_values_that_cannot_be_are_refused_before_anything_runs(typed, words, experiment):
    from hydra.errors import HydraException

    from sft_exp.jobs import prepare

    with pytest.raises((ConfigError, DataError, HydraException)) as error:
        prepare.prepare(experiment(*typed.split()))
    assert not [word for word in words if word not in str(error.value)], error.value
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.momentm", "optim.momentum"),
        ("pretrain.epoch", "pretrain.epochs"),
        ("optm.lr", "optim.lr"),
        ("optim.zzz", None),
    ],
)
def test_a_slip_is_sought_beside_the_right_words_first(typed, meant):
    known = [
        "optim", "optim.lr", "optim.momentum", "optim.hints", "pretrain.epochs",
        "pretrain_optim.lr", "seed",
    ]  # fmt: skip
    assert nearest(typed, known) == meant


def in_words_of_ours(*overrides, environment=()):
    """The real program: (exit code, stderr)."""
    process = subprocess.run(
        [sys.executable, "-m", "sft_exp", *overrides],
        env={**os.environ, **ENVIRONMENT, **dict(environment)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return process.returncode, process.stderr


def test_the_traceback_is_for_who_asks_for_it():
    code, said = in_words_of_ours("optm=adam")
    assert code == 2
    assert "Traceback" not in said
    code, said = in_words_of_ours("optm=adam", environment=[("HYDRA_FULL_ERROR", "1")])
    assert code == 2
    assert "Traceback" in said
    assert "did you mean optim=adam?" in said


QUICK = """
import os, sys
from hydra.core.global_hydra import GlobalHydra
from sft_exp.__main__ import main
os.environ.update(COMP_LINE="sft_exp optim=", COMP_POINT="14")
for typed in ("--help", "--cfg job", "--info", "-sc query=bash", "optm=adam", "labels=x1 seed=y"):
    GlobalHydra.instance().clear()
    sys.argv = ["sft_exp", *typed.split()]
    code = 0
    try:
        main()
    except SystemExit as left:
        code = left.code
    finally:
        print(typed, code, [m for m in ("torch", "wandb", "sklearn") if m in sys.modules], file=sys.stderr)
"""


def test_help_completion_and_typing_errors_do_not_wait_for_torch():
    process = subprocess.run(
        [sys.executable, "-c", QUICK],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=240,
    )
    answered = [line for line in process.stderr.splitlines() if line.endswith("]")]
    assert answered == [
        "--help 0 []",
        "--cfg job 0 []",
        "--info 0 []",
        "-sc query=bash 0 []",
        "optm=adam 2 []",
        "labels=x1 seed=y 2 []",
    ]
    for word in (
        "    sft_exp pretrainer=vae optim=adam",
        "momentum",
        "labels",
        "checkpoint",
        "optim=adam optim=adam_gan",
    ):
        assert word in process.stdout


def test_the_command_alone_runs_the_defaults(monkeypatch):
    """`python -m sft_exp` and `make run`, the first commands of README, have no words at all."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    process = fork(cli, Path("said"), None, None)
    while not list(Path("outputs/store").glob("work/*/pretrain-*")):
        assert process.exitcode is None, Path("said").read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process) == 75
    assert "the same command continues from there" in Path("said").read_text()
