"""Composition: every option fits, every mistake is reported with its key, without torch."""

import ast
import subprocess
import sys
from dataclasses import fields
from itertools import zip_longest
from math import inf, nan

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_exp.config import build, help_text, register, sources
from sft_exp.config.help_text import GROUPS, first_comment, options
from sft_exp.config.schema import Experiment, OptimizerConfig, TrainConfig, target, valid_labels
from sft_exp.config.sources import CONF, FOLDERS, HERE, KINDS, MIRRORED
from sft_exp.errors import ConfigError

ROOTS = {
    "": "Experiment",
    "pretrain": "TrainConfig",
    "finetune": "FinetuneConfig",
    "features": "Features",
    "augment": "AugmentConfig",
    "hardware": "Hardware",
}
PARTS = [
    (g, f.stem)
    for g, folder in FOLDERS.items()
    for f in sorted((HERE / folder).glob("*.py"))
    if f.stem != "__init__"
]
# all parts in few compositions
COLUMNS = list(zip_longest(*([(g, s) for g, s in PARTS if g == group] for group in FOLDERS)))


@pytest.fixture
def values(compose):
    """A config as plain data, to be spoilt."""
    return build.plain(compose())


def spoilt(values, dotted, value):
    *groups, key = dotted.split(".")
    node = values
    for group in groups:
        node = node[group]
    node[key] = value
    return build.experiment(values, {})


# Options


# others compose every option of these: test_datasets, test_contract, test_experiments, and further below for optimizers
ELSEWHERE = {*MIRRORED, "experiment", "dataset", "pretrainer", "optim"}


@pytest.mark.parametrize(
    ("group", "option"),
    [
        pytest.param(g, o, marks=pytest.mark.slow if n >= (0 if g in ELSEWHERE else 2) else ())
        for g in GROUPS
        for n, o in enumerate(options(g))
    ],
)
def test_every_option_composes_to_an_experiment(experiment, group, option):
    e = experiment(f"{group}={option}")
    assert isinstance(e, Experiment)
    # a study is of the multirun, not of its jobs
    assert group == "study" or e.choices[group] == option
    assert isinstance(e.optim, OptimizerConfig)
    for name, kind in KINDS.items():
        assert isinstance(getattr(e, name), build.locate(kind))


def test_a_schema_is_made_when_it_is_asked_for(tmp_path):
    from sft_exp.config import register

    faulty = tmp_path / "faulty.py"
    faulty.write_text("@dataclass\nclass Faulty:\n    x: int = compute()\n")
    options, made = register.Options(), []
    options.pending["a.yaml"] = (lambda group, x: made.append(group) or {"x": x}, "schema/a", 3)
    options.pending["faulty.yaml"] = (register.schema, "schema/a", faulty, "mine.faulty")
    assert not made
    assert options.keys() == ["a.yaml"]
    assert "a.yaml" in options
    assert made == ["schema/a"]
    assert (options["a.yaml"].node.x, options["a.yaml"].group) == (3, "schema/a")
    assert "faulty.py: line 3" in register.unreadable.pop("schema/a/faulty")


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_a_folder_of_described_options(group):
    assert options(group)
    for file in (CONF / group).glob("*.yaml"):
        assert first_comment(file), file
    # read by `wandb sweep`, and by Hydra for itself: presets of its launchers
    others = {"wandb_sweep", "hydra"}
    assert {d.name for d in CONF.iterdir() if d.is_dir()} <= {*GROUPS} | others, (
        "a folder that --help does not know"
    )


def test_an_encoder_can_be_chosen_beside_an_option_that_brings_one(experiment):
    assert experiment("pretrainer=pca").choices["encoder"] == "projection"
    assert experiment("dataset=cifar10").choices["encoder"] == "conv"
    assert experiment("dataset=cifar10", "encoder=mlp").choices["encoder"] == "mlp"


@pytest.mark.parametrize("option", options("optim"))
def test_every_optimizer_has_a_rate_and_rates_to_search(experiment, option):
    e = experiment(f"optim={option}", f"pretrain_optim={option}")
    assert 0 < e.optim.options["lr"] <= 1
    assert e.optim.options["lr"] in e.optim.hints["search"]["lr"]
    assert e.pretrain_optim == e.optim
    assert "hints" not in e.optim.options
    assert "batch_size" not in e.optim.options


