"""Predictions for files from the command line."""

import contextlib
import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sft_exp
from sft_exp.data.decode import decode
from sft_exp.errors import ConfigError, StorageError
from sft_exp.models import weights
from sft_exp.predict import __main__ as predict_command
from sft_exp.predict import files
from sft_exp.stages import familiarity
from sft_exp.store import collect

HEADER = ["file", "class", "probability", "unlike"]


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (11, 13, 3), dtype=np.uint8)).save(
        path
    )
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run on the embedded digits; its store is an absolute path."""
    folder = tmp_path_factory.mktemp("run")
    small = [
        "pretrain.steps=2", "finetune.steps=2", "draws=1", "val=none", "controls=false", "labels=2",
    ]  # fmt: skip
    with contextlib.chdir(folder):
        sft_exp.run(
            ["tracker=none", "hardware=cpu", f"store={folder}/store", *small], folder / "run"
        )
    return folder / "run"


@pytest.fixture
def rows(run, capsys):
    """Arguments behind RUN -> (exit code, rows of the CSV, what stderr says)."""

    def called(*files):
        code = predict_command.main([str(run), *files])
        out, said = capsys.readouterr()
        return code, list(csv.reader(io.StringIO(out))), said

    return called


def test_files_folders_and_globs_in_their_order(rows):
    for n in range(3):
        picture(Path(f"photos/deep/{n}.png"), n)
    picture(Path("one.jpg"), 9)
    Path("photos/notes.txt").write_text("no image")
    code, table, said = rows("one.jpg", "photos", "photos/*/[12].png")
    assert code == 0
    assert said.startswith("6 of 6 images are unlike those that the model learnt from")
    assert table[0] == HEADER
    assert {r[3] for r in table[1:]} == {"yes"}, "they are noise, and it learnt digits"
    deep = [f"photos/deep/{n}.png" for n in range(3)]
    assert [r[0] for r in table[1:]] == ["one.jpg", *deep, *deep[1:]]


def test_class_and_probability_are_the_models(rows, run, monkeypatch):
    """In batches of any size."""
    paths = [picture(Path(f"{n}.png"), n) for n in range(7)]
    monkeypatch.setattr(files, "BATCH", 3)
    code, table, _ = rows(*map(str, paths))
    assert code == 0
    model = sft_exp.load_model(run)
    x_BCHW = torch.stack([decode(p.read_bytes(), model.spec.image) for p in paths]).float() / 255
    p_BY = model.predict(x_BCHW).softmax(1)
    assert [r[1] for r in table[1:]] == [model.spec.classes[c] for c in p_BY.argmax(1)]
    assert [float(r[2]) for r in table[1:]] == pytest.approx(p_BY.max(1).values.tolist(), abs=1e-4)


def test_what_cannot_be_read_is_named_and_the_rest_is_predicted(rows):
    picture(Path("good.png"), 1)
    Path("torn.png").write_bytes(Path("good.png").read_bytes()[:60])
    Path("empty").mkdir()
    code, table, said = rows("gone.png", "torn.png", "good.png", "empty", "nothing/*.png")
    assert code == 3
    assert [r[0] for r in table] == ["file", "good.png"]
    lines = said.splitlines()[1:]
    assert [line.split(": ")[1] for line in lines] == [
        "gone.png",
        "torn.png",
        "empty",
        "nothing/*.png",
    ]
    assert "No such file" in lines[0]
    assert "cannot be decoded" in lines[1] or "is no image" in lines[1]
    assert "no image lies there" in lines[2]


@pytest.mark.parametrize("entry", ["photos", "photos/*"])
@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic", "1 files are HEIC images, which are left out"),
        (
            "a.jxl",
            b"\xff\x0a",
            "1 files hold images and are left out, as their suffix is of no format",
        ),
        ("a.jpg_large", b"\xff\xd8\xff\xe0", "1 files hold images and are left out"),
        ("a.txt", b"notes", ""),
    ],
)
def test_photographs_that_are_left_out_are_said(rows, entry, name, start, words):
    picture(Path("photos/good.png"), 1)
    Path("photos", name).write_bytes(start + bytes(200))
    code, table, said = rows(entry)
    assert code == 0
    assert [r[0] for r in table[1:]] == ["photos/good.png"]
    assert words in said
    assert ("warning" in said) == bool(words)


def unix_socket(name):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda name: os.symlink("/dev/zero", name), unix_socket]
)
def test_what_is_no_file_is_named_and_not_waited_for(rows, make):
    for folder, names in (("photos", ("pipe.jpg", "a pipe.PNG")), (".", ("named.jpg",))):
        picture(Path(folder, "good.png"), 1)
        for name in names:
            make(str(Path(folder, name)))
    code, table, said = rows("photos", "named.jpg")
    assert code == 3
    assert [r[0] for r in table[1:]] == ["photos/good.png"]
    problem = "is a pipe, socket or device, and no file"
    assert [line.split(": ", 1)[1] for line in said.splitlines()[1:]] == [
        f"{name}: {problem}" for name in ("photos/a pipe.PNG", "photos/pipe.jpg", "named.jpg")
    ]


def test_a_pipe_that_a_shell_names_is_read(rows):
    """As <(curl ...) is, which the shell calls /dev/fd/63."""
    content = picture(Path("good.png"), 1).read_bytes()
    os.mkfifo("63")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Path("63").write_bytes, content)
        code, table, _ = rows("63")
    assert code == 0
    assert table[1][0] == "63"


def test_a_stage_folder_of_the_store_is_a_run_too(run, rows, capsys):
    picture(Path("good.png"), 1)
    folder = json.loads((run / "results.json").read_text())["stages"]["finetune"]["folder"]
    assert predict_command.main([folder, "good.png"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found == [",".join(r[:3]) for r in rows("good.png")[1]], (
        "the run's folder keeps features"
    )


def test_a_run_is_found_from_any_folder(run, monkeypatch):
    """The results name the store from where the run was started."""
    picture(Path("good.png"), 1)
    shutil.copytree(run.parent / "store", "project/outputs/store")
    results = json.loads((run / "results.json").read_text())
    stage = results["stages"]["finetune"]
    stage["folder"] = f"outputs/store/{Path(stage['folder']).name}"
    Path("project/outputs/runs/a").mkdir(parents=True)
    Path("project/outputs/runs/a/results.json").write_text(json.dumps(results))
    assert predict_command.main(["project/outputs/runs/a", "good.png"]) == 0
    monkeypatch.chdir("project")
    assert predict_command.main(["outputs/runs/a", "../good.png"]) == 0


def test_a_run_that_is_not_there_is_said_in_one_line(capsys):
    for folder, problem in (("gone", "no such folder"), (".", "neither a run folder")):
        assert predict_command.main([folder, "x.png"]) == 3
        out, said = capsys.readouterr()
        assert out == ""
        assert said.startswith(f"sft_exp predict: {folder}: {problem}")
        assert len(said.splitlines()) == 1


def test_a_run_whose_store_is_gone_is_said_in_one_line(run, capsys):
    results = json.loads((run / "results.json").read_text())
    results["stages"]["finetune"]["folder"] = "outputs/store/finetune-0"
    Path("lonely").mkdir()
    Path("lonely/results.json").write_text(json.dumps(results))
    assert predict_command.main(["lonely", "x.png"]) == 3
    assert (
        "its model should be in outputs/store/finetune-0, and is not there"
        in capsys.readouterr().err
    )


def test_names_come_from_stdin_too(rows, monkeypatch):
    for n in range(3):
        picture(Path(f"a folder/{n}.png"), n)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a folder/2.png\n\na folder/0.png\ngone.png\n"))
    code, table, said = rows("a folder/1.png", "-")
    assert code == 3
    assert [r[0] for r in table[1:]] == ["a folder/1.png", "a folder/2.png", "a folder/0.png"]
    assert said.splitlines()[1:] == ["sft_exp predict: gone.png: No such file or directory"]


def test_images_of_the_kind_that_was_learnt_are_not_called_unlike(rows, digits):
    for n in range(40):
        pixels = digits.test.raw(n) if digits.test else digits.train.raw(n)
        Image.fromarray(pixels[0].numpy()).save(f"{n:02}.png")
    code, table, said = rows(*(f"{n:02}.png" for n in range(40)))
    assert (code, said) == (0, "")
    assert {r[3] for r in table[1:]} == {"no"}


def test_the_store_keeps_the_features_while_the_run_is_there(run):
    store = run.parent / "store"
    (kept,) = store.glob("familiarity-*")
    assert (kept / familiarity.FILE).read_bytes() == (run / familiarity.FILE).read_bytes()
    assert kept not in collect.unreferenced(store, run.parent)


def test_the_features_are_written_in_the_same_bytes_each_time(tmp_path):
    known = familiarity.Known(torch.eye(3), 0.1)
    contents = {familiarity.content(known, "finetune-0123") for _ in range(20)}
    assert len(contents) == 1
    file = tmp_path / familiarity.FILE
    file.write_bytes(contents.pop())
    assert familiarity.read(file, "finetune-0123").limit == 0.1
    assert familiarity.read(file, "finetune-4567") is None


def test_damaged_features_are_named(run, capsys):
    picture(Path("good.png"), 1)
    shutil.copytree(run, "copy")
    file = Path("copy") / familiarity.FILE
    content = bytearray(file.read_bytes())
    content[0] ^= 255
    file.write_bytes(content)
    assert predict_command.main(["copy", "good.png"]) == 5
    assert f"{file}: damaged" in capsys.readouterr().err


def test_json_lines_hold_all_probabilities(run, rows, capsys):
    picture(Path("good.png"), 1)
    _, table, _ = rows("good.png")
    assert predict_command.main([str(run), "good.png", "--format", "jsonl"]) == 0
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [found["file"], found["class"]] == table[1][:2]
    assert found["unlike"] is True
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert max(found["probabilities"], key=found["probabilities"].get) == found["class"]


@pytest.mark.parametrize("pixels", [False, True])
def test_an_exported_file_says_what_the_run_says(run, rows, capsys, pixels):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra export is not installed")
    from sft_exp.exporters.onnx import Onnx
    from sft_exp.stages import export, model

    for n in range(3):
        picture(Path(f"{n}.png"), n)
    Onnx(preprocess=pixels).write(export.finished(model.folder_of(run)), Path())
    for where in ("model.onnx", "."):
        assert predict_command.main([where, "0.png", "1.png", "2.png"]) == 0
        found = list(csv.reader(io.StringIO(capsys.readouterr().out)))
        assert found == [r[:3] for r in rows("0.png", "1.png", "2.png")[1]]


@pytest.mark.parametrize(
    ("name", "said"), [("model.pt2", "may run code"), ("model.onnx", "no such file")]
)
def test_a_file_that_cannot_be_used_is_said_in_one_line(name, said, capsys):
    if name.endswith("onnx"):
        for library in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(library, reason="the extra export is not installed")
    assert predict_command.main([name, "x.png"]) == 3
    assert said in capsys.readouterr().err


def test_usage_is_exit_code_2_and_help_does_not_wait_for_torch():
    environment = {**os.environ, "PYTHONPATH": str(Path(sft_exp.__file__).parents[1])}
    code = "import sys; sys.argv = ['predict', '--help']; import runpy\n"
    code += "try: runpy.run_module('sft_exp.predict', run_name='__main__', alter_sys=True)\n"
    code += "except SystemExit as end: assert end.code == 0 and 'torch' not in sys.modules, 'torch'"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    assert predict_command.main([]) == 2


def test_images_of_more_bits_than_were_learnt_are_said(rows):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values * 100).save("deep.png")
    Image.fromarray(values.astype(np.uint8)).save("usual.png")
    code, table, said = rows("deep.png", "usual.png")
    assert (code, len(table)) == (0, 3)
    assert "1 of 2 images hold more than 8 bits a pixel and the model learnt from 8" in said
    assert "8 bits" not in rows("usual.png")[2]


def test_python_says_images_of_more_bits_as_the_command_does(run, rows, capsys):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values * 100).save("deep.png")
    Image.fromarray(values.astype(np.uint8)).save("usual.png")
    said = rows("deep.png", "usual.png")[2].splitlines()
    model = sft_exp.load(run)
    p_NY = model.predict(["deep.png", "usual.png"])
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning in said
    assert warning.startswith("1 of 2 images hold more than 8 bits")
    model.predict("usual.png")
    assert capsys.readouterr().err == ""
    # a class does not depend on the images beside it
    assert torch.allclose(model.predict("deep.png")[0], p_NY[0], atol=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_masks_and_boxes_of_images_of_more_bits_are_said(scaled, capsys):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save("deep.png")
    written = []
    assert (
        files.for_each_image(lambda path, _: written.append(path.name), ["deep.png"], scaled) == []
    )
    assert written == ["deep.png"]
    assert ("1 of 1 images hold more than 8 bits" in capsys.readouterr().err) == (not scaled)


@pytest.mark.parametrize("option", ["out=classes.csv", "scale=1", "like=coco.json"])
def test_an_option_that_classes_do_not_use_is_refused(rows, option):
    picture(Path("a.png"), 0)
    code, table, said = rows("a.png", option)
    assert (code, table) == (2, [])
    assert option in said
    assert "has no effect on predictions of classes" in said
    assert "> predictions.csv" in said


@pytest.mark.parametrize(
    ("predicts", "options", "refused"),
    [
        ("numbers", {"format": "jsonl"}, ""),  # as version 0.1 took it
        ("boxes", {"scale": 1.0}, "scale"),
        ("several", {"like": Path("coco.json")}, "like"),
        ("pixels", {"scale": 1.0, "out": Path("masks")}, ""),
    ],
)
def test_an_option_is_used_or_refused(predicts, options, refused):
    chosen = predict_command.Arguments(Path("run"), [], **options)
    with pytest.raises(ConfigError) if refused else contextlib.nullcontext() as error:
        predict_command.require_used(chosen, predicts)
    assert not error or error.value.key == refused


@pytest.mark.parametrize("scale", ["0", "-1", "inf", "nan"])
def test_a_scale_that_no_image_can_have_is_refused(rows, scale):
    code, _, said = rows("a.png", f"scale={scale}")
    assert code == 2
    assert "above 0" in said


@pytest.mark.parametrize("entry", ["photos", "photos/a.PNG", "photos/*"])
@pytest.mark.parametrize("out", ["photos", "photos/../photos"])
def test_predictions_never_replace_the_images(entry, out):
    """<name>.png of a mask is the name of a photograph that is a PNG, too."""
    picture(Path("photos/b.jpg"), 1)
    predict_command.require_apart(Path(out), files.files(["photos"]))
    picture(Path("photos/a.PNG"), 0)
    with pytest.raises(ConfigError, match=r"holds a\.PNG, which is to be predicted"):
        predict_command.require_apart(Path(out), files.files([entry]))
    predict_command.require_apart(Path("photos/masks"), files.files([entry]))


@pytest.fixture
def damaged(run):
    """Function: flip the last bit of a file of the run's store while a block runs."""

    @contextlib.contextmanager
    def flipped(pattern):
        (file,) = (run.parent / "store").glob(pattern)
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        yield
        file.write_bytes(whole)

    return flipped


def test_a_model_of_which_one_bit_has_changed_predicts_nothing(rows, run, damaged):
    picture(Path("a.png"), 0)
    for name in ("model.safetensors", "model.json", "done.json"):
        with damaged(f"finetune-*/{name}"):
            code, table, said = rows("a.png")
            assert (code, table) == (StorageError.code, [])
            assert f"{name}: " in said
            with pytest.raises(StorageError, match="damaged"):
                sft_exp.load_model(run)
    assert rows("a.png")[0] == 0


def test_weights_of_which_one_bit_has_changed_start_nothing(run, damaged):
    (pretraining,) = (run.parent / "store").glob("pretrain-*")
    with damaged("pretrain-*/encoder.safetensors"):
        for call, place in (
            (sft_exp.load_pretrained, run),
            (weights.locate, str(run)),
            (weights.locate, str(pretraining)),
        ):
            with pytest.raises(StorageError, match=r"encoder\.safetensors: changed: damaged"):
                call(place)
