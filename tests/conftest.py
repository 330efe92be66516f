"""Fixtures of all tests: a temporary folder, no tracker, one thread, no user settings."""

import gc
import os
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

# before torch is imported, and for the programs that tests start
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser):
    parser.addoption(
        "--methods",
        help="folder of your own methods: tests/test_contract.py then runs on them, too",
    )
    parser.addoption(
        "--device",
        default="cpu",
        help="cuda: test_contract, test_device and test_resume train there",
    )


def pytest_configure(config):
    gc.disable()  # of a million objects of libraries and tests, none is garbage
    from sft_exp.config import register

    register.plug(config.getoption("--methods"))
    if config.getoption("--device") != "cpu":  # operations that cannot repeat their bits say so
        config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic")


def pytest_collection_modifyitems(config, items):
    """Of a test marked `sampled(n)` the parameters after the first n are slow tests, but on a GPU."""
    if config.getoption("--device") != "cpu":
        return
    seen = Counter()
    for item in items:
        if marker := item.get_closest_marker("sampled"):
            seen[item.function] += 1
            if seen[item.function] > marker.args[0]:
                item.add_marker("slow")


def pytest_collection_finish():
    """Collections of garbage leave alone what was imported and collected: they take 0.1 s, not 0.7 s."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()  # libraries report what is not freed at the end


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def isolated(tmp_path, home, monkeypatch):
    """Tests write below their own folder and see no accounts or settings of the user."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("WANDB_", "SFT_EXP_", "HYDRA_"))]:
        if name != "SFT_EXP_DATA":
            monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for kind in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{kind}", str(home))
    if torch := sys.modules.get("torch"):  # tests that do not need torch do not import it
        torch.set_num_threads(1)


@pytest.fixture
def shared_data() -> Path:
    """Folder of real data sets in torchvision's formats, which are too large for the repository."""
    folder = Path(os.environ.get("SFT_EXP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set SFT_EXP_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def device(request):
    """Where contracts train: the CPU, or a GPU without TF32 (`--device cuda`)."""
    import torch

    from sft_exp.training.context import set_cuda_arithmetic

    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda":
        set_cuda_arithmetic(False)
    return chosen


@pytest.fixture(scope="session")
def digits():
    """The built-in data set of digits."""
    from sft_exp.datasets.digits import Digits

    return Digits().load()


@pytest.fixture(scope="session")
def plan():
    """Networks and steps -> a Plan that trains all parameters at a constant rate by default."""
    from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
    from sft_exp.training.loop import Plan

    def make_plan(nets, steps, **changes):
        rates = {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad}
        default = {
            "steps": steps,
            "stop": steps,
            "batch_size": 16,
            "schedule": PiecewiseCosine(),
            "phases": [(1.0, rates)],
            "name": (0, "test"),
        }
        return Plan(**{**default, **changes})

    return make_plan


@pytest.fixture(scope="session")
def compose():
    """Overrides -> the config that Hydra composes."""
    import hydra

    from sft_exp.config import hydra_state, register, sources

    register.register()

    @cache
    def composed(*overrides: str):
        folders = ",".join(f"file://{folder}/conf" for folder in sources.plugged())
        with hydra_state.initialized():
            return hydra.compose(
                "config",
                overrides=[f"hydra.searchpath=[{folders}]", *overrides],
                return_hydra_config=True,
            )

    return composed


@pytest.fixture(scope="session")
def experiment():
    """Overrides -> Experiment. A choice of options is composed once, as in a sweep."""
    from copy import deepcopy

    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from sft_exp.config import build, hydra_state, register, sources
    from sft_exp.sweep.composition import Composer

    @cache
    def composer(*folders: str):
        register.register()
        hydra_state.let_sweepers_be_filled_in()
        found = f"hydra.searchpath=[{','.join(folders)}]"
        with hydra_state.initialized():
            loaded = GlobalHydra.instance().hydra
            return Composer(loaded.compose_config("config", [found], run_mode=RunMode.MULTIRUN))

    def make_experiment(*overrides: str):
        composing = composer(*(f"file://{folder}/conf" for folder in sources.plugged()))
        for base in composing.bases.values():
            base.known.clear()  # another test may have set variables that values refer to
        config, choices = composing.plain(overrides)
        return build.experiment(deepcopy(config), choices)

    return make_experiment
