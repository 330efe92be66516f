"""The console program: consistent arguments, help that lists them, and messages for mistakes."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal

import pytest

import sft_exp
from sft_exp import __main__ as console
from sft_exp.config import args, help_text, reference
from sft_exp.config.schema import Experiment
from sft_exp.errors import ConfigError

OF_A_RUN = ["predict", "evaluate", "compare", "check", "label", "forecast", "suspicious", "serve"]
each_command = pytest.mark.parametrize("name", console.NAMES)


def arguments_of(name):
    """The dataclass of a command's arguments."""
    module = import_module(f"sft_exp.{name}.__main__")
    return getattr(module, "Arguments", None) or module.Ask


def words_for(name, **given):
    """Arguments by key that are enough for a command."""
    needed = {f.name: "x" for f in fields(arguments_of(name)) if args.required(f)}
    return [f"{key}={value}" for key, value in {**needed, **given}.items()]


@pytest.fixture
def program(capsys):
    """The console program's words -> (exit code, stdout, stderr)."""

    def called(*words):
        code = 0
        try:
            console.main(list(words))
        except SystemExit as left:
            code = left.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return called


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["help"], *([n, "--help"] for n in console.NAMES)]
)
def test_help_fits_80_columns(program, words):
    code, out, err = program(*words)
    assert (code, err) == (0, "")
    assert not [line for line in out.splitlines() if len(line) > 79]
    assert not [line for line in out.splitlines() if line != line.rstrip()]


@each_command
def test_help_lists_every_field_with_its_comment(program, name):
    kind = arguments_of(name)
    _, out, _ = program(name, "--help")
    comments = args.comments_of(kind)
    flat = " ".join(out.split())
    for f in fields(kind):
        assert f"\n  {f.name}=" in out, f.name
        assert " ".join(comments[f.name].split()) in flat, f.name
    assert f"sft_exp {name} " in out


def test_help_lists_every_command_with_its_description(program):
    _, out, _ = program("--help")
    for name in console.NAMES:
        (line,) = [found for found in out.splitlines() if found.split()[:1] == [name]]
        assert len(line.split()) > 3
    assert "\n  pretrainer " in out  # and the groups of a run
    assert len(out.splitlines()) < 60


def test_every_package_with_a_main_is_a_command():
    here = Path(sft_exp.__file__).parent
    assert sorted(console.NAMES) == sorted(p.parent.name for p in here.glob("*/__main__.py"))


@each_command
def test_a_slip_in_a_key_is_answered(program, name):
    for f in fields(arguments_of(name)):
        slip = f.name[:-1] + f.name[-1] * 2
        code, _, err = program(name, f"{slip}=x")
        assert code == 2
        assert f"did you mean {f.name}?" in err, err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("typed", "meant"), [("predct", "predict"), ("synk", "sync"), ("comp", "compare")]
)
def test_a_slip_in_a_command_is_answered(program, typed, meant):
    code, _, err = program(typed, "x")
    assert code == 2
    assert err == f"sft_exp: {typed}: no such command; did you mean {meant}?\n"


@pytest.mark.parametrize("name", OF_A_RUN)
def test_the_run_is_given_by_position_or_by_key(name):
    kind = arguments_of(name)
    rest = [w for w in words_for(name) if not w.startswith("run=")]
    by_key = args.parse(name, "", kind, [*rest, "run=outputs/a"])
    assert args.parse(name, "", kind, ["outputs/a", *rest]) == by_key
    assert args.parse(name, "", kind, [*rest, "--run", "outputs/a"]) == by_key
    assert args.parse(name, "", kind, [*rest, f"{name}.run=outputs/a"]) == by_key
    assert str(by_key.run[0] if isinstance(by_key.run, list) else by_key.run) == "outputs/a"


@each_command
def test_what_a_command_needs_is_said(program, name):
    needed = [f.name for f in fields(arguments_of(name)) if args.required(f)]
    if not needed:
        pytest.skip(f"{name} needs nothing")
    code, _, err = program(name)
    assert code == (0 if name == "help" else 2)
    if name != "help":  # without a topic it shows the program's help
        assert f"{needed[0]}=: must be given: sft_exp {name} " in err


