"""The wheel is complete and runs anywhere, and its code enters the hash of results."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from faults import TINY, contents

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def program(*command, home, code=0):
    """Run Python with the package found in `home` alone; its output."""
    process = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == code, process.stderr
    return process.stdout + process.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what the repository holds of the package: builds leave files beside it, and tests edit it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("sft_exp", "conf"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    (copy / "README.md").touch()
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(source, copy)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    program(*build, str(folder), str(copy), home="")
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_every_module_and_every_config(source, wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(p.relative_to(source)) for p in (source / "sft_exp").rglob("*") if p.is_file()}
    configs = {
        f"sft_exp/{p.relative_to(source)}" for p in (source / "conf").rglob("*") if p.is_file()
    }
    assert inside == modules | configs


def test_the_wheel_runs_from_anywhere(wheel, tmp_path):
    home = tmp_path / "site"
    program(
        "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(home), str(wheel), home=""
    )
    where = program("-c", "import sft_exp; print(sft_exp.__file__)", home=home)
    assert where.startswith(str(home))
    assert "pretrainer:" in program("-m", "sft_exp", "--cfg", "job", home=home)
    program("-m", "sft_exp", "debug=tiny", "controls=false", "val=none", home=home)
    stages = {name.partition("-")[0] for name in contents(Path("outputs/store"))}
    assert stages == {"data", "pretrain", "finetune", "test", "evaluate", "familiarity"}
    assert (home / "bin/sft_exp").exists()


def test_only_edits_that_mean_something_compute_again(source, tmp_path):
    """Nor does it matter where the code lies."""
    home = tmp_path / "copy"
    shutil.copytree(source, home)

    def edit(file, old, new):
        text = (home / "sft_exp" / file).read_text()
        assert text.count(old) == 1
        (home / "sft_exp" / file).write_text(text.replace(old, new))

    def folders(home):
        program("-m", "sft_exp", *TINY, "val=none", "report=false", home=home)
        names = [name.partition("-")[0] for name in contents(Path("outputs/store"))]
        return names.count("pretrain"), names.count("finetune")

    assert folders(source) == (1, 1)
    edit("models/layers.py", "def chain(", "# a remark\ndef chain(")
    edit(
        "pretrainers/gan.py",
        "\n\n\n@dataclass\nclass GAN",
        "\n\nOF_ANOTHER = 1\n\n\n@dataclass\nclass GAN",
    )
    edit("strategies/full.py", "{name: 1.0 for", "{name: 2.0 / 2 for")
    assert folders(home) == (1, 2)
    edit("models/layers.py", "-2 if norm else -1])", "-2 if norm else -1][:])")
    assert folders(home) == (2, 3)
