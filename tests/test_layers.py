"""Architecture rules, read from the source: imports, access to the disk, forbidden calls."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest

from sft_exp.config.sources import FOLDERS, HERE, LISTED

FILES = sorted(f for f in HERE.rglob("*.py"))
METHODS = (*FOLDERS.values(), *LISTED.values())
FLOORS = (  # from the ground up; a room imports from its own and from lower floors, lazy imports counted
    {"errors", "progress"},
    {"config", "verdict"},
    {"failures", "store"},
    {"core"},
    {"data", "losses"},
    {"models"},
    {"distributed", *METHODS} - {"trackers"},
    {"training", "guidance"},
    {"stages", "trackers"},
    {"jobs"},
    {"runs"},
    {"reports"},
    {"compare", "execution"},
    {"sweep"},
    {"api", "plugins", "studies"},
    {"evaluate"},
    {"cli", "predict", "label", "ls", "gc", "sync", "dashboard", "doctor", "help"},
    {"check", "forecast", "serve", "start", "suspicious"},
    {"__init__", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FLAT = 8  # modules that lie on top of the package, at most
HYDRA = {f"config.{m}" for m in ("build", "compose", "hydra_state", "register", "rerun", "sources")}
HYDRA |= {"cli", "failures"}
# `comparison` reads what Hydra left of a job
HYDRA |= {"sweep.sweeps", "sweep.composition", "compare.comparison"}


def name_of(file):
    """sft_exp/stages/fit.py -> stages.fit"""
    return ".".join(file.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(f): f for f in FILES}
each = pytest.mark.parametrize


def modules(rule):
    """A test that a rule holds for every module; its failure names all that break it."""

    def test():
        broken = {}
        for module in MODULES:
            try:
                rule(module)
            except AssertionError as error:
                broken[module] = str(error)
        assert not broken

    test.__name__, test.__doc__ = rule.__name__, rule.__doc__
    return test


@cache
def tree(module):
    return ast.parse(MODULES[module].read_text())


@cache
def imports(module):
    """Dotted names of all that a module imports, wherever in it: `from a import b` is both a and a.b."""
    found, package = set(), f"sft_exp.{module}".rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            found |= {base} | {f"{base}.{a.name}" for a in node.names}
    return found


@cache
def ours(module):
    """Modules of this project among them; a package stands for its `__init__` only where it is imported for itself."""
    found = {m for m in MODULES if f"sft_exp.{m}" in imports(module) and m != "__init__"}
    return frozenset(m for m in found if not any(o.startswith(f"{m}.") for o in found))


def reach(module):
    found, roots = set(), {module}
    while roots:
        found |= roots
        roots = {m for r in roots for m in ours(r)} - found
    return found - {module}


def libraries(module, *names):
    return {i for i in imports(module) if any(i == n or i.startswith(f"{n}.") for n in names)}


def room(module):
    return module.partition(".")[0]


def in_folders(module, folders):
    return room(module) in folders


# Imports


def flat():
    return [f for f in FILES if f.parent == HERE]


def test_few_modules_lie_on_top():
    assert len(flat()) <= FLAT


def test_tests_of_a_package_lie_in_a_folder_of_its_name():
    """On top are the tests of the whole: contracts, architecture, documentation, released files."""
    tests = Path(__file__).parent
    folders = {file.parent for file in tests.rglob("test_*.py")} - {tests}
    assert {folder.name for folder in folders} <= {f.name for f in HERE.iterdir() if f.is_dir()}


def upward(module):
    """Modules of other rooms, on the same floor or above, that a module imports."""
    here = FLOOR[room(module)]
    return {m for m in ours(module) if room(m) != room(module) and FLOOR[room(m)] >= here}


@modules
def test_arrows_between_rooms_go_down(module):
    assert not upward(module)


def circles():
    """Paths of imports that lead back to where they began, lazy imports counted."""
    state, found = {}, []

    def visit(module, path):
        if state.get(module) == "open":
            found.append([*path[path.index(module) :], module])
        elif module not in state:
            state[module] = "open"
            for other in sorted(ours(module) - {module}):
                visit(other, [*path, module])
            state[module] = "closed"

    for module in MODULES:
        visit(module, [])
    return found


def test_no_circle_of_files():
    """Modules that need each other cannot be read, or tested, one after the other."""
    assert not circles()


@each("module", [m for m in MODULES if in_folders(m, METHODS)])
def test_methods_know_neither_each_other_nor_who_runs_them(module):
    """Also not through what they import."""
    known = reach(module)
    assert (
        not {m for m in known if in_folders(m, METHODS)}
        - set(METHODS)
        - {m for m in known if room(m) == room(module)}
    )
    assert not {
        m for m in known if FLOOR[room(m)] >= FLOOR["training"] and m != "training.metrics_log"
    }
    for m in (module, *known):
        assert not libraries(m, "hydra", "omegaconf", "torch.distributed")
        assert not libraries(m, "wandb") or m == "trackers.wandb"


@modules
def test_hydra_is_known_where_configs_are_composed_and_nowhere_else(module):
    if module not in HYDRA and not in_folders(module, ["plugins"]):
        assert not libraries(module, "hydra", "omegaconf")


@modules
def test_processes_are_known_to_the_engines_alone(module):
    """Methods gather, the loop asks its engine: neither knows how many there are."""
    assert not libraries(
        module, "torch.distributed", "torch.nn.parallel", "torch.multiprocessing"
    ) or in_folders(module, ["distributed"])


@modules
def test_wandb_is_known_to_its_tracker_alone(module):
    assert not libraries(module, "wandb") or module == "trackers.wandb"


@each("module", [m for m in MODULES if in_folders(m, ["stages"])])
def test_stages_know_nothing_of_experiments_and_sweeps(module):
    """They get folders and requests; what is asked for, in which order and why is the pipeline's."""
    assert not {m for m in reach(module) if FLOOR[room(m)] > FLOOR["stages"]}


