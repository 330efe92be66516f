"""The package's metadata are consistent."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import sft_exp

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = re.compile(r"[\w-]+")
LOWER = re.compile(r"^([\w.-]+)(?:\[[^]]*\])?[^#]*?(?:>=|==)([\w.]+)")
EXTRA = re.compile(r"extra == '(.*)'")


def test_the_version_is_stated_once():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading
    assert heading[1] in (PROJECT["version"], "Unreleased")
    files = (ROOT / "sft_exp").rglob("*.py")
    assert not [file for file in files if f'"{PROJECT["version"]}"' in file.read_text()]


@pytest.mark.parametrize(
    ("installed", "expected"), [("9.8.7", "9.8.7"), (None, "unknown")], ids=["installed", "source"]
)
def test_the_version_is_that_of_the_installed_package(installed, expected, monkeypatch):
    def version(name):
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    assert sft_exp.__version__ == expected


def test_the_constraints_are_the_lower_bounds():
    """constraints-lowest.txt names each bound of the dependencies and of the extra `test`."""
    everything = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    wanted = [word for word in everything if not word.endswith("python_version >= '3.14'")]
    bounds = [f"{match[1]}=={match[2]}" for word in wanted if (match := LOWER.match(word))]
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    assert sorted(set(bounds)) == sorted(line for line in lines if "==" in line)


def test_dependencies_of_the_program_have_lower_bounds():
    assert not [word for word in PROJECT["dependencies"] if not LOWER.match(word)]


def test_tested_versions_of_python_are_those_named():
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]) == named
    assert PROJECT["requires-python"] == f">={min(named)}"


def test_the_lock_names_public_hosts_alone_and_the_dependencies_of_today():
    """Another index is a setting of the client (UV_INDEX, --torch-backend), never of the project."""
    text = (ROOT / "uv.lock").read_text()
    hosts = set(re.findall(r"https?://([^/\"]+)", text))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    (ours,) = [p for p in tomllib.loads(text)["package"] if p["name"] == "sft-exp"]
    extras = PROJECT["optional-dependencies"]
    wanted = {(NAME.match(word)[0], "") for word in PROJECT["dependencies"]}
    wanted |= {(NAME.match(word)[0], e) for e, words in extras.items() for word in words}
    locked = {
        (entry["name"], extra[1] if (extra := EXTRA.match(entry.get("marker", ""))) else "")
        for entry in ours["metadata"]["requires-dist"]
    }
    plain = {(name.replace("_", "-"), extra) for name, extra in wanted}
    assert {pair for pair in plain if pair[0] != "sft-exp"} == {
        pair for pair in locked if pair[0] != "sft-exp"
    }, "run: uv lock"
