"""Every local tracker, read back by its own library: complete, also after a kill, and combined."""

import csv
import json
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from faults import cli, ended, find, fork, run

from sft_exp.config.compose import compose, typed
from sft_exp.errors import ConfigError
from sft_exp.runs import run_metadata
from sft_exp.store import results
from sft_exp.training import metrics_log

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LITTLE = (
    "encoder.hidden=[8]", "pretrain.steps=12", "finetune.steps=12", "draws=2", "seeds=1",
    "labels=3", "val=holdout", "controls=[scratch]", "report=false",
)  # fmt: skip
NAMES = {"csv": "", "tensorboard": "tensorboard", "mlflow": "mlflow"}  # and the library it needs
available = [name for name, library in NAMES.items() if not library or find_spec(library)]
each = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(name not in available, reason=f"{library} is not installed"),
        )
        for name, library in NAMES.items()
    ],
)


def experiment(*overrides, code=0):
    ended_with, said = run(cli, *LITTLE, *overrides)
    assert ended_with == code, said
    return said


class Shown:
    """What a tracker has of one run: curves, the numbers of the summary, and the names of pictures."""

    def __init__(self, curves, summary, pictures):
        self.curves, self.summary, self.pictures = curves, summary, pictures


def by_csv(folder):
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    names = [name for name in rows[0] if name != "step"]
    curves = {n: [(int(r["step"]), float(r[n])) for r in rows if r[n] != ""] for n in names}
    summary = folder / "summary.csv"
    lines = csv.DictReader(summary.read_text().splitlines()) if summary.exists() else []
    pictures = [file.stem for file in folder.glob("pictures/*.png")]
    return Shown(curves, {r["name"]: number(r["value"]) for r in lines}, pictures)


def by_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    kind, tags = folder.name.partition("-")[0], events.Tags()
    curves = {
        tag.removeprefix(f"{kind}/"): [(s.step, s.value) for s in events.Scalars(tag)]
        for tag in tags["scalars"]
    }
    last = {tag: events.Scalars(tag)[-1].value for tag in tags["scalars"]}
    return Shown(curves, last, tags["images"])


def by_mlflow(folder):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=folder.parent.absolute().as_uri())
    (kept,) = client.search_runs(
        [e.experiment_id for e in client.search_experiments()],
        f"tags.`sft_exp.folder` = '{folder.name}'",
    )
    kind, identity = folder.name.partition("-")[0], kept.info.run_id
    assert kept.info.status == "FINISHED"
    curves = {
        key.removeprefix(f"{kind}/"): [
            (m.step, m.value)
            for m in sorted(client.get_metric_history(identity, key), key=lambda m: m.step)
        ]
        for key in kept.data.metrics
    }
    pictures = [Path(f.path).stem for f in client.list_artifacts(identity, "pictures")]
    words = {k: v for k, v in kept.data.tags.items() if not k.startswith("mlflow.")}
    return Shown(curves, {**words, **kept.data.metrics}, pictures)


READERS = {"csv": by_csv, "tensorboard": by_tensorboard, "mlflow": by_mlflow}
PLACES = {"csv": "outputs/csv", "tensorboard": "outputs/tensorboard", "mlflow": "outputs/mlruns"}


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


