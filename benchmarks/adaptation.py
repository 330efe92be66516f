"""docs/adaptation.md: each strategy against full fine-tuning, from a sweep of experiment=adaptation.

    python -m benchmarks.adaptation outputs/multirun/<sweep>

A difference is between the same pretraining and the same label draw; its interval is the verdict's (docs/standard.md).
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import read
from sft_exp.store import atomic_io

ROOT = Path(__file__).parent.parent
BASE = "full"
Accuracies = dict[tuple[Any, str], read.By]  # of (labels, strategy)


def collect(sweep: Path) -> Accuracies:
    """The jobs that are done; a strategy with a head that starts at random is a strategy of its own."""
    found: Accuracies = defaultdict(dict)
    for result in read.results(sweep):
        config, name = result["config"], result["choices"]["strategy"]
        if config["task"].get("head") == "random":
            name += ", head at random"
        found[config["labels"], name][config["seed"]] = result["draws"]["pretrained"]
    return found


def table(found: Accuracies) -> list[str]:
    """Markdown: a row a number of labels and strategy. Sentences of one table hold together (Bonferroni)."""
    others = [key for key in found if key[1] != BASE]
    text = [
        "| labels a class | strategy | accuracy | against full | interval | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for labels, name in sorted(found, key=lambda key: (key[0], key[1] != BASE, key[1])):
        mean = read.mean(found[labels, name])
        if name == BASE:
            text.append(f"| {labels} | {name} | {mean:.2f} | | | |")
            continue
        middle, low, high, word = read.against(
            found[labels, name], found[labels, BASE], len(others)
        )
        word = {"helped": "better", "hurt": "worse"}.get(word, word)
        text.append(
            f"| {labels} | {name} | {mean:.2f} | {middle:+.2f} | {low:+.2f} to {high:+.2f} | {word} |"
        )
    return text


def main(sweep: Path, docs: Path = ROOT / "docs") -> None:
    found = collect(sweep)
    seeds = {len(by_seed) for by_seed in found.values()}
    draws = {len(d) for by_seed in found.values() for d in by_seed.values()}
    about = (
        f"Accuracy in % on MNIST's test images after a denoising autoencoder; pretraining seeds: {'/'.join(map(str, seeds))}, "
        f"label draws: {'/'.join(map(str, draws))}. Differences are of the same seed and draw; all intervals of the table "
        "hold at once with 95 %."
    )
    command = (
        (ROOT / "conf" / "experiment" / "adaptation.yaml")
        .read_text()
        .split("#   ")[1]
        .splitlines()[0]
    )
    text = [
        "# Strategies against full fine-tuning",
        "",
        about,
        "",
        *table(found),
        "",
        f"    {command}",
    ]
    text += ["    python -m benchmarks.adaptation outputs/multirun/<sweep>", ""]
    atomic_io.write(docs / "adaptation.md", "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path)
    main(parser.parse_args().sweep)
