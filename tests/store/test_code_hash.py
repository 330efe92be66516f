"""The code's hash covers exactly what can change a number: plug-ins, planted edits, profiles."""

import sys
from importlib import invalidate_caches
from pathlib import Path
from textwrap import indent

import profiled
import pytest
from planted import KEPT, LOST, SIMCLR, VAE

from sft_exp.config.sources import HERE
from sft_exp.jobs import prepare, stage_requests
from sft_exp.jobs.stage_requests import functions_of
from sft_exp.store import code_hash
from sft_exp.store.code_hash import closure, digest, modules
from sft_exp.store.code_hash.closure import definition_of, digest_of
from sft_exp.store.code_hash.modules import read
from sft_exp.store.code_hash.names import Key, path
from sft_exp.store.code_hash.rules import NEUTRAL
from sft_exp.training.context import Context

PART = '''"""A part."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from mine.helper import scale


@dataclass
class Part:
    """Doubles."""

    columns: ClassVar[dict[str, str]] = {"a": "A"}  # heads of a table
    x: int = 1  # a number

    def loss(self, y):
        """Doc."""
        # a comment
        return scale(y) * 2

    def metrics(self):
        return [1]

    def unused(self):
        return 0


def run(request, part):
    """What a stage does."""
    value = part.loss(request["y"])
    if value < 0:
        raise ValueError(f"value is {value}", "of the loss")
    assert value, "no value"
    print("the value is", value)
    return value
'''
HELPER = "def scale(y):\n    return y * 3\n"
OWN = ("mine", "alone", "beside", "apart")


@pytest.fixture(autouse=True)
def anew():
    code_hash.forget_files()
    yield
    code_hash.forget_files()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes files of a user's package outside of ours; gives the hash of what a stage's function and a part reach."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(files, *roots):
        for name, text in (
            {"mine/__init__.py": "", "mine/part.py": PART, "mine/helper.py": HELPER} | files
        ).items():
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        code_hash.forget_files()
        invalidate_caches()
        return digest_of(
            frozenset(roots or {Key("mine.part", "run"), Key("mine.part", "Part")}), frozenset()
        )

    yield write
    for name in [n for n in sys.modules if n.partition(".")[0] in OWN]:
        del sys.modules[name]


def part(*changes):
    """The part with (old, new) exchanged."""
    text = PART
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return {"mine/part.py": text}


# What cannot change a number


@pytest.mark.parametrize(
    "change",
    [
        ("# a comment", "# another"),
        ('"""A part."""', '"""Another text."""'),
        ('"""Doubles."""', '"""Halves."""'),
        ('        """Doc."""\n', ""),
        ("scale(y) * 2", "(scale(y)  *  2)"),
        ("def loss(self, y):", "def loss(self, y: float) -> float:"),
        ("x: int = 1", "x: float = 1"),
        ("    value = part", "    value: int = part"),
        ('f"value is {value}", "of the loss"', 'f"the value, {value:.3g}, is", "below 0"'),
        ('"no value"', '"there is no value"'),
        ('print("the value is", value)', 'print(f"value: {value}")'),
        ('    print("the value is", value)\n', ""),
        ('{"a": "A"}', '{"a": "the A"}'),
        ("return [1]", "return [1, 2]"),
        ("return 0", "return 1"),
        ("def unused(self):", "def more(self):\n        return 3\n\n    def unused(self):"),
        ("def run(", "def another(x):\n    return x\n\n\ndef run("),
        ("from functools import partial\n", "import math\nfrom functools import partial\n"),
        ("from mine.helper import scale", "from .helper import scale"),
        ("from mine.helper import scale", "from mine.helper import scale as scale"),
    ],
    ids=lambda change: change[1].strip().splitlines()[0][:40] if change[1].strip() else "nothing",
)
def test_text_names_and_what_nobody_reaches_change_nothing(plugin, change):
    assert plugin({}) == plugin(part(change))


def test_what_a_module_does_not_reach_does_not_count(plugin):
    assert plugin({"mine/other.py": "three = 3\n"}) == plugin({"mine/other.py": "three = 4\n"})
    assert plugin({"mine/helper.py": HELPER + "\n\ndef more():\n    return 1\n"}) == plugin({})


