"""Choose the images to label next, and serve a page to label them with.

Chooses typical and diverse unlabelled images in the features that the run's pretraining learned,
writes chosen.csv and label.html, and serves the page on this machine: number keys label, `u`
undoes, space skips. Each answer is written to labels.csv before it is acknowledged; the same
command resumes where it stopped. Then train with labels.csv.

    sft_exp label outputs/latest n=50

The folder also has the images with the model's classes for Label Studio and FiftyOne; answers=FILE
takes their exports into labels.csv.
"""

import json
import shlex
import sys
from pathlib import Path

from sft_exp.config import args
from sft_exp.errors import ConfigError, DataError
from sft_exp.label import sheet
from sft_exp.label.selection import Ask, choose, guessed, opened, picture, table_of
from sft_exp.label.sheet import Sheet
from sft_exp.store import atomic_io


def main(arguments: list[str] | None = None) -> int:
    return args.run("label", __doc__ or "", Ask, work, arguments)


def work(ask: Ask) -> None:
    if not (ask.folder / "sheet.json").exists():
        write(ask)
    if ask.answers:
        accept(ask)
    print_sheet(ask, sheet.load(ask.folder))
    if ask.serve and not ask.answers:
        serve(ask)


def write(ask: Ask) -> None:
    """Choose images and write the folder."""
    from sft_exp.label import tools

    # chosen.csv comes before labels.csv, so that alone it is not of a sheet that was cut short
    if (ask.folder / "labels.csv").exists() and not (ask.folder / "chosen.csv").exists():
        raise ConfigError(
            "out",
            ask.folder,
            "holds a labels.csv of other origin, which would be replaced; name another folder",
        )
    dataset, data, labelled, pool = opened(ask.run)
    own = pool is data.extra
    if pool is None or len(pool) < ask.n:
        where = "dataset.unlabelled has" if own else "outside the run's labels there are"
        raise DataError(f"n={ask.n}: {where} {len(pool) if pool else 0} images without a label")
    chosen = pool.at(choose(ask, labelled, pool))
    if own:
        new = table_of(dataset, data, labelled, chosen, ask.folder)
    else:
        pairs = zip(labelled.ids, labelled.y.tolist(), strict=True)
        rows = [[name, data.classes[y]] for name, y in pairs]
        new = Sheet("labels", ["file", "label"], list(data.classes), chosen.ids, rows)
    new.why = f"{ask.n} of {len(pool):,} images without a label, chosen by {ask.strategy} in the features of {ask.run}"
    pictures = [picture(data, chosen, row) for row in range(len(chosen))]
    new.asked = ask.name
    tools.write(ask.folder, new, pictures, guessed(ask.run, data, chosen), ask.run)
    sheet.write(ask.folder, new, pictures)


def accept(ask: Ask) -> None:
    """Add another tool's answers to labels.csv."""
    from sft_exp.label import tools

    current, labels = sheet.load(ask.folder), ask.folder / "labels.csv"
    current.answers(labels)  # a class that does not exist is refused
    new = tools.answers(Path(ask.answers).expanduser(), current)
    atomic_io.write(labels, current.updated(labels, new))


def print_sheet(ask: Ask, current: Sheet) -> None:
    """Print how the images were chosen, the forecast, and the command that trains with the
    labels."""
    from sft_exp.label import forecast

    done = len(current.answers(ask.folder / "labels.csv"))
    if current.asked not in ("", ask.name):
        print(
            f"sft_exp label: {ask.folder} holds the images chosen before for {current.asked}, and"
            f" none are chosen for {ask.name}: name another folder, out=FOLDER, for these",
            file=sys.stderr,
        )
    print(f"{current.why}; {done} of them are labelled so far.")
    curve = Path(ask.run) / "forecast.json"
    if curve.exists():
        print(forecast.words(json.loads(curve.read_text()), ask.n))
    else:
        print(
            "Forecast their benefit with:",
            shlex.join(["python", "-m", "sft_exp.forecast", f"run={ask.run}", f"n={ask.n}"]),
        )
    print(f"Train with them: {training(ask, current)}")


def training(ask: Ask, current: Sheet) -> str:
    """The run's command with the new table of labels; the override alone if the run was removed."""
    from sft_exp.config import recipe
    from sft_exp.store import listing, results

    table = f"{current.key}={recipe.quoted(str((ask.folder / 'labels.csv').absolute()))}"
    if not (Path(ask.run) / results.FILE).exists():
        return table
    result = results.read(Path(ask.run))
    replaced = (current.key, "labels_total") if current.key == "labels" else (current.key,)
    overrides = recipe.overrides(listing.located(result.config, Path(ask.run)), result.choices)
    return recipe.command([*(o for o in overrides if o.partition("=")[0] not in replaced), table])


def serve(ask: Ask) -> None:
    """Serve the page until Ctrl-C."""
    from sft_exp.label.desk import Desk

    with Desk(ask.folder, ask.port) as desk:
        print(f"Label at {desk.url} (Ctrl-C ends; the same command resumes)", flush=True)
        try:
            desk.serve_forever()
        except KeyboardInterrupt:
            print(f"{len(desk.answers)} of {len(desk.sheet.chosen)} labelled")


if __name__ == "__main__":
    sys.exit(main())