def shown(name, folder, monkeypatch):
    """What the tracker has of the run of a store folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return READERS[name](Path(PLACES[name]) / folder.name)


def complete(name, monkeypatch):
    """Both runs of the latest job are there: every row of the record once, and every number of results.json."""
    result = results.read(Path("outputs/latest"))
    folders = [Path(s.folder) for s in (result.stages.pretrain, result.stages.finetune)]
    for folder in folders:
        found = shown(name, folder, monkeypatch)
        record = metrics_log.read_with_monitors(folder)
        for key in {key for row in record for key in row} - {"step"}:
            wanted = [
                (row["step"], pytest.approx(row[key], rel=1e-6)) for row in record if key in row
            ]
            assert found.curves[key][: len(wanted)] == wanted, (folder.name, key)
    summary = run_metadata.summary(result, "")
    numbers = {k: v for k, v in summary.items() if isinstance(v, float | int)}
    assert len(numbers) > 15
    missing = {k: (found.summary.get(k), v) for k, v in numbers.items() if not close(found, k, v)}
    assert missing == {}
    return [shown(name, folder, monkeypatch) for folder in folders]


def close(found, key, value):
    return found.summary.get(key) in (pytest.approx(float(value), rel=1e-6), str(value))


@each
def test_its_own_library_reads_back_the_record_and_the_results(name, monkeypatch):
    experiment(f"tracker={name}")
    pretrained, tuned = complete(name, monkeypatch)
    assert {"monitor/probe", "monitor/knn"} <= pretrained.curves.keys()
    assert any("reconstruction" in title for title in pretrained.pictures)
    assert "val/accuracy" in tuned.curves, "the first split's validation over the epochs"


@each
@pytest.mark.slow
def test_after_a_kill_it_is_one_whole_run(name, monkeypatch):
    one = (f"tracker={name}", "finetune.steps=1000", "draws=1", "val=none", "controls=false")
    long, end = (*LITTLE, *one, "hardware.checkpoint_seconds=0"), time.monotonic() + 100
    process = fork(cli, Path("said"), None, None, *long)
    while not find("outputs/store/work/*/finetune-*/checkpoint.pt"):
        assert process.is_alive(), Path("said").read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    experiment(*one)
    complete(name, monkeypatch)


@each
def test_pictures_stay_at_home_while_numbers_go(name, monkeypatch):
    experiment(f"tracker={name}", "tracker.images=false", "controls=false", "draws=1", "val=none")
    result = results.read(Path("outputs/latest"))
    found = shown(name, Path(result.stages.pretrain.folder), monkeypatch)
    assert found.curves["loss"]
    assert found.pictures == []


def test_several_show_the_same(monkeypatch):
    """One after the other, from one record; the summary of each is the results."""
    said = experiment(f"tracker=[{','.join(available)}]", "tracker.trackers.csv.images=false")
    assert "Traceback" not in said
    for name in available:
        pretrained, _ = complete(name, monkeypatch)
        assert bool(pretrained.pictures) == (name != "csv"), "a key of one is not the others'"
    assert (
        json.loads(Path("outputs/latest/results.json").read_text())["choices"]["tracker"]
        == "several"
    )


def test_tables_say_what_results_and_predictions_say():
    experiment("tracker=csv")
    result = results.read(Path("outputs/latest"))
    folder = Path("outputs/csv") / Path(result.stages.finetune.folder).name

    def table(title):
        return list(csv.DictReader((folder / f"{title}.csv").read_text().splitlines()))

    rows = [(row["arm"], int(row["split"]), float(row["accuracy"])) for row in table("splits")]
    assert rows == [(arm, n, a) for arm, of in result.draws.items() for n, a in enumerate(of)]
    told = table("predictions")
    assert len(told) == result.data.test
    correct = sum(row["true"] == row["predicted"] for row in told)
    assert correct / len(told) == pytest.approx(result.draws["pretrained"][0])
    assert all(0 <= float(row["confidence"]) <= 1 for row in told)


def test_a_tracker_that_comes_later_gets_the_whole_record(monkeypatch):
    experiment("tracker=csv")
    experiment(f"tracker=[{','.join(available)}]")
    for name in available:
        complete(name, monkeypatch)


@pytest.mark.skipif("mlflow" not in available, reason="mlflow is not installed")
@pytest.mark.slow
def test_a_server_that_does_not_answer_stops_nobody():
    said = experiment("tracker=mlflow", "tracker.uri=http://127.0.0.1:9")
    assert said.count("tracker=mlflow:") >= 1
    assert "going on without it" in said
    assert results.read(Path("outputs/latest")).tested > 0


def test_a_sweep_keeps_its_trackers_together():
    from sft_exp.sweep.sweeps import grouped

    made = compose(["tracker=[wandb,csv]"])[0]["tracker"]
    parts = grouped(made, Path("outputs/multirun/a"))["trackers"]
    assert (parts["wandb"]["group"], parts["wandb"]["dir"]) == ("a", "outputs/multirun/a")
    assert parts["csv"]["dir"] == "outputs/multirun/a"
    assert "group" not in parts["csv"]


def test_a_list_is_of_names(monkeypatch):
    assert typed(["tracker=[csv]", "seed=1"]) == [
        "tracker=several",
        "+tracker@tracker.trackers.csv=csv",
        "seed=1",
    ]
    made, choices = compose(["tracker=[wandb, csv]", "tracker.trackers.wandb.project=mine"])
    assert choices["tracker"] == "several"
    assert list(made["tracker"]["trackers"]) == ["wandb", "csv"]
    assert made["tracker"]["trackers"]["wandb"]["project"] == "mine"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[wandb,cvs]", "'cvs' is no tracker; did you mean csv?"),
        ("[several]", "'several' is no tracker"),
        ("[csv,csv]", "names a tracker twice"),
        ("[]", "'' is no tracker"),
    ],
)
def test_a_list_that_cannot_be_is_refused(value, said):
    with pytest.raises(ConfigError) as refused:
        typed([f"tracker={value}"])
    assert said in str(refused.value)