def test_a_definition_may_move_to_another_file(plugin):
    moved = {"mine/helper.py": "from mine.deep import scale as scale\n", "mine/deep.py": HELPER}
    assert plugin(moved) == plugin({})
    whole = part(
        ("from mine.helper import scale", "from mine import helper"),
        ("scale(y) * 2", "helper.scale(y) * 2"),
    )
    assert plugin(whole) == plugin({})


def test_what_is_hashed_is_looked_at_and_not_run(plugin):
    plugin(
        {"mine/__init__.py": "raise SystemExit\n", "mine/helper.py": "raise SystemExit\n" + HELPER}
    )
    assert not {"mine", "mine.part", "mine.helper"} & {*sys.modules}


# What can


@pytest.mark.parametrize(
    "change",
    [
        ("* 2", "* 4"),
        ("x: int = 1", "x: int = 2"),
        ("x: int = 1", "x: ClassVar[int] = 1"),
        ("def loss(self, y):", "def loss(self, y=1):"),
        ("    def loss", "    @partial\n    def loss"),
        ("class Part:", "class Part(dict):"),
        ("@dataclass\n", "@dataclass(frozen=True)\n"),
        ("if value < 0", "if value < 1"),
        ("raise ValueError(", "raise KeyError("),
        ('print("the value is", value)', "print(request.pop())"),
        ("from mine.helper import scale", "from math import sqrt as scale"),
        (
            "def unused(self):",
            "def __getattr__(self, name):\n        return 3\n\n    def unused(self):",
        ),
        ('request["y"]', 'request["z"]'),
    ],
    ids=lambda change: change[1].strip().splitlines()[0][:40],
)
def test_code_that_is_reached_counts(plugin, change):
    assert plugin({}) != plugin(part(change))


IMPORT, CALL = "from mine.helper import scale", "scale(y) * 2"
HELPED = {
    "relative": [(IMPORT, "from .helper import scale")],
    "the package": [(IMPORT, "from mine import helper"), (CALL, "helper.scale(y) * 2")],
    "from here": [(IMPORT, "from . import helper as h"), (CALL, "h.scale(y) * 2")],
    "dotted": [(IMPORT, "import mine.helper"), (CALL, "mine.helper.scale(y) * 2")],
    "star": [(IMPORT, "from mine.helper import *")],
    "inside a function": [
        (IMPORT, ""),
        ("        # a comment", "        from mine.helper import scale"),
    ],
    "passed on": [(IMPORT, "from mine import scale")],
    "as a value": [(CALL, "partial(scale)(y) * 2")],
    "in a table": [
        ("@dataclass\n", 'TABLE = {"s": scale}\n\n\n@dataclass\n'),
        (CALL, 'TABLE["s"](y) * 2'),
    ],
    "as a default": [("def loss(self, y)", "def loss(self, y, f=scale)"), (CALL, "f(y) * 2")],
    "as a decorator": [("    def loss", "    @scale\n    def loss")],
    "a field's default": [("    x: int = 1", "    x: int = field(default_factory=scale)")],
    "by a string": [
        ("from mine.helper", "import mine.helper as h\nfrom mine.helper"),
        (CALL, 'getattr(h, "scale")(y) * 2'),
    ],
    "by any string": [
        ("from mine.helper", "import mine.helper as h\nfrom mine.helper"),
        (CALL, "getattr(h, self.name)(y) * 2"),
    ],
    "a module by name": [
        (IMPORT, "import importlib"),
        (CALL, 'importlib.import_module("mine.helper").scale(y) * 2'),
    ],
    "a module by any name": [
        (IMPORT, "import importlib"),
        (CALL, "importlib.import_module(self.name).scale(y) * 2"),
    ],
    "in a comprehension": [(CALL, "[y for scale in scale(y)]")],
    "while imported": [
        (CALL, "y"),
        ("@dataclass\n", "import torch\n\ntorch.set_flush_denormal(scale(1))\n\n\n@dataclass\n"),
    ],
    "registered": [
        (CALL, "y"),
        (
            "@dataclass\n",
            "LIST = []\n\n\n@LIST.append\ndef f(x):\n    return scale(x)\n\n\n@dataclass\n",
        ),
    ],
    "a base class": [("class Part:", "class Part(scale):")],
    "an exception": [("raise ValueError(", "raise scale(")],
    "two lazy imports": [
        (IMPORT, ""),
        (
            "        # a comment",
            "        if y:\n            from mine.helper import scale\n        else:\n            from math import sqrt as scale",
        ),
    ],
    "a module as a value": [
        ("from mine.helper", "from mine import again\nfrom mine.helper"),
        (CALL, "self.x(again)(y) * 2"),
    ],
    "globals": [
        (CALL, 'globals()["other"](y)'),
        ("def run(", "def other(y):\n    return scale(y)\n\n\ndef run("),
    ],
}


