"""`serve` and the labelling server under a hostile client: bounded memory, no output."""

import base64
import importlib.util
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from hostile_client import DEEP, ask, attack, bomb
from PIL import Image

import sft_exp
from sft_exp.label import sheet
from sft_exp.label.desk import Desk
from sft_exp.label.sheet import Sheet

GIGABYTE = 1_000_000_000
SERVE = """
import sys, torch, uvicorn
from sft_exp.core.types import Spec
from sft_exp.predict.inference import Predictor
from sft_exp.serve import app
model = Predictor(Spec((3, 64, 64), ("a", "b")), True, lambda x: torch.zeros(len(x), 2))
service = app.app(model, 10_000_000, "127.0.0.1")
server = uvicorn.Server(uvicorn.Config(service, host="127.0.0.1", port=0, log_level="warning"))
class Told(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)
Told(server.config).run()
"""
LABEL = """
import sys
from pathlib import Path
from sft_exp.label.desk import Desk
with Desk(Path(sys.argv[1]), 0) as desk:
    print(desk.server_port, flush=True)
    desk.serve_forever()
"""
needs_uvicorn = pytest.mark.skipif(
    not importlib.util.find_spec("uvicorn") or not importlib.util.find_spec("fastapi"),
    reason="the extra serve is not installed",
)


@pytest.fixture
def folder(tmp_path):
    """A sheet of one image."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 9).save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    sheet.write(tmp_path / "sheet", Sheet("labels", ["file", "label"], ["a"], ["x.png"]), [uri])
    return tmp_path / "sheet"


class Watched:
    """A server in a process of its own, with the most memory that it has held."""

    def __init__(self, program, *arguments):
        package = Path(sft_exp.__file__).parents[1]
        paths = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port, self.most = int(self.process.stdout.readline()), 0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        process = psutil.Process(self.process.pid)
        try:
            while True:
                self.most = max(self.most, process.memory_info().rss)
                time.sleep(0.02)
        except psutil.Error:
            return

    def stop(self):
        """What it printed on stderr."""
        self.process.terminate()
        _, told = self.process.communicate(timeout=60)
        return told


seconds = pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])


@needs_uvicorn
@seconds
@pytest.mark.timeout(300)
def test_serve_survives_a_hostile_client(seconds):
    server = Watched(SERVE)
    try:
        statuses = attack(server.port, "/predict", seconds, threads=6 if seconds < 10 else 16)
        while (status := ask(server.port, "POST", "/predict", bomb())[0]) == 503:
            time.sleep(0.2)
        assert status == 200, "answers continue"
    finally:
        told = server.stop()
    assert server.most < GIGABYTE
    print(f"{server.most / 1e6:.0f} MB, {statuses}")
    assert "Traceback" not in told
    # 503: a queue that is full; all other statuses are those of the fault.
    expected = {
        "bomb": {200, 503},
        "larger bomb": {422, 503},
        "sixteen bits": {200, 503},
        "see-through": {200, 503},
        "noise": {422, 503},
        "cut off": {422, 503},
        "empty": {422, 503},
        "nested": {415},
        "other page": {403},
        "sandboxed page": {403},
        "other name": {400},
        "form": {415},
        "text": {415},
    }
    assert all(set(statuses[name]) <= valid for name, valid in expected.items()), statuses


@seconds
@pytest.mark.timeout(300)
def test_the_label_server_survives_a_hostile_client(folder, seconds):
    server = Watched(LABEL, folder)
    try:
        statuses = attack(server.port, "/answers", seconds)
        headers = {"Content-Type": "application/json"}
        assert ask(server.port, "POST", "/answers", b'{"x.png": "a"}', headers)[0] == 200
    finally:
        told = server.stop()
    assert server.most < GIGABYTE
    assert "Traceback" not in told
    hung_up = {"RemoteDisconnected", "ConnectionResetError", "BrokenPipeError"}
    expected = {"nested": {400}, "other page": {403}, "other name": {403}, "text": {400}}
    expected |= {"sandboxed page": {403}, "form": {400}, "bomb": {400}}
    for name, valid in expected.items():
        assert set(statuses[name]) <= valid | hung_up, (name, statuses)
    assert (folder / "labels.csv").read_text() == "file,label\nx.png,a\n"


@pytest.fixture
def desk(folder):
    with Desk(folder, 0) as desk:
        threading.Thread(target=desk.serve_forever, daemon=True).start()
        yield desk.server_port
        desk.shutdown()


@pytest.mark.parametrize("body", [DEEP, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"[[[[1]]]]"])
def test_nested_json_is_answered(desk, body):
    headers = {"Content-Type": "application/json"}
    assert ask(desk, "POST", "/answers", body, headers)[0] == 400
    assert ask(desk, "POST", "/answers", b'{"x.png": "a"}', headers)[0] == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("null", 403),
        ("https://127.0.0.1:{port}", 403),
        ("http://127.0.0.1:1", 403),
        ("http://127.0.0.1:{port}", 200),
    ],
)
def test_another_sites_page_is_refused(desk, origin, status):
    headers = {"Content-Type": "application/json", "Origin": origin.format(port=desk)}
    assert ask(desk, "POST", "/answers", b'{"x.png": "a"}', headers)[0] == status
