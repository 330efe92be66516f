"""Names of an earlier version: keys are read, old members of parts refused, classes found."""

import copy
import importlib
import textwrap
from dataclasses import fields

import pytest

from sft_exp.config import build, compose, moved, rerun
from sft_exp.config.schema import OptimizerConfig
from sft_exp.errors import ConfigError
from sft_exp.stages import model

OLD = {
    "pretrain.horizon=30": "pretrain.schedule_length=30",
    "finetune.piece=8": "finetune.micro_batch_size=8",
    "++hardware.accumulate=2": "++hardware.gradient_accumulation_steps=2",
}


def test_overrides_with_old_keys_mean_the_new_ones_and_are_warned_of_once_each(capsys):
    assert moved.renamed([*OLD, "seed=1", "-m"]) == [*OLD.values(), "seed=1", "-m"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(OLD)
    assert lines[1].startswith("finetune.piece is called finetune.micro_batch_size now")


@pytest.mark.parametrize(("old", "new"), moved.KEYS.items())
def test_every_new_key_exists_and_no_old_one_does(old, new):
    option = {"strategy": ["strategy=partial"], "study": ["study=attribution"]}
    group, _, name = new.partition(".")
    if group == "study":
        from sft_exp.studies.attribution import Attribution as kind
    else:
        kind = type(getattr(build.experiment(*compose.compose(option.get(group, []))), group))
    names = [f.name for f in fields(kind)]
    assert name in names
    assert old.partition(".")[2] not in names


def test_a_saved_config_with_old_keys_is_read_and_stays_as_it_was():
    config, choices = compose.compose(["finetune.epochs=3"])
    saved = copy.deepcopy(config)
    for old, new in (("horizon", "schedule_length"), ("piece", "micro_batch_size")):
        saved["finetune"][old] = saved["finetune"].pop(new)
    saved["finetune"]["horizon"] = 9
    before = copy.deepcopy(saved)
    assert build.experiment(saved, choices).finetune.schedule_length == 9
    assert saved == before


def test_a_run_saved_with_old_keys_runs_again(tmp_path):
    folder = tmp_path / ".hydra"
    folder.mkdir()
    config, _ = compose.compose(["finetune.schedule_length=20", "finetune.epochs=3"])
    config["finetune"]["horizon"] = config["finetune"].pop("schedule_length")
    from omegaconf import OmegaConf

    OmegaConf.save(config, folder / "config.yaml")
    OmegaConf.save(["finetune.horizon=20", "finetune.epochs=3"], folder / "overrides.yaml")
    OmegaConf.save({}, folder / "hydra.yaml")
    words = rerun.again(["--config-path", str(folder), "--config-name", "config"])
    assert words == ["finetune.schedule_length=20", "finetune.epochs=3"]


@pytest.mark.parametrize("name", ["learns", "keeps", "after"])
def test_a_part_that_defines_an_old_member_is_refused_with_the_new_name(
    tmp_path, monkeypatch, name
):
    (tmp_path / f"own_{name}.py").write_text(
        textwrap.dedent(f"""
        from dataclasses import dataclass

        from sft_exp.core.pretrainer import Pretrainer


        @dataclass
        class Own(Pretrainer):
            def {name}(self):
                return None
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=f"defines `{name}`, which is `{moved.MEMBERS[name]}`"):
        build.part(
            {"_target_": f"own_{name}.Own"}, "pretrainer", "sft_exp.core.pretrainer.Pretrainer"
        )


@pytest.mark.parametrize("path", ["sft_exp.experiment.Target", "sft_exp.config.schema.Target"])
def test_classes_of_earlier_versions_are_found(path):
    assert build.locate(path) is OptimizerConfig


@pytest.mark.parametrize("path", [p for p in moved.MOVED if p.rpartition(".")[2][:1].isupper()])
def test_every_class_that_moved_is_where_the_table_says(path):
    assert isinstance(build.locate(path), type)


def test_a_saved_part_has_the_values_of_its_time_for_fields_that_it_lacks():
    for path, values in moved.ABSENT.items():
        saved = {"is": path, "width": 8}
        part = model.rebuild(saved)
        assert {name: getattr(part, name) for name in values} == values
        assert model.rebuild({**saved, **dict.fromkeys(values)}) == type(part)(width=8)


def test_a_saved_config_lacks_new_keys_only_where_they_have_the_former_behaviour():
    saved = {"seed": 1, "augment": {"flip": 0.5}, "task": {"views": {"flip": 0.5}}}
    views = {"flip": 0.5, "transforms": []}
    present = {"seed": 2, "score": "auto", "augment": views, "task": {"views": views}, "new": 1}
    filled = {"seed": 1, "score": "auto", "augment": views, "task": {"views": views}}
    assert moved.completed(saved, present) == filled
    other = {"score": "accuracy", "augment": {"flip": 0.5, "transforms": ["x"]}}
    assert moved.completed(saved, other) == saved