@pytest.mark.parametrize("group", ["optim", "schedule"])
def test_pretraining_has_the_same_options(experiment, group):
    """An option for fine-tuning is one for pretraining, and the same numbers."""
    assert options(f"pretrain_{group}").keys() == options(group).keys()
    for option, what in options(group).items():
        mine = what.replace(f"{group}.", f"pretrain_{group}.")
        assert options(f"pretrain_{group}")[option] == f"{mine}, for pretraining"
    if group == "schedule":
        for option in options(group):
            e = experiment(f"schedule={option}", f"pretrain_schedule={option}")
            assert e.schedule == e.pretrain_schedule


def test_gradient_descent_takes_the_whole_set_unless_told_otherwise(experiment):
    """`gd` says so itself, for the training that it is chosen for, and the command line still wins."""
    assert experiment("optim=gd").finetune.batch_size == "all"
    assert experiment("optim=gd").pretrain.batch_size == 128
    assert experiment("pretrain_optim=gd").pretrain.batch_size == "all"
    assert experiment("optim=gd", "finetune.batch_size=8").finetune.batch_size == 8
    assert experiment().finetune.batch_size == 32


# Mistakes that Hydra finds


def option_of(group, stem):
    """An option that takes the part in this file."""
    return next(
        f.stem
        for f in sorted((CONF / group).glob("*.yaml"))
        if f"/schema/{group}/{stem}@" in f.read_text()
    )


WRONG = {"int": "x", "float": "fast", "bool": "perhaps", "list": 5, "dict": 5, "str": [1]}


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: "-".join(p[1] for p in c if p))
def test_a_value_of_the_wrong_type_is_named(compose, column):
    cfg = compose(
        *(
            f"{group}={option_of(group, stem)}"
            for group, stem in (p for p in column if p)
            if group != "dataset"
        )
    )
    count = 0
    for group in (*FOLDERS, "hardware", "pretrain", "finetune", "features"):
        for key in cfg[group]:
            kind = OmegaConf.get_type(cfg[group]).__dataclass_fields__[key].type
            word = str(getattr(kind, "__name__", kind)).partition("[")[0].partition(" |")[0]
            if key != "_target_" and word in WRONG:
                with pytest.raises(OmegaConfBaseException, match=rf"full_key: {group}\.{key}"):
                    OmegaConf.update(cfg, f"{group}.{key}", WRONG[word])
                count += 1
    assert count > 10


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pretrainer.beta=fast", ["pretrainer.beta", "fast"]),
        ("pretrainer.betta=1", ["pretrainer.betta", "betta"]),
        ("hardware.precison=bf16", ["hardware.precison"]),
        ("laabels=5", ["laabels"]),
        ("draws=many", ["draws", "many"]),
        ("pretrainer=vea", ["pretrainer/vea"]),
        ("optm=adam", ["optm"]),
        ("seed=", ["seed"]),
        ("schedule.points=5", ["schedule.points"]),
        ("dataset.test=[1]", ["dataset.test"]),
    ],
)
def test_what_does_not_fit_fails_at_composition(compose, override, words):
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        compose(override)
    text = f"{error.value} {error.value.__cause__}"
    assert all(word in text for word in words), text


# Mistakes that the parts find


HELPERS = {  # functions that check keys of several parts
    "require_decoding": {"channels", "most_pixels", "workers"},
    "masks.require_group": {"group"},
}


def required(file, name=None):
    """Keys that the `require`s of a dataclass's own check are about."""
    tree = ast.parse(file.read_text())
    checks = [f for c in tree.body if isinstance(c, ast.ClassDef) and name in (None, c.name) for f in c.body
              if isinstance(f, ast.FunctionDef) and f.name == "__post_init__"]  # fmt: skip
    calls = [n for f in checks for n in ast.walk(f) if isinstance(n, ast.Call)]
    names = {ast.unparse(c.func) for c in calls}
    keys = {c.args[1].value for c in calls
            if ast.unparse(c.func) in ("require", "require_above_0_or_null")
            and isinstance(c.args[1], ast.Constant)}  # fmt: skip
    return keys.union(*(HELPERS[n] for n in names & HELPERS.keys()))


