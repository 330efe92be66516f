"""What every test stands on: a folder of its own, no tracker, one thread, none of the user's settings."""

import os
import sys
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


def pytest_configure(config):
    from sft_exp.config import register

    register.plug(config.getoption("--methods"))


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def alone(tmp_path, home, monkeypatch):
    """Tests write below their own folder and see no account and no settings of whoever runs them."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("WANDB_", "SFT_EXP_", "HYDRA_"))]:
        if name != "SFT_EXP_DATA":
            monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for kind in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{kind}", str(home))
    if torch := sys.modules.get("torch"):  # not imported for the sake of tests that do without
        torch.set_num_threads(1)


@pytest.fixture
def shared_data() -> Path:
    """Folder of real data sets in torchvision's formats; they are too large to come with the repository."""
    folder = Path(os.environ.get("SFT_EXP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; SFT_EXP_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def digits():
    """The embedded data set."""
    from sft_exp.datasets.digits import Digits

    return Digits().load()


@pytest.fixture(scope="session")
def plan():
    """Networks -> a Plan that moves all of them at a constant rate, unless told otherwise."""
    from sft_exp.schedules.piecewise_cosine import PiecewiseCosine
    from sft_exp.training.loop import Plan

    def made(nets, steps, **changes):
        everything = [(1.0, {name: 1.0 for name, p in nets.named_parameters() if p.requires_grad})]
        usual = {
            "stop": steps,
            "batch_size": 16,
            "schedule": PiecewiseCosine(),
            "phases": everything,
            "name": (0, "test"),
        }
        return Plan(**{"steps": steps, **usual, **changes})

    return made


@pytest.fixture(scope="session")
def compose():
    """Overrides -> the config that Hydra composes."""
    import hydra

    from sft_exp.config import register, sources

    register.register()

    @cache
    def composed(*overrides: str):
        users = [
            f"hydra.searchpath=[{','.join(f'file://{folder}/conf' for folder in sources.plugged())}]"
        ]
        with hydra.initialize_config_dir(str(sources.CONF), version_base="1.3"):
            return hydra.compose("config", overrides=[*users, *overrides], return_hydra_config=True)

    return composed


@pytest.fixture(scope="session")
def experiment(compose):
    """Overrides -> Experiment."""
    from sft_exp.config import build

    def made(*overrides: str):
        cfg = compose(*overrides)
        return build.experiment(build.plain(cfg), build.choices(cfg))

    return made
