"""Make the fixtures of tests/test_released.py with the version of sft_exp that is installed: `python tests/released/make.py`.

Run this once, at a release, from a checkout of that release. It writes tests/released/<version>/ and refuses to overwrite one:
what a released version wrote must never be rewritten by a later one. The folder holds everything a user of that version has on
disk (run folders, a sweep, the store, exports, the working folders of killed runs) and what the commands of that version said
about it, as numbers. (A .pt2 export is left out: it needs none of this package to be read, and it names the folders of the
machine that made it.)

    scans/            the user's own images, with masks and a table of numbers
    runs/, sweep/     run folders
    store/            the store they refer to
    killed/<stage>/   the store of a run that was killed in that stage, and expected.safetensors: what it ended in when resumed
    expected.json     for each run, the model's outputs on `pattern` images, and what `predict` wrote
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

SMALL = ["tracker=none", "hardware=cpu", "report=false", "store=store"]
BRIEF = ["pretrain.steps=4", "finetune.steps=6", "pretrain.batch_size=16", "finetune.batch_size=8"]
DIGITS = [*SMALL, *BRIEF, "dataset=digits", "encoder.hidden=[8]", "labels=3", "draws=2"]
TINY_CONV = ["encoder=conv", "encoder.channels=[2,3]", "encoder.code=4"]
SCANS = [
    *SMALL,
    *BRIEF,
    *TINY_CONV,
    "pretrainer=ae",
    "dataset.size=16",
    "dataset.channels=1",
    "dataset.workers=0",
    "draws=1",
]
HEADS = "task.heads={left: classify, right: classify, mask: {_target_: sft_exp.tasks.segment.Segment, width: 4}}"
RUNS = {
    "vae": [*DIGITS, "pretrainer=vae", "val=holdout", "controls=[scratch]", "export=safetensors"],
    "linear": [
        *DIGITS,
        "pretrainer=vae",
        "strategy=linear",
        "val=cv",
        "controls=[scratch,random_frozen]",
    ],
    "svm": [*DIGITS, "pretrainer=vae", "strategy=svm", "val=none", "controls=false"],
    "pairs": [
        *SMALL,
        *BRIEF,
        "dataset=digit_pairs",
        HEADS,
        *TINY_CONV,
        "pretrainer=none",
        "labels=20",
        "draws=1",
        "controls=false",
    ],
    "masks": [
        *SCANS,
        "dataset=mask_folder",
        "task.width=4",
        "dataset.root=scans",
        "val=none",
        "controls=false",
    ],
    "numbers": [
        *SCANS,
        "dataset=number_table",
        "dataset.table=scans/table.csv",
        "val=none",
        "controls=false",
    ],
}
SWEEP = [*DIGITS, "pretrainer=ae,vae", "val=holdout", "controls=[scratch]"]
DIVERGED = [
    *DIGITS,
    "pretrainer=none",
    "val=none",
    "controls=false",
    "optim=sgd",
    "optim.lr=1e30",
]  # leaves no results.json
KILLED = {  # stage -> overrides; the process is killed at KILLED_AT of 20 steps, a checkpoint is written every third step
    "pretrain": [
        *DIGITS,
        "pretrainer=ae",
        "draws=1",
        "val=none",
        "controls=false",
        "pretrain.steps=20",
        "optim=momentum",
    ],
    "finetune": [
        *DIGITS,
        "pretrainer=none",
        "draws=1",
        "val=holdout",
        "controls=false",
        "finetune.steps=20",
    ],
}
CHECKPOINTS = "hardware.checkpoint_seconds=3"  # `faults.stepwise` lets a second pass at every step
KILLED_AT = 13
LEARNT = {"pretrain": "encoder.safetensors", "finetune": "model.safetensors"}


def pattern(count: int, image: tuple[int, int, int]):
    """Images in [0, 1] [count, C, H, W] that depend on no random generator and no data set."""
    import torch

    channels, height, width = image
    pixels = torch.arange(count * channels * height * width)
    return (pixels * 37 + pixels // 64 * 11).remainder(256).div(255).view(count, *image)


def scans(folder: Path) -> None:
    """Twelve 16x16 grey images, each with a mask of its bright half and with a number."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = ["file,target"]
    for n, x_CHW in enumerate(pattern(12, (1, 16, 16)).mul(255).round().byte()):
        Image.fromarray(x_CHW[0].numpy()).save(folder / "images" / f"{n:02}.png")
        Image.fromarray((x_CHW[0] > 127).byte().numpy()).save(folder / "masks" / f"{n:02}.png")
        rows.append(f"images/{n:02}.png,{n / 4}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


def command(*arguments: str, code: int = 0) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-m", *arguments], env=environment).returncode == code


def outputs(run: str) -> dict:
    """What the model of a run says of `pattern` images, and what `predict` writes of the first of the scans."""
    import sft_exp

    model = sft_exp.load_model(f"runs/{run}")
    found = model.predict(pattern(3, model.spec.image))
    tensors = found if isinstance(found, dict) else {"": found}
    encoder = sft_exp.load_encoder(f"runs/{run}")
    said = {
        "image": list(model.spec.image),
        "outputs": {name: t.flatten()[:200].tolist() for name, t in tensors.items()},
        "features": encoder(pattern(3, model.spec.image)).flatten().tolist(),
    }
    if run in ("vae", "linear", "svm", "numbers"):
        from sft_exp.predict import __main__ as predict_command

        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert (
                predict_command.main(
                    [
                        f"runs/{run}",
                        "scans/images/00.png",
                        "scans/images/01.png",
                        "--format",
                        "jsonl",
                    ]
                )
                == 0
            )
        said["predict"] = out.getvalue()
    return said


def kill_and_resume(stage: str) -> None:
    """killed/<stage>/store as a SIGKILL left it, and what the resumed run ended in."""
    import faults

    here = Path("killed") / stage
    overrides = [*KILLED[stage], CHECKPOINTS, f"store={here}/store", f"hydra.run.dir={here}/run"]
    code, said = faults.run(
        faults.cli, *overrides, prepare=partial(faults.stepwise, kill_at=KILLED_AT)
    )
    assert code == -9, said
    Path("steps").unlink()
    (left,) = here.glob(f"store/work/*/{stage}-*/checkpoint.pt")
    shutil.copytree(left.parent, here / "kept")
    command("sft_exp", *overrides)
    (learnt,) = here.glob(f"store/{stage}-*/{LEARNT[stage]}")
    shutil.copy(learnt, here / "expected.safetensors")
    name = learnt.parent.name
    shutil.rmtree(here / "store")
    shutil.rmtree(here / "run")
    (here / "store" / "work" / "1.1.elsewhere").mkdir(parents=True)
    (here / "kept").rename(here / "store" / "work" / "1.1.elsewhere" / name)


def make() -> None:
    """Everything, in the present folder."""
    scans(Path("scans"))
    for name, overrides in RUNS.items():
        command("sft_exp", *overrides, f"hydra.run.dir=runs/{name}")
    command("sft_exp", "-m", *SWEEP, "hydra.sweep.dir=sweep")
    command("sft_exp", *DIVERGED, "hydra.run.dir=runs/diverged", code=4)
    Path("expected.json").write_text(json.dumps({name: outputs(name) for name in RUNS}, indent=1))
    for stage in KILLED:
        kill_and_resume(stage)


def scrub(folder: Path) -> None:
    """Remove what names this machine: locks, notes of absolute paths, logs, pages; and the paths in Hydra's own config."""
    for pattern in ("store/locks", "store/roots", "killed/*/store/locks", "sweep/conf"):
        for found in folder.glob(pattern):
            shutil.rmtree(found)
    for pattern in ("**/*.log", "**/multirun.yaml", "sweep/compare.*"):
        for found in folder.glob(pattern):
            found.unlink()
    paths = (str(folder), str(HERE.parents[1]))
    for found in folder.glob("**/.hydra/hydra.yaml"):
        text = found.read_text()
        for path in paths:
            text = text.replace(path, "/somewhere")
        found.write_text(text)
    for found in [f for f in folder.rglob("*") if f.is_file()]:
        content = found.read_bytes()
        assert not any(path.encode() in content for path in paths), f"{found} names this machine"


def main() -> None:
    import sft_exp

    target = HERE / sft_exp.__version__
    assert not target.exists(), f"{target} exists; what a released version wrote is never rewritten"
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.chdir(folder):
            make()
        scrub(Path(folder))
        shutil.copytree(folder, target)


if __name__ == "__main__":
    main()