def nodes():
    """(dotted prefix, class path, keys with a `require`, type of each field) of every dataclass of the config."""
    for prefix, name in ROOTS.items():
        kind = build.locate(f"sft_exp.config.schema.{name}")
        yield (
            prefix,
            None,
            required(HERE / "config" / "schema.py", name),
            {f.name: str(f.type) for f in fields(kind)},
        )
    shared = required(HERE / "losses.py")  # reconstruction and output, checked for whoever has them
    for group, stem in PARTS:
        file = HERE / FOLDERS[group] / f"{stem}.py"
        seen = sources.node(file, f"sft_exp.{FOLDERS[group]}.{stem}")
        types = {f.name: str(f.type) for f in fields(seen)}
        yield group, seen()._target_, required(file) | (shared & types.keys()), types


CASES = [
    (prefix, path, key, types[key]) for prefix, path, keys, types in nodes() for key in sorted(keys)
]
BAD = {  # the first word that a field's type contains
    "list[list[float]]": [[], [[]], [[0.5, 1.0]], [[0.0, -1.0]]],
    "list[float]": [[], [-1.0], [nan]],
    "list[int]": [[], [-1], [0, 4]],
    "int": [-1, 0, 10**9],
    "float": [-1.0, 2.0, inf],
    "str": ["nonsense", ""],
    "dict": [{"part": "nonsense"}],
    "Any": ["nonsense", -1, [], {}, 2.5, [2.5], False],
}


def bad_values(kind):
    return next(values for word, values in BAD.items() if word in kind)


@pytest.mark.parametrize(
    ("prefix", "path", "key", "kind"),
    CASES,
    ids=lambda v: str(v).rpartition(".")[2] if v else "root",
)
def test_a_value_out_of_range_is_named(values, prefix, path, key, kind):
    """With its dotted key and what is valid; it never ends in another error, and no number is NaN."""
    dotted, refused = f"{prefix}.{key}".lstrip("."), []
    if path:
        values[prefix] = {"_target_": path}
    original = values[prefix].get(key) if prefix else values[key]
    for value in bad_values(kind):
        try:
            spoilt(values, dotted, value)
        except ConfigError as error:
            refused.append((error, value))
    assert refused, f"none of {bad_values(kind)} is refused"
    for error, value in refused:
        assert (error.key, error.value) == (dotted, value)
        assert str(error).startswith(f"{dotted}=")
        assert error.valid
    if "float" in kind and "list" not in kind:
        with pytest.raises(ConfigError, match=dotted):
            spoilt(values, dotted, nan)
    if original is not None:
        assert isinstance(spoilt(values, dotted, original), Experiment)


def test_the_checks_were_found():
    """Should `require` be renamed, the test above must not pass by finding nothing."""
    assert {
        "pretrainer.beta",
        "hardware.precision",
        ".draws",
        "pretrain.batch_size",
        "schedule.points",
        "encoder.hidden",
    } <= {f"{prefix}.{key}" for prefix, _, key, _ in CASES}


@pytest.mark.parametrize("lr", [0, -1e-3, nan, inf, "fast", None, True, [1e-3]])
@pytest.mark.parametrize("key", ["optim", "pretrain_optim"])
def test_a_learning_rate_is_a_number_above_0(values, key, lr):
    with pytest.raises(ConfigError, match=rf"^{key}.lr=.*must be a number above 0"):
        spoilt(values, f"{key}.lr", lr)


def test_a_learning_rate_may_be_found_where_labels_are(values):
    """auto and search need labels: not for pretraining."""
    assert spoilt(values, "optim.lr", "auto").optim.options["lr"] == "auto"
    assert spoilt(values, "optim.lr", "search").optim.options["lr"] == "search"
    with pytest.raises(ConfigError, match=r"optim.lr=search: needs optim.hints.search.lr"):
        target({"_target_": "torch.optim.SGD", "lr": "search"}, "optim", ("search",))
    with pytest.raises(ConfigError, match=r"^pretrain_optim.lr=auto"):
        spoilt(values, "pretrain_optim.lr", "auto")


@pytest.mark.parametrize("group", KINDS)
@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "sft_exp.core.types.Spec",
        "nowhere.Part",
        "sft_exp.core.types.Nothing",
        None,
        5,
        "word",
    ],
)
def test_a_part_of_another_kind_is_refused(values, group, path):
    """Before it is called."""
    with pytest.raises(ConfigError, match=rf"^{group}\._target_="):
        spoilt(values, group, {"_target_": path})


