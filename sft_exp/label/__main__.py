"""Choose the images to label next, and serve a page to label them with.

Chooses typical and diverse images among those without a label, in the features that the run's
pretraining learned, writes chosen.csv and label.html, and serves the page on this machine: number
keys label, `u` undoes, space skips. Each answer is in labels.csv before it is acknowledged; the same
command goes on where it stopped. Then labels.csv goes back into training.

    sft_exp label outputs/latest n=50
"""

import json
import shlex
import sys
from pathlib import Path

from sft_exp.config import args
from sft_exp.errors import DataError
from sft_exp.label import sheet
from sft_exp.label.selection import Ask, choose, opened, picture, table_of
from sft_exp.label.sheet import Sheet


def main(arguments: list[str] | None = None) -> int:
    return args.run("label", __doc__ or "", Ask, work, arguments)


def work(ask: Ask) -> None:
    if not (ask.folder / "sheet.json").exists():
        write(ask)
    print_sheet(ask, sheet.load(ask.folder))
    if ask.serve:
        serve(ask)


def write(ask: Ask) -> None:
    """Chooses, and writes the folder."""
    dataset, data, known, open_ = opened(ask.run)
    own = open_ is data.extra
    if open_ is None or len(open_) < ask.n:
        where = "dataset.unlabelled has" if own else "outside the run's labels there are"
        raise DataError(f"n={ask.n}: {where} {len(open_) if open_ else 0} images without a label")
    chosen = open_.at(choose(ask, known, open_))
    if own:
        made = table_of(dataset, data, known, chosen, ask.folder)
    else:
        rows = [
            [name, data.classes[y]] for name, y in zip(known.ids, known.y.tolist(), strict=True)
        ]
        made = Sheet("labels", ["file", "label"], list(data.classes), chosen.ids, rows)
    made.why = f"{ask.n} of {len(open_):,} images without a label, chosen by {ask.strategy} in the features of {ask.run}"
    sheet.write(ask.folder, made, (picture(data, chosen, row) for row in range(len(chosen))))


def print_sheet(ask: Ask, made: Sheet) -> None:
    """What was chosen, what it may bring, and how it goes on."""
    from sft_exp.label import forecast

    done = len(made.answers((ask.folder / "labels.csv").read_text()))
    print(f"{made.why}; {done} have one by now.")
    curve = Path(ask.run) / "forecast.json"
    if curve.exists():
        print(forecast.words(json.loads(curve.read_text()), ask.n))
    else:
        print(
            "What they would bring:",
            shlex.join(["python", "-m", "sft_exp.forecast", f"run={ask.run}", f"n={ask.n}"]),
        )
    print(f"Train with them: {training(ask, made)}")


def training(ask: Ask, made: Sheet) -> str:
    """The run's own command with the new table of labels; the key alone where the run is no longer there."""
    from sft_exp.config import recipe

    table = f"{made.key}={recipe.quoted(str((ask.folder / 'labels.csv').absolute()))}"
    if not (file := Path(ask.run) / "results.json").exists():
        return table
    result = json.loads(file.read_text())
    replaced = (made.key, "labels_total") if made.key == "labels" else (made.key,)
    kept = [
        o
        for o in recipe.overrides(result["config"], result["choices"])
        if o.partition("=")[0] not in replaced
    ]
    return recipe.command([*kept, table])


def serve(ask: Ask) -> None:
    """Until Ctrl-C."""
    from sft_exp.label.desk import Desk

    with Desk(ask.folder, ask.port) as desk:
        print(f"Label at {desk.url} (Ctrl-C ends; the same command goes on)", flush=True)
        try:
            desk.serve_forever()
        except KeyboardInterrupt:
            print(f"{len(desk.answers)} of {len(desk.sheet.chosen)} labelled")


if __name__ == "__main__":
    sys.exit(main())
