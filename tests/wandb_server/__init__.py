"""A small stand-in for the W&B backend, on loopback, for tests with the REAL wandb client.

    with FakeWandb(tmp_path) as srv:
        subprocess.run([...], env={**os.environ, **srv.env()}, check=True)
        state = srv.state()                         # everything received, as plain dicts

It needs the standard library alone, and for `wandb sweep` PyYAML, which comes with wandb.

What it speaks (found out by running wandb 0.31.0 against it):
  POST /graphql                                      GraphQL, by a real little parser/executor
  POST /files/{entity}/{project}/{run}/file_stream   history, summary, system metrics, console
  PUT/GET /__storage__/{blob}                        run files and artifact files
  GET  /artifactsV2/... , /artifacts/...             artifact downloads by digest
  POST /sdk/otel/...                                 the SDK's usage telemetry: counted, thrown away
  GET  /__fake__/state , POST /__fake__/fault|stop|reset   for the test itself

It never leaves 127.0.0.1 and never stores an API key.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from wandb_server.http import Server
from wandb_server.records import strict

# the shape the client accepts for a self-hosted server; a dummy, not a secret
API_KEY = "local-" + "0" * 40


def client_env(base_url: str, entity: str | None = None, api_key: str = API_KEY) -> dict[str, str]:
    env = {
        "WANDB_BASE_URL": base_url,
        "WANDB_API_KEY": api_key,
        "WANDB_MODE": "online",
        "WANDB_ERROR_REPORTING": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    if entity:
        env["WANDB_ENTITY"] = entity
    return env


class FakeWandb(contextlib.AbstractContextManager):
    """In-process server for tests."""

    def __init__(
        self,
        where: str | os.PathLike,
        entity: str = "fake-team",
        api_key: str | None = None,
        port: int = 0,
    ):
        self.where = Path(where)
        self.where.mkdir(parents=True, exist_ok=True)
        self.server = Server(port, self.where / "blobs", self.where / "state.json", entity, api_key)
        self.entity = entity
        self.key = api_key or API_KEY

    @property
    def base_url(self) -> str:
        return self.server.base_url

    def __enter__(self) -> FakeWandb:
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.thread.start()
        return self

    def __exit__(self, *a) -> None:
        self.server.close()
        self.thread.join(5)

    def env(self) -> dict[str, str]:
        return client_env(self.base_url, None, self.key)

    def state(self) -> dict:
        return json.loads(json.dumps(strict(self.server.store.dump()), default=str))

    def fault(self, match: str, **kw: Any) -> None:
        with self.server.store.lock:
            self.server.store.faults.append({"match": match, "times": 1, **kw})

    def stop(self, run_id: str) -> None:
        """Press the dashboard's "Stop run"."""
        with self.server.store.lock:
            for run in self.server.store.runs.values():
                run["stop_requested"] |= run["run_id"] == run_id