# The disk


WRITES = {
    "write_text", "write_bytes", "unlink", "rename", "rmdir", "mkdir", "touch", "symlink_to",
    "hardlink_to", "chmod", "savez",
}  # fmt: skip
SAVES = {
    "save", "savefig", "save_file", "dump", "tofile", "to_csv", "write_image", "save_image",
    "imsave", "extractall", "export",
}  # fmt: skip
OS = {
    "remove", "unlink", "rename", "renames", "replace", "rmdir", "removedirs", "mkdir", "makedirs",
    "truncate", "symlink", "link",
}  # fmt: skip


@cache
def calls(module):
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]


def called(node):
    """`a.b.c(...)` -> ("a.b", "c")"""
    owner, _, name = ast.unparse(node.func).rpartition(".")
    return owner, name


def literal(node):
    return node.value if isinstance(node, ast.Constant) else None


def in_memory(module, node):
    """Whether an argument is a buffer of the function's own: nothing reaches the disk."""
    buffers = {
        t.id
        for n in ast.walk(tree(module))
        if isinstance(n, ast.Assign)
        and isinstance(n.value, ast.Call)
        and called(n.value)[1] in ("BytesIO", "StringIO")
        for t in n.targets
        if isinstance(t, ast.Name)
    }
    return any(
        isinstance(a, ast.Name) and a.id in buffers
        for a in [*node.args, *(k.value for k in node.keywords)]
    )


def writes(module, node):
    """Whether a call changes the disk."""
    owner, name = called(node)
    # a program in memory, unless a file is named
    if name == "export" and owner in ("torch.export", "torch.onnx"):
        return len(node.args) > 2 or any(k.arg == "f" for k in node.keywords)
    # into a new folder of `durable`'s, which seals it before it has a name
    if owner == "dcp" and module == "distributed.fsdp":
        return False
    if (name, owner, module) == ("save", "view", "dashboard.charts"):  # on W&B's server
        return False
    values = [literal(a) for a in [*node.args, *(k.value for k in node.keywords)]]
    if owner == "os":
        text = ast.unparse(node)
        on_disk = "O_RDONLY" not in text and "os.devnull" not in text
        return name in OS or (name == "open" and on_disk)
    if name == "open":
        return any(
            isinstance(v, str) and set(v) & set("wax+") and set(v) <= set("rwaxbt+") for v in values
        )
    if owner == "shutil":
        return name not in ("disk_usage", "which", "get_terminal_size")
    if owner == "tempfile" or name in WRITES:
        return True
    if name == "replace":  # Path.replace takes one argument, str.replace two
        return len(node.args) == 1 and not node.keywords
    local = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    own = local and any(
        f"sft_exp.{o}" in imports(module)
        for o in MODULES
        if o.rpartition(".")[2].startswith(owner.rstrip("s"))
    )
    return name in SAVES and bool(owner) and not own and not in_memory(module, node)


@modules
def test_only_durable_changes_the_disk(module):
    """Every file appears whole or not at all, because one module writes them all."""
    found = [f"{n.lineno}: {ast.unparse(n)}" for n in calls(module) if writes(module, n)]
    assert bool(found) == (module == "store.atomic_io"), found


