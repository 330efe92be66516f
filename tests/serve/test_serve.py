"""The prediction server answers images with classes and refuses everything else."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sft_exp.core.types import Spec
from sft_exp.predict import inference
from sft_exp.predict.files import of_more_bits
from sft_exp.predict.inference import Predictor
from sft_exp.serve import __main__ as serve_command
from sft_exp.serve import app

pytest.importorskip("fastapi", reason="the extra serve is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")

CLASSES = ("dark", "bright <b>")
MOST = 100_000
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=8000", "--dump-dom",
)  # fmt: skip
DROP = """<script>
addEventListener("load", () => {
  const bytes = Uint8Array.from(atob("CONTENT"), c => c.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], "image.png", {type: "image/png"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
});
</script>"""


def by_brightness(x_BCHW):
    assert x_BCHW.dtype == torch.uint8
    bright = (x_BCHW.float().mean((1, 2, 3)) / 255 - 0.5) * 10
    return torch.stack([-bright, bright], 1)


def png(value, size=9):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size), value, dtype=np.uint8)).save(buffer, format="png")
    return buffer.getvalue()


@contextmanager
def running(app):
    """A server on a free port of this machine."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def service(classes=CLASSES):
    model = Predictor(Spec((1, 8, 8), classes), True, by_brightness)
    return app.app(model, MOST, "127.0.0.1", pixels=2000)


@pytest.fixture(scope="module")
def ask():
    """(method, path, body, headers) -> (status, content)."""
    with running(service()) as port:

        def asked(method, path, body=None, headers=None):
            connection = HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = answer.status, answer.read().decode()
            connection.close()
            return found

        yield asked


@pytest.mark.parametrize(("value", "expected"), [(0, "dark"), (255, "bright <b>")])
def test_an_image_has_a_class_and_probabilities(ask, value, expected):
    status, content = ask("POST", "/predict", png(value))
    found = json.loads(content)
    assert (status, found["class"]) == (200, expected)
    assert next(iter(found["probabilities"])) == expected, "the likeliest first"
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("levels", [None, (0, 4095)])
def test_an_image_of_more_bits_than_were_learnt_is_said(levels):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 64).save(buffer, format="png")
    model = Predictor(Spec((1, 8, 8), CLASSES, levels=levels), True, by_brightness)
    warning = app.answer(model, buffer.getvalue()).get("warning", "")
    assert warning == ("" if levels else of_more_bits(1, 1))
    assert "warning" not in app.answer(model, png(0))


@pytest.mark.parametrize("body", [b"", b"no image", png(3)[:40]])
def test_what_is_no_image_is_said(ask, body):
    status, content = ask("POST", "/predict", body)
    assert status == 422
    assert re.search("is empty|is no image|cannot be decoded", json.loads(content)["error"])


def test_too_large_a_file_is_refused(ask):
    status, content = ask("POST", "/predict", bytes(MOST + 1))
    assert (status, json.loads(content)["error"]) == (413, "larger than 0.1 MB")
    assert ask("POST", "/predict", png(0))[0] == 200, "and the server goes on"


def test_a_stream_without_a_length_is_measured_too(ask):
    assert ask("POST", "/predict", iter([bytes(40_000)] * 3))[0] == 413


def test_too_many_pixels_are_refused(ask):
    status, content = ask("POST", "/predict", png(0, size=50))
    assert status == 422
    assert "pixels" in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": "image/png"}, 200),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 200),  # curl --data-binary
    ],
)
def test_who_may_ask_and_with_what(ask, headers, status):
    assert ask("POST", "/predict", png(0), headers)[0] == status


def test_a_client_that_is_slow_is_let_go(ask, monkeypatch):
    monkeypatch.setattr(app, "SLOW", 0.2)

    def slowly():
        yield bytes(10)
        time.sleep(0.6)
        yield bytes(10)

    assert ask("POST", "/predict", slowly())[0] == 408