@pytest.mark.parametrize("changes", HELPED.values(), ids=HELPED)
def test_a_helper_counts_however_it_is_reached(plugin, changes):
    files = part(*changes) | dict.fromkeys(
        ("mine/__init__.py", "mine/again.py"), "from mine.helper import scale as scale\n"
    )
    assert plugin(files) != plugin(files | {"mine/helper.py": HELPER.replace("3", "5")})


BODY = ("return 0", "return 5")
METHODS = {
    "called": ("scale(y) * 2", "self.unused() * 2"),
    "as a value": ("scale(y) * 2", "map(self.unused, y)"),
    "by a string": ("scale(y) * 2", 'getattr(self, "unused")()'),
    "by a name put together": ("scale(y) * 2", 'getattr(self, f"un{y}")()'),
    "by a sum": ("scale(y) * 2", 'getattr(self, "un" + y)()'),
    "by a format": ("scale(y) * 2", 'getattr(self, "%sused" % y)()'),
    "by any name": ("scale(y) * 2", "vars(type(self))[y](self)"),
    "as a property": ("    def unused", "    @property\n    def unused"),
    "by torch": ("class Part:", "class Part(__import__('torch').utils.data.Dataset):"),
}


@pytest.mark.parametrize("change", METHODS.values(), ids=METHODS)
def test_a_method_counts_however_it_is_asked_for(plugin, change):
    looked_at = [("scale(y) * 2", "self.unused[y] * 2")] if "property" in change[1] else []
    assert plugin(part(change, *looked_at)) != plugin(part(change, *looked_at, BODY))


def test_a_class_whose_base_may_be_anything_counts_as_a_whole(plugin):
    aliased = part(
        (
            "@dataclass\n",
            "from torch.utils.data import Dataset\n\nBase = Dataset\n\n\n@dataclass\n",
        ),
        ("class Part:", "class Part(Base):"),
    )
    assert plugin(aliased) != plugin({"mine/part.py": aliased["mine/part.py"].replace(*BODY)})


def test_only_a_look_into_an_attribute_calls_no_method(plugin):
    looks = part(("scale(y) * 2", "y.unused[0] + len(y.unused) + y.unused.sum()"))
    assert plugin(looks) == plugin({"mine/part.py": looks["mine/part.py"].replace(*BODY)})


def test_a_word_in_the_request_may_name_a_method(plugin):
    plugin({})
    begun = frozenset({Key("mine.part", "Part")})
    before = digest_of(begun, frozenset({"unused"}))
    plugin(part(BODY))
    assert digest_of(begun, frozenset({"unused"})) != before


NETWORK = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)

    def _load_from_state_dict(self, *rest):
        return 1

    def idle(self):
        return 2