@each_command
def test_types_are_checked(name):
    """Every field that is no text refuses a word that is none of its values."""
    kind = arguments_of(name)
    for f in fields(kind):
        value = f.default if f.default is not MISSING else None
        if isinstance(value, bool | int | float):
            with pytest.raises(ConfigError, match=f"{f.name}=word: must be"):
                args.parse(name, "", kind, words_for(name, **{f.name: "word"}))


@each_command
def test_a_command_starts_without_torch_and_hydra(name):
    """Usage errors and help answer at once, by the console and by `python -m`."""
    code = f"""
import runpy, sys
for module, words in (("sft_exp", ["{name}", "--help"]), ("sft_exp.{name}", ["nokey=1"])):
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        print(left.code, [m for m in ("torch", "hydra", "wandb") if m in sys.modules], file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(sft_exp.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert [li for li in process.stderr.splitlines() if li.endswith("]")] == ["0 []", "2 []"], (
        process
    )


def test_the_version(program):
    assert program("--version") == (0, f"sft_exp {sft_exp.__version__}\n", "")


def test_a_command_does_the_same_by_both_names(program, capsys):
    from sft_exp.ls.__main__ import main

    code, out, err = program("ls", "store=none")
    assert main(["--store", "none"]) == code == 0
    assert capsys.readouterr() == (out, err)


# The mechanism


@dataclass
class Everything:
    positional: ClassVar[tuple[str, ...]] = ("run", "files")

    run: Path  # a run
    files: list[str] = field(default_factory=list)  # names
    form: Literal["a", "b"] = "a"  # a form
    dry_run: bool = False  # a switch
    scale: float | None = None  # a scale
    count: int = 3  # a number


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["r"], {}),
        (["r", "x.png", "y.png"], {"files": ["x.png", "y.png"]}),
        (["x.png", "run=r", "y.png"], {"files": ["x.png", "y.png"]}),
        (["run=r", "files=[x, y]", "files=z"], {"files": ["x", "y", "z"]}),
        (["r", "-"], {"files": ["-"]}),
        (["r", "form=b", "dry_run=True", "scale=0.5", "count=-1"],
         {"form": "b", "dry_run": True, "scale": 0.5, "count": -1}),
        (["--dry-run", "r", "--scale", "2", "--form=b"], {"form": "b", "dry_run": True, "scale": 2.0}),
        (["r", "--dry-run=false", "scale=null"], {}),
        (["r", "out/lr=0.1/x.png"], {"files": ["out/lr=0.1/x.png"]}),
        (["r", "files=x", "run"], {"files": ["x", "run"]}),
    ],
)  # fmt: skip
def test_arguments_are_read(words, expected):
    assert args.parse("do", "", Everything, words) == Everything(Path("r"), **expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run=: must be given: sft_exp do RUN [FILES...] [key=value ...]"),
        (["r", "form=c"], "form=c: must be a or b"),
        (["r", "count=1.5"], "count=1.5: must be a whole number"),
        (["r", "scale=big"], "scale=big: must be a number"),
        (["r", "dry_run=maybe"], "dry_run=maybe: must be true or false"),
        (["r", "run=q", "run=p"], "is given twice"),
        (["r", "fils=x"], "did you mean files?"),
        (["r", "--fils", "x"], "did you mean files?"),
        (["r", "--form"], "form=: must be a or b"),
        (["run="], "run=: needs a value"),
    ],
)
def test_what_is_wrong_is_said(words, said):
    with pytest.raises(ConfigError) as raised:
        args.parse("do", "", Everything, words)
    assert said in str(raised.value)


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path):
    Path("a=b.png").touch()
    Path("count=5").touch()
    found = args.parse("do", "", Everything, ["r", "a=b.png", "count=5"])
    assert (found.files, found.count) == (["a=b.png"], 5)


def test_overrides_of_a_group_are_collected_as_they_are():
    from sft_exp.evaluate.__main__ import Arguments

    words = ["r", "dataset=image_folder", "dataset.unlabelled=[a, b]", "--dataset.root=x"]
    parsed = args.parse("evaluate", "", Arguments, [*words, "mistakes=3"])
    assert parsed.dataset == [
        "dataset=image_folder", "dataset.unlabelled=[a, b]", "dataset.root=x",
    ]  # fmt: skip
    assert parsed.mistakes == 3
    with pytest.raises(ConfigError, match="did you mean dataset"):
        args.parse("evaluate", "", Arguments, ["r", "datset.root=x"])


# From Python


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optim.lrr=3"], "did you mean optim.lr=3?"),
        (["optm=adam"], "did you mean optim=adam?"),
        (["optim=adm"], "did you mean optim=adam?"),
        (["lr=0.1"], "did you mean optim.lr=0.1 or pretrain_optim.lr=0.1?"),
        (["epochs=3"], "did you mean finetune.epochs=3 or pretrain.epochs=3?"),
        (["batch_size=8"], "did you mean finetune.batch_size=8 or pretrain.batch_size=8?"),
        (["seed=y"], "could not be converted to Integer"),
    ],
)
def test_a_slip_from_python_is_our_error(overrides, said):
    from hydra.core.global_hydra import GlobalHydra

    with pytest.raises(ConfigError) as raised:
        sft_exp.run(overrides)
    assert said in str(raised.value)
    assert raised.value.key == overrides[-1].partition("=")[0]
    assert not GlobalHydra.instance().is_initialized()


def test_the_public_names_are_listed():
    assert set(sft_exp.__all__) <= set(dir(sft_exp))
    assert all(getattr(sft_exp, name) for name in sft_exp.__all__)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("group", help_text.GROUPS)
def test_help_of_a_group_lists_its_options_and_their_keys(program, group):
    code, out, err = program("help", group)
    assert (code, err) == (0, "")
    flat = " ".join(out.split())
    for name, description in help_text.options(group).items():
        assert f"{name} {' '.join(description.split())}" in flat
        for key in reference.option(group, name).keys:
            assert key.name in flat
    assert not [line for line in out.splitlines() if len(line) > 79 or line != line.rstrip()]


@pytest.mark.parametrize(
    ("topic", "lines"),
    [
        ("pretrainer=vae", ["pretrainer.latent=20", "pretrainer.init=null", "arXiv:1312.6114"]),
        (
            "pretrain_optim=lbfgs",
            ["pretrain_optim.line_search_fn=strong_wolfe", "torch.optim.LBFGS"],
        ),
        ("encoder=conv64", ["encoder.channels=[16,32,64,128]"]),  # the YAML's value
        ("dataset=mnist", ["dataset.root=", "finetune.max_steps=3000"]),  # what it sets elsewhere
        ("hardware=ddp", ["hardware.engine=ddp", "hardware.processes=1"]),
        ("keys", ["labels=10", "finetune.ema=0.0", "seed=0"]),
        ("finetune", ["finetune.clip=null"]),
    ],
)
def test_help_shows_keys_with_their_defaults(program, topic, lines):
    code, out, err = program("help", topic)
    assert (code, err) == (0, "")
    for line in lines:
        assert line in out


def test_help_shows_every_key_of_a_run(program):
    _, out, _ = program("help", "keys")
    inside = {*help_text.GROUPS, *reference.SECTIONS, "choices"}
    for f in fields(Experiment):
        assert f.name in inside or f"\n  {f.name}=" in f"\n{out}", f.name


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("optmi", "did you mean optim?"),
        ("pretrainer=va", "valid: ae, barlow_twins"),
        ("finetun", "did you mean finetune?"),
    ],
)
def test_help_answers_a_slip(program, topic, said):
    code, out, err = program("help", topic)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("labels", "labels=10 "),
        ("metrics", "metrics=[] "),
        ("finetune.steps", "finetune.steps=null "),
        ("optim.lr", "optim.lr=0.001\n    of optim=adam, adamw"),
        ("pretrainer.beta", "weight of the KL term"),
        ("compare", "usage: sft_exp compare"),
        ("start", "usage: sft_exp start FOLDER"),
    ],
)
def test_help_answers_for_a_key_and_for_a_command(topic, said, capsys):
    from sft_exp.help import __main__ as help_command

    with suppress(SystemExit):  # of a command's --help
        assert help_command.main([topic]) == 0
    assert said in capsys.readouterr().out


def test_help_on_what_there_is_not_names_the_nearest(capsys):
    from sft_exp.help import __main__ as help_command

    assert help_command.main(["lables"]) == 2
    assert "is no group, option, key or command; did you mean labels?" in capsys.readouterr().err
