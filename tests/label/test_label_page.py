"""Labelling by keyboard in a real browser, and the files on disk whenever the server is killed."""

import base64
import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browser import ABSENT, CHROMIUM, Browser
from PIL import Image

import sft_exp
from sft_exp.label import sheet
from sft_exp.label.sheet import Sheet

in_browser = pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)
DIGITS = [str(n) for n in range(10)]
TRUTH = {f"train/{n:06d}": str((3 * n + 1) % 10) for n in range(20)}


def uri(shade):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def folder(tmp_path):
    """A sheet of 20 images of 10 classes, with one row that was labelled before."""
    made = Sheet(
        "labels", ["file", "label"], DIGITS, list(TRUTH), [["train/000099", "7"]], "20 of 60,000"
    )
    sheet.write(tmp_path / "sheet", made, map(uri, range(0, 200, 10)))
    return tmp_path / "sheet"


@pytest.fixture
def serve(folder):
    """Starts the command on a port, always the same; gives (process, url)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []

    def start():
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(sft_exp.__file__).parents[1]),
            "PYTHONUNBUFFERED": "1",
        }
        command = [
            sys.executable,
            "-m",
            "sft_exp.label",
            "run=gone",
            f"out={folder}",
            f"port={port}",
        ]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert any(line.startswith("Label at") for line in process.stdout)
        return process, f"http://127.0.0.1:{port}/"

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def browser(tmp_path):
    found = Browser(tmp_path / "profile")
    yield found
    found.close()


def rows(folder):
    return list(csv.reader(io.StringIO((folder / "labels.csv").read_text())))


def saved(folder):
    """Answers on disk."""
    head, before, *answers = rows(folder)
    assert (head, before) == (["file", "label"], ["train/000099", "7"])
    return dict(answers)


def first(n):
    return dict(list(TRUTH.items())[:n])


@in_browser
def test_twenty_images_an_undo_a_reload_and_a_killed_server(folder, serve, browser):
    process, url = serve()
    browser.open(url)
    truth = list(TRUTH.items())
    for _, label in truth[:8]:
        browser.press(label)
    browser.until("document.body.innerText.includes('8 of 20 labelled, all on disk')")
    assert saved(folder) == first(8)

    browser.press("5")  # image 8 is a 5; 9 gets a wrong label, which is taken back
    browser.press("0")
    browser.until("document.body.innerText.includes('10 of 20 labelled, all on disk')")
    assert saved(folder)[truth[9][0]] == "0" != truth[9][1]
    browser.press("u")
    browser.until("document.body.innerText.includes('9 of 20 labelled, all on disk')")
    assert saved(folder) == first(9)

    browser.reload()
    assert browser.run("document.getElementById('name').textContent") == truth[9][0], (
        "it goes on where it was"
    )
    browser.press(truth[9][1])
    browser.press(" ")  # image 10 is skipped, and comes again at the end
    for _, label in truth[11:14]:
        browser.press(label)
    browser.until("document.body.innerText.includes('13 of 20 labelled, 1 skipped, all on disk')")

    process.send_signal(signal.SIGKILL)
    process.wait()
    acknowledged = {k: v for k, v in first(14).items() if k != truth[10][0]}
    assert saved(folder) == acknowledged, "all that was acknowledged is there"
    for _, label in truth[14:16]:  # nobody answers, and the page keeps these
        browser.press(label)
    browser.until("document.body.innerText.includes('2 not yet on disk')")
    browser.until(
        "document.getElementById('trouble').textContent.includes('Start the command again')"
    )
    assert saved(folder) == acknowledged

    serve()
    browser.until("document.body.innerText.includes('15 of 20 labelled, 1 skipped, all on disk')")
    for _, label in [*truth[16:], truth[10]]:
        browser.press(label)
    browser.until("document.body.innerText.includes('20 of 20 labelled, all on disk. Done.')")
    assert saved(folder) == TRUTH


@in_browser
def test_opened_as_a_file_it_keeps_answers_and_downloads_the_same_table(folder, browser):
    browser.open((folder / "label.html").as_uri())
    for label in list(TRUTH.values())[:5]:
        browser.press(label)
    browser.press("Backspace")
    browser.until("document.getElementById('count').textContent.startsWith('4 of 20')")
    time.sleep(1)  # a browser hands what a page keeps to the next one a moment later
    browser.reload()
    assert browser.run("document.getElementById('count').textContent").startswith(
        "4 of 20 labelled"
    )
    caught = "URL.createObjectURL = blob => { window.text = blob.text(); return '#'; }; download(); window.text"
    assert browser.run(caught) == sheet.load(folder).table(first(4))


@in_browser
def test_more_than_ten_classes_are_typed_as_numbers_and_names_are_only_text(tmp_path, browser):
    names = [f'<b onclick="x">{n}, "b"</b></script>' for n in range(12)]
    made = Sheet("labels", ["file", "label"], names, ["a,1.png", 'b"2.png'], why="two")
    sheet.write(tmp_path / "many", made, map(uri, (0, 99)))
    browser.open((tmp_path / "many" / "label.html").as_uri())
    for key in "1207":
        browser.press(key)
    assert browser.run("JSON.stringify(answers)") == json.dumps(
        {"a,1.png": names[11], 'b"2.png': names[6]}, separators=(",", ":")
    )
    caught = "URL.createObjectURL = blob => { window.text = blob.text(); return '#'; }; download(); window.text"
    assert browser.run(caught) == made.table({"a,1.png": names[11], 'b"2.png': names[6]})


def ask(url, data=None, **headers):
    """(status, JSON) of a request as a browser would send it."""
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_server_takes_what_is_on_the_sheet_and_from_this_machine_alone(folder, serve):
    _, url = serve()
    answers = f"{url}answers"
    assert ask(answers, json.dumps({"train/000003": "0"}).encode()) == (200, 1)
    assert ask(answers) == (200, {"train/000003": "0"})
    refused = [{"train/000099": "1"}, {"train/000004": "cat"}, {"train/000004": 1}, 7]
    assert [ask(answers, json.dumps(r).encode())[0] for r in refused] == [400] * 4
    assert ask(answers, b"{")[0] == 400
    assert ask(answers, b'{"train/000004": "1"}', **{"Content-Type": "text/plain"})[0] == 400, (
        "a form of another site"
    )
    assert ask(answers, b'{"train/000004": "1"}', Host="evil.example")[0] == 403, (
        "a name turned to this address"
    )
    assert ask(f"{url}../sheet.json")[0] == 404
    assert ask(answers, json.dumps({"train/000003": None}).encode()) == (200, 0)
    assert saved(folder) == {}


def test_what_the_user_changes_in_the_table_stays(folder, serve):
    """Each answer wrote the rows that were labelled before as they were when the images were chosen."""
    _, url = serve()
    file, one, two, three = folder / "labels.csv", *list(TRUTH)[:3]

    def answer(**new):
        return ask(f"{url}answers", json.dumps(new).encode())

    assert answer(**{one: "1", two: "2"})[0] == 200
    head = "file,label,note\n"
    # a label of before corrected, a row added, an answer corrected, a column added
    file.write_text(f"{head}train/000099,8,was 7\nmine.png,3,\n{one},1,\n{two},5,sure\n")
    assert answer(**{three: "9"}) == (200, 3)
    before = ["train/000099", "8", "was 7"], ["mine.png", "3", ""]
    held = [head.strip().split(","), *before, [one, "1", ""], [two, "5", "sure"], [three, "9", ""]]
    assert rows(folder) == held
    assert answer(**{one: None}) == (200, 2)
    held.remove([one, "1", ""])
    assert rows(folder) == held

    # a spreadsheet saves what it opened before the last answer, in its own way
    file.write_text(f"{head}mine.png,3,\n{two},5,sure\n".replace(",", ";"), encoding="utf-8-sig")
    assert answer(**{one: "1"}) == (200, 3)
    assert rows(folder)[1:] == [before[1], [one, "1", ""], *held[-2:]]

    # and what cannot be read is not replaced
    file.write_text("file,class\nmine.png,3\n")
    status, why = answer(**{one: "2"})
    assert status == 507
    assert "labels.csv" in why
    assert file.read_text() == "file,class\nmine.png,3\n"


def test_an_image_without_a_row_is_its_own_group(tmp_path):
    columns = ["file", "label", "patient", "split"]
    made = Sheet("dataset.labels", columns, ["cat"], ["b.png"], [["a.png", "cat", "7", "test"]])
    file = tmp_path / "labels.csv"
    file.write_text(made.table({}).replace("split\n", "split,note\n").replace("test\n", "test,x\n"))
    assert made.updated(file, {"b.png": "cat"}).splitlines() == [
        "file,label,patient,split,note",
        "a.png,cat,7,test,x",
        "b.png,cat,b.png,train,",
    ]
    assert made.table({"b.png": "cat"}).splitlines()[-1] == "b.png,cat,b.png,train"


def test_a_full_disk_is_no_acknowledgement(folder, monkeypatch):
    from sft_exp.errors import StorageError
    from sft_exp.label import desk
    from sft_exp.store import atomic_io

    def full(path, content):
        raise StorageError(f"{path}: No space left on device")

    with desk.Desk(folder, 0) as table:
        table.record({"train/000001": "4"})
        monkeypatch.setattr(atomic_io, "write", full)
        with pytest.raises(StorageError):
            table.record({"train/000002": "7"})
        assert table.answers == {"train/000001": "4"} == saved(folder)