"""


@pytest.mark.parametrize(
    ("change", "counts"), [("self.layer(x)", True), ("return 1", True), ("return 2", False)]
)
def test_torch_calls_some_methods_by_itself(plugin, change, counts):
    root = Key("mine.net", "Net")
    edited = NETWORK.replace(change, f"{change} * 2")
    assert (
        plugin({"mine/net.py": NETWORK}, root) != plugin({"mine/net.py": edited}, root)
    ) == counts


def test_a_class_that_is_only_told_apart_does_not_count(plugin):
    other = "class Other:\n    def loss(self):\n        return 1\n"
    asks = part(
        (IMPORT, f"{IMPORT}\nfrom mine.other import Other"),
        ("value < 0", "isinstance(part, Other)"),
    )
    files = asks | {"mine/other.py": other}
    assert plugin(files) == plugin(files | {"mine/other.py": other.replace("1", "2")})
    protocol = other.replace(
        "class Other:", "from typing import Protocol\n\n\nclass Other(Protocol):"
    )
    files = asks | {"mine/other.py": protocol}
    assert plugin(files) != plugin(
        files | {"mine/other.py": protocol.replace("def loss", "def less")}
    )


def test_annotations_count_where_something_reads_them(plugin):
    reads = part(("def run(", "import typing\n\nHINTS = typing.get_type_hints(Part)\n\n\ndef run("))
    typed = {
        "mine/part.py": reads["mine/part.py"].replace(
            "def loss(self, y)", "def loss(self, y: float)"
        )
    }
    assert plugin(reads) != plugin(typed)


def test_files_beside_a_plugin_count(plugin):
    """Beside a module that is in no package, and beside a package."""
    alone = {
        "alone.py": "import beside\n\n\ndef run():\n    return beside.three\n",
        "beside.py": "three = 3\n",
    }
    root = Key("alone", "run")
    assert plugin(alone, root) != plugin(alone | {"beside.py": "three = 4\n"}, root)
    near = part((IMPORT, "from apart import scale"))
    assert plugin(near | {"apart.py": HELPER}) != plugin(
        near | {"apart.py": HELPER.replace("3", "5")}
    )


def test_helpers_of_helpers_count_and_circles_end(plugin):
    helper = "from mine.deeper import three\n\n\ndef scale(y):\n    return three(y)\n"
    deeper = "from mine.helper import scale\n\n\ndef three(y):\n    return scale(y) * 3\n"
    files = {"mine/helper.py": helper, "mine/deeper.py": deeper}
    assert plugin(files) != plugin(files | {"mine/deeper.py": deeper.replace("3", "4")})


def test_names_that_lead_back_to_themselves_end(plugin):
    own = part(
        (
            IMPORT,
            "from typing import TYPE_CHECKING\n\nfrom mine import scale\n\nif TYPE_CHECKING:\n    from mine import Part",
        ),
        ("class Part:", "class Part(Part):"),
    )
    files = own | {
        "mine/__init__.py": "from mine.helper import scale as scale\nfrom mine.part import Part as Part\n"
    }
    assert plugin(files) != plugin(files | {"mine/helper.py": HELPER.replace("3", "5")})


BODIES = """
x[1:]  |  x[:1]  |  x[::1]  |  x[1]  |  x.a  |  x['a']  |  x(1)  |  x(a=1)  |  x(*a)  |  x(**a)
x, 1  |  (x, 1),  |  [x, 1]  |  {x, 1}  |  {x: 1}  |  {**x}  |  x - -1  |  x + 1  |  x + 1.0
x + True  |  x + '1'  |  x + b'1'  |  -x  |  not x  |  x < 1  |  x < 1 < 2  |  1 < x  |  x and 1
x or 1  |  x if 1 else 2  |  1 if x else 2  |  lambda: x  |  lambda x: x  |  lambda x=1: x
lambda *x: x  |  lambda **x: x  |  lambda *, x: x  |  lambda *, x=1: x  |  lambda x, /: x
[y for y in x]  |  [y async for y in x]  |  (y for y in x)  |  {y for y in x}
[y for y in x if y]  |  [y for z in x for y in z]  |  f'{x}'  |  f'{x!r}'  |  f'{x:1}'  |  f'x'
(yield x)  |  (yield)  |  (yield from x)  |  x[1, 2]  |  x[(1, 2):3]  |  (y := x)  |  x @ 1
x is 1  |  x in y  |  x not in y  |  await x  |  x.a.b  |  x.a(b)  |  x.a.b()
"""  # expressions, between bars and ends of lines
BLOCKS = """
try:
    x()
except E:
    y()
else:
    z()
--
try:
    x()
except E:
    y()
finally:
    z()
--
try:
    x()
except E as e:
    y()
else:
    z()
--
try:
    x()
    y()
finally:
    z()
--
try:
    x()
finally:
    y()
    z()
--
for y in x:
    z()
--
for y in x:
    pass
else:
    z()
--
for y in x:
    pass
z()
--
while x:
    z()
--
if x:
    z()
--
if x:
    pass
else:
    z()
--
with x:
    z()
--
with x as y:
    z()
--
with x, y:
    z()
--
del x
--
del x.y
--
del x[0]
--
x = y = 1
--
x, y = 1
--
x += 1
--
x.y = 1
--
x[0] = 1
--
global x
x = 1
--
nonlocal_ = x
--
return
--
return x
--
x
--
raise
--
raise x
--
assert x
--
def y():
    z()