def test_a_key_that_a_part_does_not_have_is_named_with_the_closest(values):
    """A user's own YAML is not typed by Hydra, so we look."""
    with pytest.raises(
        ConfigError, match=r"pretrainer.betta=1: no such field of VAE; did you mean beta\?"
    ):
        spoilt(values, "pretrainer", {"_target_": "sft_exp.pretrainers.vae.VAE", "betta": 1})
    with pytest.raises(ConfigError, match=r"labells=1: no such key; did you mean labels\?"):
        spoilt(values, "labells", 1)


@pytest.mark.parametrize("labels", [1, 250, "all", "5%", "0.5%", "100%"])
def test_labels_are_a_number_a_share_or_all(labels):
    assert valid_labels(labels)


@pytest.mark.parametrize(
    "labels", [0, -1, 2.5, True, None, "many", "%", "0%", "101%", "nan%", "-5%", "", [10]]
)
def test_labels_are_nothing_else(values, labels):
    with pytest.raises(ConfigError, match=r"^labels=.*a share such as 5%, or all"):
        spoilt(values, "labels", labels)


# Budgets


@pytest.mark.parametrize(
    ("budget", "n", "steps"),
    [
        (TrainConfig(epochs=3, batch_size=32), 100, 9),  # what does not fill a batch is dropped
        (TrainConfig(epochs=3, batch_size="all"), 100, 3),
        (TrainConfig(epochs=3, batch_size=500), 100, 3),  # a batch is never larger than the set
        (TrainConfig(epochs=3, batch_size=32, max_steps=5), 100, 5),
        (TrainConfig(epochs=3, batch_size=32, max_steps=50), 100, 9),
        (TrainConfig(epochs=3, steps=7), 100, 7),
        (TrainConfig(epochs=0), 100, 0),
    ],
)
def test_a_budget_in_steps(budget, n, steps):
    assert budget.total(n) == budget.end(n) == steps
    assert budget.before(n) is None


def test_a_budget_may_stop_before_its_schedule_ends_and_go_on_from_a_shorter_one():
    budget = TrainConfig(epochs=6, schedule_length=18, resume_from=2, batch_size=10)
    assert (budget.before(100), budget.total(100), budget.end(100)) == (20, 60, 180)
    assert TrainConfig(steps=6, schedule_length=18).end(100) == 18


# Cost and help


def test_composing_needs_no_torch():
    """`--help`, TAB and a typing error answer in a fraction of the time that torch takes to import."""
    code = """
import sys
import hydra
from sft_exp import cli
from sft_exp.config import help_text, hydra_state
with hydra_state.initialized():
    hydra.compose("config", overrides=["pretrainer=gan", "dataset=cifar10"], return_hydra_config=True)
    help_text.options_help()
print(sorted({"torch", "torchvision", "sklearn", "wandb", "matplotlib", "numpy"} & sys.modules.keys()))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE.parent
    )
    assert answer.stdout.strip() == "[]"


def test_help_lists_every_group():
    text = help_text.options_help().replace("$$", "$")
    for group, what in GROUPS.items():
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [group]]
        assert what in line
        assert f"({len(options(group))} options)" in line


def test_a_broken_part_breaks_itself_alone(tmp_path, monkeypatch):
    """Its syntax is looked at when it is asked for."""
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir()
    (tmp_path / "encoders" / "broken.py").write_text("class Broken(:\n")
    monkeypatch.setattr(sources, "HERE", tmp_path)
    register.register()


@pytest.mark.parametrize("words", ["{img_size: 32}", "{a: {b: [1, 2]}, c: null}"])
@pytest.mark.parametrize("encoder", ["timm", "torchvision"])
def test_a_librarys_arguments_are_taken_from_the_command_line(compose, encoder, words):
    """Whole, or one by one. Keys of our own stay checked."""
    options = compose(f"encoder={encoder}", f"encoder.options={words}").encoder.options
    assert OmegaConf.to_container(options) == OmegaConf.to_container(OmegaConf.create(words))
    assert compose(f"encoder={encoder}", "encoder.options.img_size=32").encoder.options == {
        "img_size": 32
    }
    with pytest.raises(HydraException, match="nme"):
        compose(f"encoder={encoder}", "encoder.nme=a")
