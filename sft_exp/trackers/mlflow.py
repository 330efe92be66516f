"""MLflow tracker: runs in a tracking server, or in the file store `outputs/mlruns`.

The tag `sft_exp.folder` identifies a run. A resumed training logs all its metrics again; those that
the run has already are skipped.
"""

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sft_exp.config.dotted import leaves
from sft_exp.core.tracker import About, Artifact, Run, Tracker
from sft_exp.errors import StorageError, first_line
from sft_exp.progress import console
from sft_exp.store import atomic_io

FOLDER = "sft_exp.folder"  # tag with the name of the store folder
SECONDS = 5.0  # between two batches of metrics
MOST_METRICS, MOST_PARAMS = 1_000, 100  # maximum numbers in one call
LONGEST_PARAM, LONGEST_TAG = 6_000, 5_000  # characters
ILLEGAL = re.compile(r"[^\w\-. /:]")  # characters that are not allowed in names of metrics


@dataclass
class Mlflow(Tracker):
    uri: str | None = None  # of the tracking server; null: MLFLOW_TRACKING_URI, or the file store
    experiment: str = "sft_exp"  # MLflow experiment of the runs
    # folder of the file store mlruns/; null: the sweep's folder, or outputs
    dir: str | None = None
    images: bool = True  # upload pictures; false keeps private images out
    models: bool = False  # upload the weights of finished runs too

    def open(self, about: About, stop: Callable[[], None]) -> Run:
        # A server that does not answer must not delay the training by MLflow's seven retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (Path(self.dir or "outputs") / "mlruns").absolute().as_uri()
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            tell(f'{error}; pip install "sft_exp[mlflow]"')
            return Run()
        try:
            return Mirror(MlflowClient(tracking_uri=uri), uri, about, self)
        except Exception as error:  # noqa: BLE001 - no error of MLflow may stop the experiment
            tell(f"{first_line(error)}; going on without it, metrics are in the store")
            return Run()


class Mirror(Run):
    """An MLflow run that is abandoned at its first failure."""

    def __init__(self, client: Any, uri: str, about: About, tracker: Mlflow):
        self.client, self.about, self.tracker = client, about, tracker
        self.steps: dict[str, set[int]] = {}  # metric -> steps that the run has already
        self.waiting: list[Any] = []
        self.sent = time.monotonic()
        experiment = client.get_experiment_by_name(tracker.experiment)
        identity = (
            experiment.experiment_id if experiment else client.create_experiment(tracker.experiment)
        )
        existing = client.search_runs([identity], f"tags.`{FOLDER}` = '{about.folder.name}'")
        tags = {FOLDER: about.folder.name, "sft_exp.kind": about.kind}
        tags |= {tag.partition(":")[0]: tag.partition(":")[2] or "true" for tag in about.tags}
        if existing:
            run = existing[0]
            client.update_run(run.info.run_id, status="RUNNING", name=about.name)
        else:
            run = client.create_run(identity, run_name=about.name, tags=tags)
        self.id, self.latest = run.info.run_id, dict(run.data.metrics)
        self.params(set(run.data.params))
        self.where = f"{uri.rstrip('/')}/#/experiments/{identity}/runs/{self.id}"

    def params(self, known: set[str]) -> None:
        """Log the configuration. MLflow keeps first values, so `known` parameters are not sent."""
        from mlflow.entities import Param

        values = {legal(k): str(v)[:LONGEST_PARAM] for k, v in leaves(self.about.config).items()}
        new = [Param(k, v) for k, v in values.items() if k not in known]
        for start in range(0, len(new), MOST_PARAMS):
            self.client.log_batch(self.id, params=new[start : start + MOST_PARAMS])

    def log(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            self.add(name if "/" in name else f"{self.about.kind}/{name}", value, row["step"])
        if len(self.waiting) >= MOST_METRICS or time.monotonic() - self.sent > SECONDS:
            self.flush()

    def add(self, name: str, value: Any, step: int) -> None:
        """Queue a metric of a step, unless the run has it."""
        from mlflow.entities import Metric

        key = legal(name)
        if not isinstance(value, Real) or not isfinite(value):
            return
        steps = self.known(key)
        if step not in steps:
            if step > max(steps, default=-1):
                self.latest[key] = float(value)
            steps.add(step)
            self.waiting.append(Metric(key, float(value), int(time.time() * 1000), step))

    def known(self, key: str) -> set[int]:
        if key not in self.steps:
            stored = self.call("get_metric_history", key) if key in self.latest else None
            self.steps[key] = {metric.step for metric in stored or ()}
        return self.steps[key]

    def flush(self) -> None:
        self.sent = time.monotonic()
        while self.waiting:
            batch, self.waiting = self.waiting[:MOST_METRICS], self.waiting[MOST_METRICS:]
            self.call("log_batch", metrics=batch)

    def summary(self, values: dict[str, Any]) -> None:
        """Log numbers as metrics, one step after a curve of that name; other values as tags."""
        for name, value in values.items():
            key = legal(name)
            if isinstance(value, Real):
                if self.latest.get(key) != value:
                    self.add(name, value, max(self.known(key), default=-1) + 1)
            else:
                self.call("set_tag", key, str(value)[:LONGEST_TAG])
        self.flush()

    def pictures(self, pngs: dict[str, bytes]) -> None:
        if self.tracker.images:
            self.upload("pictures", {f"{title}.png": png for title, png in pngs.items()})

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self.call("log_dict", columns, f"{legal(title)}.json")

    def upload(self, place: str, files: dict[str, bytes]) -> None:
        """Upload files into a folder of the run's artifacts."""
        with suppress(StorageError), TemporaryDirectory() as scratch:
            for name, content in files.items():
                file = Path(scratch) / name
                atomic_io.write(file, content)
                self.call("log_artifact", str(file), place)

    def weights(self, artifact: Artifact) -> None:
        for name in artifact.files:
            self.call("log_artifact", str(artifact.folder / name), artifact.name)

    def finish(self, code: int = 0) -> None:
        self.flush()
        if code == 0 and self.tracker.models:
            for artifact in self.about.makes:
                self.weights(artifact)
        self.call("set_terminated", "FINISHED" if code == 0 else "FAILED")
        self.client = None

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the client's method for this run; None once a call has failed, without calling."""
        if self.client is None:
            return None
        try:
            return getattr(self.client, method)(self.id, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a dead server must not stop the training
            self.client = None
            tell(f"stopped ({first_line(error)}); metrics are in the store")
            return None


def legal(name: str) -> str:
    """The name with `_` for characters that MLflow rejects."""
    return ILLEGAL.sub("_", name)


def tell(text: str) -> None:
    console.message(f"tracker=mlflow: {text}")