--
async def y():
    z()
--
class y:
    z()
--
match x:
    case 1:
        z()
--
match x:
    case [1]:
        z()
--
match x:
    case y:
        z()
--
match x:
    case [*y]:
        z()
--
match x:
    case y.z:
        z()
--
match x:
    case {'a': 1}:
        z()
--
match x:
    case {'a': 1, **y}:
        z()
--
match x:
    case 1 if y:
        z()
"""


def test_code_of_another_meaning_has_another_hash(plugin):
    bodies = [body.strip() for line in BODIES.strip().splitlines() for body in line.split("  |  ")]
    functions = [f"    return {body}" for body in bodies] + [
        indent(block.strip(), "    ") for block in BLOCKS.split("--")
    ]
    text = "".join(
        f"async def f{n}(x):\n{body}\n\n\n"
        for n, body in enumerate(functions)
        if "yield from" not in body
    )
    plugin({"mine/many.py": text})
    module = read("mine.many")
    found = {
        name: definition_of(module, name).text.replace(name, "f")
        for name in module.names
        if name[1:].isdigit()
    }
    assert len(found) == len(functions) - 1
    same = [(a, b) for a in found for b in found if a < b and found[a] == found[b]]
    assert [(functions[int(a[1:])], functions[int(b[1:])]) for a, b in same] == []


def test_a_local_name_hides_a_definition(plugin):
    hides = part(("def loss(self, y):", "def loss(self, y, scale):"))
    assert plugin(hides) == plugin(hides | {"mine/helper.py": HELPER.replace("3", "5")})


def test_two_functions_of_the_same_text_are_told_apart_by_what_they_call(plugin):
    same = "def f(x):\n    return g(x)\n\n\ndef g(x):\n    return x {}\n"
    files = {"mine/a.py": same.format("+ 1"), "mine/b.py": same.format("+ 2")}
    uses = part(
        (IMPORT, "from mine import a, b"),
        (CALL, "a.f(b.f(y))"),
        ("if value < 0", "if a.f(value) < 0"),
    )
    other = {"mine/part.py": uses["mine/part.py"].replace("if a.f", "if b.f")}
    assert plugin(files | uses) != plugin(files | other)


def test_parts_and_libraries_in_a_request():
    from sft_exp.config.schema import OptimizerConfig
    from sft_exp.pretrainers.ae import AE
    from sft_exp.pretrainers.vae import VAE

    assert digest({"method": AE()}) != digest({"method": VAE()})
    assert digest({"method": AE()}) == digest({"method": AE("squared")}), (
        "numbers are the request's, not the code's"
    )
    assert digest({"optim": OptimizerConfig("torch.optim.SGD", {})}) == digest({}), (
        "a library's version is recorded, not hashed"
    )
    assert digest({"optim": OptimizerConfig("sft_exp.training.sam.SAM", {})}) != digest({})
    assert digest({"_monitor": VAE()}) == digest({})


def test_where_a_data_set_lies_reaches_no_method():
    from sft_exp.datasets.torchvision_set import TorchvisionSet

    assert digest({"dataset": TorchvisionSet(root="metrics")}) == digest(
        {"dataset": TorchvisionSet()}
    )


def test_the_short_list_names_modules_that_exist():
    for name, reason in NEUTRAL.items():
        assert reason
        assert path(name), f"{name} has moved: change the list in code_hash/rules.py"


def test_what_reads_a_stage_is_not_what_it_depends_on(job):
    """Editing a report, the command line or the store's order of work must not train anything again."""
    outside = {"api", "cli", "compare", "execution", "jobs", "reports", "runs", "sweep"}
    for name, request in requests(job("pretrainer=vae", "draws=1")):
        reached = code_hash.reached(request, *functions_of(name, request))
        modules = {key.module for key in reached if key.name}
        assert not {m.split(".")[1] for m in modules if "." in m} & outside, name
        assert not modules & {"sft_exp.store.store", "sft_exp.store.results"}
        config = {m for m in modules if m.startswith("sft_exp.config.")}
        assert config <= {
            "sft_exp.config.schema",
            "sft_exp.config.enums",
            "sft_exp.config.weight_names",
        }


# Planted edits


