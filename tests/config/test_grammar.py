"""A command line of the wrong form is answered with the right one."""

import pytest

from sft_exp.config.grammar import mistake

WRONG = [
    ("pretrainer", "pretrainer: write pretrainer=OPTION; sft_exp help pretrainer lists"),
    ("pretrainer vae", "pretrainer: write pretrainer=vae;"),
    ("vae", "vae: write pretrainer=vae"),
    ("labels=5 adam", "adam: write optim=adam or pretrain_optim=adam"),
    ("optim.lr = 0.1", "write optim.lr=0.1, without blanks around ="),
    ("optim.lr= 0.1", "write optim.lr=0.1, without blanks around ="),
    ("optim.lr =0.1", "write optim.lr=0.1, without blanks around ="),
    ("optim.lr 0.1", "optim.lr: write optim.lr=0.1"),
    ("--pretrainer=vae", "settings are written without dashes: pretrainer=vae"),
    ("--optim.lr 0.1", "settings are written without dashes: optim.lr=0.1"),
    ("--labels", "settings are written without dashes: labels=VALUE"),
    ("-m optim.lr=[0.1, 0.2]", "a value with blanks is quoted: 'optim.lr=[0.1, 0.2]'"),
    (
        "metrics=[{_target_: torchmetrics.CohenKappa, task: multiclass}] labels=5",
        "quoted: 'metrics=[{_target_: torchmetrics.CohenKappa, task: multiclass}]'",
    ),
    ("+optim.options={a: 1, b: 2} seed=1", "quoted: '+optim.options={a: 1, b: 2}'"),
    *(
        (f"labels=5 {word}", f"{word}: write hydra/job_logging=quiet")
        for word in ("quiet", "quiet=true", "-q", "--quiet")
    ),
    *(
        (f"{word} -m", f"{word}: write hydra.verbose=true")
        for word in ("verbose=1", "-v", "--verbose")
    ),
    ("labels=5 more", "more: a setting is written key=value"),
]
RIGHT = [
    "", "-m pretrainer=ae,vae", "--multirun seed=0,1", "--multi seed=0,1", "~optim.lr", "+key=1",
    "--cfg job", "--cfg=job", "-cd conf/local labels=5", "--info", "--info all labels=5", "-sc install=bash",
    "--config-path outputs/latest/.hydra --config-name config", "name= labels=5", "name=", "hydra.verbose=true",
    "hydra/job_logging=quiet", "--version",
]  # fmt: skip


@pytest.mark.parametrize(("typed", "answer"), WRONG, ids=[typed for typed, _ in WRONG])
def test_the_right_form_is_said(typed, answer):
    assert answer in (mistake(typed.split()) or "")


@pytest.mark.parametrize("typed", RIGHT)
def test_a_right_form_is_passed_on(typed):
    assert mistake(typed.split()) is None


def test_a_single_unknown_word_may_be_a_command():
    assert mistake(["predct", "x"]) == ""
