"""The pictures of README and docs/, made by the commands that the pages show: `make docs-pictures`.

`python docs/pictures.py report compare` makes some of them. Runs and their store stay in
outputs/pictures, so that the next call computes only what has changed. Needs Chromium
(`make browser`), and for `leet` tmux.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
COLUMNS, ROWS = 150, 42  # of the terminal
OFFLINE = {"WANDB_MODE": "offline", "NO_COLOR": "1"}


def digits(place: Path) -> None:
    """README's picture: the first command."""
    sft_exp(place, "pretrainer=vae optim=adam")
    shutil.copy(place / "outputs/latest/accuracy.png", IMAGES / "digits.png")


def report(place: Path) -> None:
    """The report of the tutorial's first run."""
    if not (place / "leaves").exists():
        subprocess.run(
            [sys.executable, ROOT / "examples/draw_leaves.py", "leaves"], cwd=place, check=True
        )
    data = "dataset=image_folder dataset.root=leaves/labelled dataset.unlabelled=[leaves/more]"
    sft_exp(place, data)
    photograph(place / "outputs/latest/report.html", "report.png", 1100, 1250)


def compare(place: Path) -> None:
    """The page at the end of a sweep."""
    sft_exp(place, "-m pretrainer=none,vae optim.lr=1e-3,1e-2 draws=2 controls=false")
    (page,) = place.glob("outputs/multirun/*/compare.html")
    photograph(page, "compare.png", 1300, 1250)


def leet(place: Path) -> None:
    """W&B's terminal dashboard on the files of a sweep, without a key."""
    sft_exp(place, "-m optim=sgd,adam optim.lr=1e-2,1e-3 controls=false draws=1")
    (files,) = place.glob("outputs/multirun/*/wandb")
    tmux = ["tmux", "-L", f"pictures-{os.getpid()}"]
    wandb = Path(sys.executable).with_name("wandb")
    start = f"WANDB_ERROR_REPORTING=false {wandb} leet {files}"
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    subprocess.run([*tmux, "new-session", "-d", *size, start], check=True)
    try:
        time.sleep(20)
        for key in ["Space", "Down"] * 4:  # overlay each run
            subprocess.run([*tmux, "send-keys", key], check=True)
            time.sleep(1)
        time.sleep(10)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True
        )
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    screen = Console(width=COLUMNS, record=True, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    screen.print(Text.from_ansi(shown.stdout))
    html = place / "leet.html"
    html.write_text(
        screen.export_html(inline_styles=True).replace(
            "background-color: #ffffff", "background-color: #111"
        )
    )
    photograph(html, "leet.png", 1270, 800)


def sft_exp(place: Path, command: str) -> None:
    """Run the program in a folder; what is in its store is not computed again."""
    environment = {**os.environ, **OFFLINE}
    environment.pop("WANDB_API_KEY", None)
    subprocess.run(
        [sys.executable, "-m", "sft_exp", *command.split()], cwd=place, env=environment, check=True
    )


def photograph(page: Path, name: str, width: int, height: int) -> None:
    """A picture of a page's upper part."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("needs a browser: make browser")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={profile}", f"--window-size={width},{height}"),
                *(
                    "--virtual-time-budget=20000",
                    f"--screenshot={IMAGES / name}",
                    page.resolve().as_uri(),
                ),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )


PICTURES: dict[str, Callable[[Path], None]] = {
    "digits": digits,
    "report": report,
    "compare": compare,
    "leet": leet,
}

if __name__ == "__main__":
    for wanted in sys.argv[1:] or PICTURES:
        folder = ROOT / "outputs" / "pictures" / wanted
        folder.mkdir(parents=True, exist_ok=True)
        PICTURES[wanted](folder)
        print(IMAGES / f"{wanted}.png")