@pytest.fixture(scope="module")
def job(experiment):
    """Overrides -> a job's requests."""
    made = {}

    def prepared(*overrides):
        if overrides not in made:
            made[overrides] = prepare.prepare(
                experiment("tracker=none", "hardware=cpu", "store=store", "val=cv", *overrides)
            )
        return made[overrides]

    return prepared


def requests(job):
    return [(name, request) for name, asked in job.requests.items() for request in asked]


def labelled(job):
    """(stage, arm or "", request) in the order in which they are computed."""
    arms = {position: arm for arm, places in job.arms.items() for position in places}
    for name, asked in job.requests.items():
        for position, request in enumerate(asked):
            yield name, arms.get(position, "") if name in ("finetune", "evaluate") else "", request


def hashes(job):
    return [digest(request, *functions_of(name, request)) for name, request in requests(job)]


def folders(job):
    return [stage_requests.stage(name).folder_name(request) for name, request in requests(job)]


def lost(job, names, before):
    """Which stages (and arms) are computed anew: those whose code changed, and those downstream of them."""
    gone, changed = set(), set()
    for (name, arm, request), folder, old, new in zip(
        labelled(job), names, before, hashes(job), strict=True
    ):
        if old != new or changed & inputs(request):
            changed.add(folder)
            gone.add(f"{name} {arm}".strip())
    return gone


def inputs(value):
    if isinstance(value, Path):
        return {value.name}
    if hasattr(value, "options"):
        return inputs(value.options)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {name for v in inner for name in inputs(v)}


@pytest.fixture
def edit(monkeypatch):
    """(old, new) in the one file of the package that holds `old`, as it would be read."""

    def planted(*changes):
        edited = {}
        for old, new in changes:
            files = [f for f in HERE.rglob("*.py") if old in edited.get(f, f.read_text())]
            assert len(files) == 1, (old, files)
            text = edited.get(files[0], files[0].read_text())
            assert text.count(old) == 1, (old, files[0])
            edited[files[0]] = text.replace(old, new)
        real = Path.read_text
        monkeypatch.setattr(
            modules, "source", lambda file: edited[file] if file in edited else real(file)
        )
        code_hash.forget_files()

    return planted


@pytest.fixture(scope="module")
def before(job):
    """For each job, names of its folders and hashes of its code."""
    code_hash.forget_files()
    return {each: (folders(job(*each)), hashes(job(*each))) for each in (VAE, SIMCLR)}


def test_edits_that_change_no_number_keep_every_result(job, before, edit):
    """All at once; one by one among the slow tests."""
    edit(*(change[1:] for change in KEPT))
    assert [lost(job(*each), *was) for each, was in before.items()] == [set(), set()]


@pytest.mark.slow
@pytest.mark.parametrize("change", KEPT, ids=lambda change: change.what)
def test_each_edit_that_changes_no_number_keeps_every_result(job, before, edit, change):
    edit(change[1:])
    assert [lost(job(*each), *was) for each, was in before.items()] == [set(), set()]


@pytest.mark.parametrize(
    "change",
    LOST[::4] + [pytest.param(c, marks=pytest.mark.slow) for n in (1, 2, 3) for c in LOST[n::4]],
    ids=lambda change: change.what,
)
def test_edits_that_change_numbers_lose_what_depends_on_them(job, before, edit, change):
    edit((change.old, change.new))
    assert [lost(job(*each), *was) for each, was in before.items()] == [change.vae, change.simclr]


@pytest.mark.slow
def test_a_new_metric_recomputes_evaluations_alone(job, edit):
    """Of the whole default job, with ten draws."""
    whole = job("pretrainer=vae")
    was = folders(whole), hashes(whole)
    change = next(change for change in LOST if change.what == "one metric more")
    edit((change.old, change.new))
    assert {name.partition(" ")[0] for name in lost(whole, *was)} == {"validate", "evaluate"}


# Profiled stages