@each(
    "line",
    [
        "open(p, 'w')",
        "p.open('ab')",
        "open(p, mode='x')",
        "p.write_text('')",
        "os.replace(a, b)",
        "p.replace(q)",
        "shutil.rmtree(p)",
        "torch.save(x, p)",
        "figure.savefig(p)",
        "json.dump(x, f)",
        "os.open(p, os.O_WRONLY)",
        "torch.onnx.export(net, (x,), 'file.onnx')",
    ],
)
def test_the_search_finds_what_writes(line):
    assert writes("models.heads.fitted", ast.parse(line).body[0].value)


@each(
    "line",
    [
        "open(p)",
        "p.open('rb')",
        "'a'.replace('a', 'b')",
        "replace(x, y=1)",
        "json.dumps(x)",
        "os.open(p, os.O_RDONLY)",
    ],
)
def test_the_search_finds_nothing_else(line):
    assert not writes("models.heads.fitted", ast.parse(line).body[0].value)


# What nobody does


@modules
def test_no_code_comes_from_data(module):
    """No pickle, no eval, no shell, no YAML that makes objects (`safe_load` makes none): a file or a config value is never
    run."""
    runs = libraries(module, "pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml")
    harmless = {"yaml.safe_load", "yaml.safe_dump"}
    if module == "distributed.shards":  # derived from, with a list of the classes it may name
        harmless.add("pickle.Unpickler")
    if module == "data.exports.yolo":  # derived from, to make texts alone: safe_load's own loader
        harmless.add("yaml.SafeLoader")
    assert not {i for i in runs if "." in i and not i.endswith("Error")} - harmless, (
        "an error may be caught; nothing is loaded"
    )
    assert (
        not {a.name for n in ast.walk(tree(module)) if isinstance(n, ast.Import) for a in n.names}
        & runs
    )
    for node in calls(module):
        owner, name = called(node)
        options = {k.arg: literal(k.value) for k in node.keywords}
        where = f"{module}:{node.lineno}: {ast.unparse(node)}"
        assert (owner, name) not in {
            ("", "eval"),
            ("", "exec"),
            ("", "compile"),
            ("", "__import__"),
            ("os", "system"),
        }, where
        assert (owner, name) not in {
            ("os", "popen"),
            ("np", "load"),
            ("numpy", "load"),
            ("torch.hub", "load"),
        }, where
        assert options.get("shell") is not True, where
        assert options.get("allow_pickle") is not True, where
        if (owner, name) == ("torch", "load"):
            assert options.get("weights_only") is True, where


def started():
    """Modules of ours that other processes are started with, `-m` and the elastic launcher alike."""
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call | ast.List):
                words = [
                    literal(n) for n in (node.args if isinstance(node, ast.Call) else node.elts)
                ]
                launched = isinstance(node, ast.Call) and called(node)[1] == "start"
                if launched or "-m" in words:
                    yield from (w for w in words if isinstance(w, str) and w.startswith("sft_exp."))


def test_what_processes_are_started_with_does_something():
    """A module without a main part ends at once, with exit code 0 and nothing done; `execution.child` calls the `main` of the
    module that it is given."""
    names = {name.removeprefix("sft_exp.") for name in started()}
    assert "execution.child" in names
    for name in names:
        entry = MODULES.get(f"{name}.__main__") or MODULES[name]
        assert 'if __name__ == "__main__":' in entry.read_text(), name
    for name in ("execution.pool", "execution.rank_main", "sweep.worker"):
        assert any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in tree(name).body), (
            name
        )


@modules
def test_nothing_talks_to_the_net(module):
    """But for the libraries that say so (torchvision's downloads, the Hugging Face hub, W&B), and the module that looks for
    a proxy before it lets them."""
    banned = {"requests", "urllib.request", "http.client", "ftplib", "paramiko"}
    banned -= {"urllib.request"} if module == "models.download" else set()
    assert not libraries(module, *banned)


if __name__ == "__main__":  # python -m tests.test_layers
    for number, rooms in enumerate(FLOORS):
        print(f"{number:2}  {', '.join(sorted(rooms))}")
    arrows = sum(len(ours(m) - {m}) for m in MODULES)
    up = [(m, other) for m in MODULES for other in upward(m)]
    print(f"{len(MODULES)} modules, {arrows} imports between them, lazy ones counted")
    print(f"on top {len(flat())}, circles {len(circles())}, upward arrows {len(up)}")
