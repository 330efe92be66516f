"""A method is added by one file and one YAML in any folder; `plugins=` finds both."""

import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest

import sft_exp
from sft_exp.config import register, sources
from sft_exp.config.sources import HERE
from sft_exp.errors import ConfigError

METHOD = '''"""Fill in what was taken away."""

from dataclasses import dataclass

import torch
from torch import nn

from sft_exp.core import Pretrainer
from sft_exp.losses import bernoulli


@dataclass
class Shuffled(Pretrainer):
    share: float = 0.5  # of the pixels

    def networks(self, encoder, spec):
        return nn.ModuleDict({"encoder": encoder, "decoder": encoder.decoder(encoder.width)})

    def draw(self, batch, rng, progress):
        x = batch["pool"]["x"]
        return x, torch.rand(x.shape, generator=rng) < self.share

    def loss(self, nets, x, gone):
        return bernoulli(nets["decoder"](nets["encoder"](x.masked_fill(gone, 0))), x), {}

    def show(self, nets, x, rng):
        return {"input": x}
'''
YAML = """# Fill in what was taken away
defaults: [/schema/pretrainer/shuffled@_here_]
"""


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "my_methods"
    for file, text in (
        ("pretrainers/shuffled.py", METHOD),
        ("conf/pretrainer/shuffled.yaml", YAML),
    ):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(text)
    return folder


def run(*command, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.mark.slow
def test_a_users_method_is_trained_and_swept_like_ours(mine, tmp_path):
    """Beside one of ours, with a field of its own; its source is part of what names its result."""
    common = [
        f"plugins={mine}",
        "debug=tiny",
        "controls=false",
        "val=none",
    ]
    answer = run("sft_exp", "-m", *common, "pretrainer=shuffled,ae", "hydra.sweep.dir=sweep")
    assert answer.returncode == 0, answer.stderr
    result = json.loads((tmp_path / "sweep" / "0" / "results.json").read_text())
    assert result["choices"]["pretrainer"] == "shuffled"
    request = json.loads(
        (tmp_path / result["stages"]["pretrain"]["folder"] / "request.json").read_text()
    )
    assert request["method"] == {"is": "my_methods.pretrainers.shuffled.Shuffled", "share": 0.5}
    rows = (
        (tmp_path / result["stages"]["pretrain"]["folder"] / "metrics.jsonl")
        .read_text()
        .splitlines()
    )
    assert len(rows) == 2
    wrong = run("sft_exp", *common, "pretrainer=shuffled", "pretrainer.share=all")
    assert wrong.returncode == 2
    assert "pretrainer.share" in wrong.stderr


@pytest.mark.slow
def test_a_users_method_gets_the_contract_tests(mine):
    answer = run(
        "pytest",
        "tests/test_contract.py",
        "--methods",
        str(mine),
        "-k",
        "shuffled",
        "-p",
        "no:cacheprovider",
        cwd=HERE.parent,
    )
    assert answer.returncode == 0, answer.stdout
    assert int(re.search(r"(\d+) passed", answer.stdout)[1]) > 15


def test_a_method_that_builds_on_another_has_its_fields(tmp_path):
    file = tmp_path / "mine.py"
    head = "from dataclasses import dataclass\nfrom sft_exp.pretrainers.vae import VAE as Theirs\n"
    file.write_text(
        f"{head}@dataclass\nclass Mine(Theirs):\n    latent: int = 7\n    sharp: float = 0.5\n"
    )
    ours = {f.name: f.default for f in fields(sources.node(file, "mine"))}
    theirs = {
        f.name: f.default for f in fields(sources.node(HERE / "pretrainers" / "vae.py", "vae"))
    }
    assert ours == {**theirs, "_target_": "mine.Mine", "latent": 7, "sharp": 0.5}


@pytest.mark.parametrize("name", ["nowhere", "my-methods/x", "json"])
def test_a_folder_that_cannot_be_plugged_in_is_named(mine, tmp_path, name):
    """It is not there; its name is no package's; its name is taken."""
    folder = tmp_path / name
    if name != "nowhere":
        folder = mine.rename(tmp_path / name.partition("/")[0])
    with pytest.raises(
        ConfigError, match=r"^plugins=.*(no such folder|must be a folder|rename the folder)"
    ):
        register.plug(str(folder))
    assert sources.plugged() == []


def test_the_folder_is_found_among_a_commands_words():
    assert register.plugins_in(["-m", "plugins=a", "seed=1"]) == "a"
    assert register.plugins_in(["+plugins='a b'"]) == "a b"
    assert register.plugins_in(["seed=1"]) is None


def test_a_field_may_have_a_literal_type_and_a_named_default(tmp_path):
    file = tmp_path / "mine.py"
    head = "from dataclasses import dataclass\nfrom typing import Literal\nMOST = 7\n"
    body = "    way: Literal['a', 'b'] = 'a'\n    most: int = MOST\n"
    file.write_text(f"{head}@dataclass\nclass Mine:\n{body}")
    ours = {f.name: (f.type, f.default) for f in fields(sources.node(file, "mine"))}
    assert ours["way"] == (str, "a")
    assert ours["most"] == (int, 7)


def test_a_field_may_be_an_enum(tmp_path):
    file = tmp_path / "mine.py"
    head = "from dataclasses import dataclass, field\nimport enum\n"
    kinds = "class Way(enum.StrEnum):\n    a = 'one'\n    b = 'two'\n"
    body = "    way: Way = Way.a\n    other: Way | None = field(default=Way.b)\n"
    file.write_text(f"{head}{kinds}@dataclass\nclass Mine:\n{body}")
    ours = {f.name: (f.type, f.default) for f in fields(sources.node(file, "mine"))}
    assert ours["way"] == (str, "a")
    assert ours["other"] == (str | None, "b")


BROKEN = {  # what is wrong with a part's file -> (what replaces the last field's line, what is said)
    "syntax": ("    share: float = 0.5 +", "shuffled.py, line 14"),
    "type": ("    share: Path = 0.5", "line 14: share: Path = 0.5: a field has a type made of int"),
    "default": ("    share: float = compute()", "line 14: share: float = compute(): a field"),
    "import": ("    share: float = 0.5\n    print(nowhere)", "NameError: name 'nowhere'"),
    "enum": ("    share: float = 0.5\n    way: Way = Way.a", "way=c: must be a or b"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_part_that_cannot_be_read_says_which_file_and_why(mine, kind):
    line, words = BROKEN[kind]
    file = mine / "pretrainers" / "shuffled.py"
    text = METHOD.replace("    share: float = 0.5  # of the pixels", line)
    file.write_text(text.replace("@dataclass", f"{ENUM}@dataclass") if kind == "enum" else text)
    more = ["pretrainer.way=c"] if kind == "enum" else []
    state = [*sources._plugged], [*sources._options], [*sys.path]
    try:
        with pytest.raises(ConfigError) as error:
            sft_exp.run([f"plugins={mine}", "pretrainer=shuffled", "debug=tiny", *more])
    finally:
        sources._plugged[:], sources._options[:], sys.path[:] = state
        for name in [n for n in sys.modules if n.partition(".")[0] == mine.name]:
            del sys.modules[name]
        register.unreadable.clear()
    assert words in str(error.value)
    assert "shuffled.py" in str(error.value) or kind == "enum"


ENUM = "from enum import Enum\n\n\nclass Way(Enum):\n    a = 1\n    b = 2\n\n\n"
