"""Exit codes and status.json after failures; the same command works once the cause is removed."""

import json
import resource
from pathlib import Path

import pytest
from faults import TINY, Fault, cli, contents, leftovers, memory, run

from sft_exp import errors

STORE = Path("outputs/store")
COMMAND = (*TINY, "hydra.run.dir=run", "val=none")


@pytest.fixture(autouse=True)
def in_memory(isolated, monkeypatch):
    with memory() as folder:
        monkeypatch.chdir(folder)
        yield folder


def status():
    found = json.loads(Path("run/status.json").read_text())
    return found["state"], found["exit_code"]


def without_report():
    """A child that draws no pictures: they take most of a small run's time."""
    from sft_exp.reports import report

    report.write = lambda *_, **__: {}


def ends(code, *overrides, prepare=without_report, fault=None):
    left, said = run(cli, *COMMAND, *overrides, prepare=prepare, fault=fault)
    assert left == code, said
    return said


def test_each_kind_of_failure_has_a_code_of_its_own():
    kinds = [errors.Failure, *errors.Failure.__subclasses__()]
    assert {k.__name__: k.code for k in kinds if k.__module__ == errors.__name__} == {
        "Failure": 1,
        "ConfigError": 2,
        "DataError": 3,
        "NonFiniteError": 4,
        "StorageError": 5,
        "DeviceMemoryError": 5,
        "ToleranceError": 7,
        "LostRank": 8,
        "Interrupted": 75,
    }


@pytest.mark.parametrize("strategy", ["full", "linear"])
def test_a_diverging_fine_tuning_ends_with_4_and_goes_no_further(strategy):
    said = ends(4, "optim=sgd", "optim.lr=3e38", f"strategy={strategy}")
    assert "fine-tune draw 0: " in said
    assert "step " in said
    assert "checkpoint" in said
    assert "Traceback" not in said
    assert status() == ("failed", 4)
    before = {"data", "pretrain", "features"} if strategy == "linear" else {"data", "pretrain"}
    assert {name.partition("-")[0] for name in contents(STORE)} == before

    ends(0, "optim=sgd", f"strategy={strategy}")
    assert status() == ("done", 0)


def test_a_diverging_pretraining_names_the_last_good_checkpoint():
    """The loss explodes at the second step, so the first step's numbers are the last that were kept."""
    said = ends(4, "pretrain_optim=sgd", "pretrain_optim.lr=1e10")
    (checkpoint,) = STORE.glob("work/*/pretrain-*/checkpoint.pt")
    assert "\nsft_exp: pretrain VAE: loss is " in said
    assert " at step 1, " in said
    assert (
        f"the last good checkpoint, {checkpoint}, is of step 1. Try a smaller learning rate."
        in said
    )


def test_numbers_that_the_last_update_spoiled_are_not_published():
    said = ends(4, "pretrain_optim=sgd", "pretrain_optim.lr=1e39", "pretrain.steps=1")
    assert "is not finite after step 1" in said
    assert not list(STORE.glob("pretrain-*"))


def limit_files():
    without_report()
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))


def test_a_full_disk_ends_with_5_and_the_rerun_with_the_right_result():
    """Files cannot grow beyond 12 kB: the weights do not fit, status.json does."""
    said = ends(5, "encoder.hidden=[64]", prepare=limit_files)
    assert "File too large" in said
    assert "bytes needed" in said
    assert "free" in said
    assert "Traceback" not in said
    assert status() == ("failed", 5)

    ends(0, "encoder.hidden=[64]")
    found = contents(STORE)
    assert status() == ("done", 0)
    assert not leftovers(STORE)
    ends(0, "encoder.hidden=[64]", "store=elsewhere")
    assert contents(Path("elsewhere")) == found


@pytest.mark.parametrize(
    "at", [12, 50, 0, 91]
)  # writes and renames; a folder that is there needs no space
@pytest.mark.sampled(2)
def test_no_space_at_any_change_on_disk_ends_with_5(at):
    said = ends(5, fault=Fault(at, "full"))
    assert "No space left on device" in said
    assert "Traceback" not in said
    ends(0)


def test_a_store_that_cannot_be_written_ends_with_5():
    Path("file").write_text("")
    said = ends(5, "store=file")
    assert "file" in said
    assert "Not a directory" in said
    assert status() == ("failed", 5)


def break_evaluation():
    without_report()
    from sft_exp.stages import evaluate

    evaluate.splits = None


def test_a_bug_ends_with_1_and_its_traceback():
    said = ends(1, prepare=break_evaluation)
    assert "Traceback" in said
    assert "a bug, please report it: AttributeError" in said
    assert status() == ("failed", 1)
    ends(0)
    assert status() == ("done", 0)


def interrupt_preparation():
    from sft_exp.jobs import prepare

    def interrupted(_):
        raise KeyboardInterrupt

    prepare.prepare = interrupted


def test_an_interrupt_before_the_run_is_quiet():
    said = ends(130, prepare=interrupt_preparation)
    assert "Traceback" not in said
    assert not list(Path().iterdir())
