"""docs/adaptation.md: each strategy against full fine-tuning, from a sweep of experiment=adaptation.

    python -m benchmarks.adaptation outputs/multirun/<sweep>

A difference is between the same pretraining and the same label draw; its interval is the verdict's (docs/standard.md).
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from sft_exp import durable, verdict

ROOT = Path(__file__).parent.parent
BASE = "full"
Accuracies = dict[tuple[Any, str], dict[int, list[float]]]  # (labels, strategy) -> seed -> accuracy of each draw


def read(sweep: Path) -> Accuracies:
    """The jobs that are done; a strategy with a head that starts at random is a strategy of its own."""
    found: Accuracies = defaultdict(dict)
    for file in sorted(sweep.glob("*/results.json")):
        result = json.loads(file.read_text())
        config, name = result["config"], result["choices"]["strategy"]
        if config["task"].get("head") == "random":
            name += ", head at random"
        found[config["labels"], name][config["seed"]] = result["draws"]["pretrained"]
    return found


def table(found: Accuracies) -> list[str]:
    """Markdown: a row a number of labels and strategy. Sentences of one table hold together (Bonferroni)."""
    others = [key for key in found if key[1] != BASE]
    level = verdict.shared(verdict.LEVEL, len(others))
    text = ["| labels a class | strategy | accuracy | against full | interval | |", "| --- | --- | --- | --- | --- | --- |"]
    for labels, name in sorted(found, key=lambda key: (key[0], key[1] != BASE, key[1])):
        mean = 100 * fmean(a for draws in found[labels, name].values() for a in draws)
        if name == BASE:
            text.append(f"| {labels} | {name} | {mean:.2f} | | | |")
            continue
        pairs = [(draws, found[labels, BASE][seed]) for seed, draws in sorted(found[labels, name].items())]
        differences = [[a - b for a, b in zip(ours, full, strict=True)] for ours, full in pairs]
        middle, low, high = (100 * v for v in verdict.interval(differences, level=level))
        word = {"helped": "better", "hurt": "worse"}.get(w := verdict.word_of(low / 100, high / 100, verdict.MARGIN), w)
        text.append(f"| {labels} | {name} | {mean:.2f} | {middle:+.2f} | {low:+.2f} to {high:+.2f} | {word} |")
    return text


def main(sweep: Path, docs: Path = ROOT / "docs") -> None:
    found = read(sweep)
    seeds = {len(by_seed) for by_seed in found.values()}
    draws = {len(d) for by_seed in found.values() for d in by_seed.values()}
    about = (
        f"Accuracy in % on MNIST's test images after a denoising autoencoder; pretraining seeds: {'/'.join(map(str, seeds))}, "
        f"label draws: {'/'.join(map(str, draws))}. Differences are of the same seed and draw; all intervals of the table "
        "hold at once with 95 %."
    )
    command = (ROOT / "conf" / "experiment" / "adaptation.yaml").read_text().split("#   ")[1].splitlines()[0]
    text = ["# Strategies against full fine-tuning", "", about, "", *table(found), "", f"    {command}"]
    text += ["    python -m benchmarks.adaptation outputs/multirun/<sweep>", ""]
    durable.write(docs / "adaptation.md", "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path)
    main(parser.parse_args().sweep)