PROFILED = [
    ("pretrainer=vae", "val=none", "nll_samples=2", "controls=[scratch,raw_pixels,pca_svm]"),
    ("pretrainer=ae", "task=fixmatch", "val=holdout", "finetune.ema=0.9", "controls=false"),
]
SLOW = [
    ("pretrainer=simclr", "encoder=conv", "val=cv", "controls=false"),
    ("pretrainer=byol", "encoder=conv", "val=holdout", "controls=false"),
    ("pretrainer=gan", "encoder=conv", "strategy=lora", "val=none", "controls=false"),
    ("pretrainer=ae", "strategy=linear", "optim.lr=search", "val=none", "controls=false"),
    ("pretrainer=ae", "optim.lr=auto", "val=none", "controls=false"),
    (
        "pretrainer=pca",
        "encoder=projection",
        "val=none",
        "controls=[frozen_svm,raw_knn,raw_spread,frozen_spread]",
    ),
    ("pretrainer=ae", "task=mean_teacher", "val=full", "finetune.patience=2", "controls=false"),
    (
        "pretrainer=ae",
        "task=joint",
        "task.task=classify",
        "task.objective=vae",
        "val=none",
        "controls=false",
    ),
    ("pretrainer=dino", "encoder=vit", "val=none", "controls=false"),
    ("pretrainer=mae", "encoder=vit", "strategy=layerwise", "val=none", "controls=false"),
    ("pretrainer=moco", "encoder=conv", "optim=sam", "val=none", "controls=false"),
    ("pretrainer=jigsaw", "encoder=conv", "strategy=l2sp", "val=none", "controls=false"),
    ("pretrainer=none", "encoder=conv", "export=safetensors", "val=none", "controls=false"),
    ("pretrainer=kmeans", "encoder=patches", "val=none", "controls=false"),
    (
        "pretrainer=wgan_gp",
        "encoder=conv",
        "encoder.norm=layer",
        "strategy=gradual",
        "val=none",
        "controls=false",
    ),
    ("pretrainer=bigan", "strategy=bitfit", "val=none", "controls=false"),
    ("pretrainer=vicreg", "encoder=conv", "strategy=lp_ft", "val=none", "controls=false"),
    ("pretrainer=simsiam", "encoder=conv", "strategy=knn", "val=none", "controls=false"),
    ("pretrainer=rotation", "encoder=conv", "strategy=spread", "val=none", "controls=false"),
    ("pretrainer=ae", "task=m1_m2", "val=none", "controls=false"),
    ("pretrainer=ae", "task=pseudo_label", "val=cv", "controls=false"),
    ("pretrainer=ae", "dataset=digit_pairs", "task=regress", "val=none"),
    (
        "pretrainer=ae",
        "dataset=digit_pairs",
        "task=mean_teacher_numbers",
        "val=none",
        "controls=[labels_only]",
    ),
    ("pretrainer=ae", "dataset=digit_pairs", "task=segment", "val=none"),
    (
        "pretrainer=ae",
        "dataset=digit_pairs",
        "task=multitask",
        "task.heads={left: classify, mask: segment}",
        "encoder=conv",
        "task.weighting=gradnorm",
        "val=none",
        "controls=false",
    ),
]
TINY = (
    "tracker=none", "monitors=false", "hardware=cpu", "pretrain.steps=2", "finetune.steps=2",
    "draws=1", "store=store",
)  # fmt: skip


@pytest.mark.parametrize(
    "overrides", [*PROFILED, *(pytest.param(o, marks=pytest.mark.slow) for o in SLOW)], ids=" ".join
)
def test_every_function_that_runs_in_a_stage_is_covered_or_neutral(experiment, overrides):
    """As sys.setprofile sees it, in all threads."""
    e = experiment(*TINY, *overrides)
    ran = {}

    def check(name, request, seen):
        ran[name] = len(seen)
        assert not profiled.missed(name, request, seen), name

    profiled.run(prepare.prepare(e), Context.on(e.hardware, e.tracker), check)
    assert ran["finetune"] > 40, "the profile saw something"
    assert ran["evaluate"] > 30


def test_the_profile_would_see_a_function_that_is_not_covered(experiment, monkeypatch):
    e = experiment(*TINY, "pretrainer=none", "val=none", "controls=false")
    job = prepare.prepare(e)
    names = {
        Key("sft_exp.models.heads.fitted", "fit_linear"),
        Key("sft_exp.schedules.piecewise_cosine", "PiecewiseCosine.__call__"),
    }
    found = set()
    real = closure.closure
    monkeypatch.setattr(
        closure, "closure", lambda *a: {k: v for k, v in real(*a).items() if k not in names}
    )
    profiled.run(
        job, Context.on(e.hardware, e.tracker), lambda *a: found.update(profiled.missed(*a))
    )
    assert found == names