def test_a_full_queue_says_come_back(monkeypatch):
    monkeypatch.setattr(app, "WAITING", 1)
    monkeypatch.setattr(app, "answer", lambda *_: time.sleep(0.5) or {})
    statuses = []
    with running(service()) as port:

        def post():
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/predict", png(0))
            statuses.append(connection.getresponse().status)
            connection.close()

        clients = [threading.Thread(target=post) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert sorted(set(statuses)) == [200, 503]


def test_a_page_elsewhere_cannot_use_a_name_of_its_own(ask):
    """DNS rebinding: the address leads here, the name is the attacker's."""
    assert ask("GET", "/about", headers={"Host": "evil.example"})[0] == 400
    assert ask("GET", "/about", headers={"Host": "localhost:1"})[0] == 200


def test_it_listens_to_this_machine_alone_unless_told(monkeypatch, capsys):
    heard = {}
    monkeypatch.setattr(serve_command, "available", lambda host, port: port)
    monkeypatch.setattr(serve_command, "model_of", lambda path: None)
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: heard.update(options))
    assert serve_command.main(["run=x"]) == 0
    assert heard["host"] == "127.0.0.1"
    assert serve_command.main(["run=x", "host=10.0.0.7", "port=9000"]) == 0
    assert (heard["host"], heard["port"]) == ("10.0.0.7", 9000)
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == [
        "http://127.0.0.1:8000/",
        "http://10.0.0.7:9000/",
    ]


def test_the_address_is_said_also_of_any_free_port(monkeypatch, capsys):
    heard = {}
    monkeypatch.setattr(serve_command, "model_of", lambda path: None)
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: heard.update(options))
    assert serve_command.main(["run=x", "port=0"]) == 0
    assert heard["port"] > 0
    assert f"Serving at http://127.0.0.1:{heard['port']}/" in capsys.readouterr().out


def test_a_port_that_is_taken_is_a_matter_of_configuration(capsys):
    """It ended with code 3, which is that of data, and without the key."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert serve_command.main(["run=gone", f"port={port}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"sft_exp serve: port={port}: cannot be listened on at 127.0.0.1")
    assert serve_command.main(["run=gone", "host=no.such.host.invalid"]) == 2
    assert "host=no.such.host.invalid" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["model.onnx", "", "run"])
def test_a_graph_is_found_where_predict_finds_it(monkeypatch, place):
    Path("run/export").mkdir(parents=True)
    Path("run/export/model.onnx").touch()
    monkeypatch.setattr(inference, "from_graph", lambda file: file)
    asked = Path("run") if place == "run" else Path("run/export", place)
    assert app.model_of(asked) == Path("run/export/model.onnx")


def test_a_run_that_is_not_there_is_said_in_one_line(capsys):
    assert serve_command.main(["run=gone"]) == 3
    assert capsys.readouterr().err.startswith("sft_exp serve: gone: no such folder")


def dropped(classes, content, folder):
    """What a real browser shows, as HTML, after this was dropped on the page."""
    from fastapi.responses import HTMLResponse

    app = service(classes)
    script = DROP.replace("CONTENT", base64.b64encode(content).decode())
    app.add_api_route(
        "/test", lambda: HTMLResponse(app.PAGE.read_text().replace("</body>", f"{script}</body>"))
    )
    with running(app) as port:
        browser = subprocess.run(
            [
                CHROMIUM,
                *FLAGS,
                f"--user-data-dir={folder}/profile",
                f"http://127.0.0.1:{port}/test",
            ],
            capture_output=True,
            text=True,
            timeout=240,
        )
    return browser.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize(
    ("content", "expected"),
    [(png(255), "bright &lt;b&gt;"), (b"no image", "This file is no image")],
)
def test_the_page_shows_the_class_of_a_dropped_image(content, expected, tmp_path):
    """A class's name is text, and no part of the page; what is no image is not shown as a broken one."""
    page = dropped(CLASSES, content, tmp_path)
    (shown,) = re.findall(r'<div id="class"[^>]*>(.*?)</div>', page)
    (image,) = re.findall(r'<img id="shown"[^>]*>', page)
    assert shown.startswith(expected)
    assert ("<meter" in page) == ("hidden" not in image) == (expected[0] == "b")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_the_page_puts_the_likeliest_first(tmp_path):
    """Also where classes are numbers, whose order in a JavaScript object is their own."""
    names = re.findall(r"<tr><td>(.*?)</td>", dropped(("0", "1"), png(255), tmp_path))
    assert names == ["1", "0"]
