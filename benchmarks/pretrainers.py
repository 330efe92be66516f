"""docs/pretrainers/table.md: every pretrainer by linear probe, neighbours and fine-tuning, from sweeps of experiment=pretrainers.

    python -m benchmarks.pretrainers outputs/multirun/<sweep> [outputs/multirun/<another> ...]

What a pretraining adds is the difference to pretrainer=none of the same seed and label draw; its interval is the verdict's.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import read
from sft_exp import durable

ROOT = Path(__file__).parent.parent
NONE = "none"
STRATEGIES = {"linear": "linear", "knn": "kNN", "full": "full"}
Key = tuple[str, str, str]  # pretrainer, labels a class, strategy


def collect(results: Iterable[dict[str, Any]]) -> tuple[dict[Key, read.By], dict[str, float]]:
    """Accuracies, and the mean seconds of each pretraining."""
    found: dict[Key, read.By] = defaultdict(dict)
    seconds: dict[str, list[float]] = defaultdict(list)
    for r in results:
        name, seed = r["choices"]["pretrainer"], r["config"]["seed"]
        found[name, str(r["config"]["labels"]), r["choices"]["strategy"]][seed] = r["draws"]["pretrained"]
        if took := r["stages"].get("pretrain", {}).get("seconds"):  # of the job that trained it; the others found it
            seconds[name].append(took)
    return found, {name: fmean(s) for name, s in seconds.items()}


def table(found: dict[Key, read.By], seconds: dict[str, float]) -> list[str]:
    """Markdown: a row a pretrainer, the best linear probe of few labels first."""
    names, counts = list(dict.fromkeys(k[0] for k in found)), list(dict.fromkeys(k[1] for k in found))
    columns = [(labels, strategy) for labels in counts for strategy in STRATEGIES]
    head = ["pretrainer", *(f"{labels}: {STRATEGIES[s]}" for labels, s in columns)]
    head += [*(f"{labels}: full against scratch" for labels in counts), "", "seconds"]
    rows = []
    for name in sorted(names, key=lambda n: -read.mean(found[n, *columns[0]])):
        row = [name, *(f"{read.mean(found[name, *c]):.1f}" for c in columns)]
        words = []
        for labels in counts:
            if name == NONE:
                row.append("")
                continue
            scores, base = found[name, labels, "full"], found[NONE, labels, "full"]
            middle, low, high, word = read.against(scores, base, len(counts) * (len(names) - 1))
            row.append(f"{middle:+.1f} ({low:+.1f} to {high:+.1f})")
            words.append(word)
        rows.append([*row, ", ".join(words), f"{seconds[name]:.0f}" if name in seconds else ""])
    rule = ["---", *["---:"] * len(columns), *["---"] * (len(counts) + 1), "---:"]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def main(sweeps: list[Path], docs: Path = ROOT / "docs" / "pretrainers") -> None:
    found, seconds = collect(read.results(*sweeps))
    seeds, draws = {len(by) for by in found.values()}, {len(d) for by in found.values() for d in by.values()}
    about = (
        f"Accuracy in % on MNIST's test images; labels are a number a class or all 60,000. Pretraining seeds: "
        f"{'/'.join(map(str, seeds))}, label draws: {'/'.join(map(str, draws))} (of `all` only the order of the images differs). "
        f"`{NONE}` is the control: a random encoder at rest under linear and kNN, training from scratch under full. Differences "
        "are of the same seed and draw; all intervals of the table hold at once with 95 %. Seconds are of one pretraining on one "
        "thread of a busy machine."
    )
    described = (ROOT / "conf" / "experiment" / "pretrainers.yaml").read_text()
    commands = [line.removeprefix("#   ") for line in described.splitlines() if line.startswith("#   ")]
    text = ["# Every pretrainer, one recipe", "", about, "", *table(found, seconds), "", *(f"    {c}" for c in commands)]
    text += ["    python -m benchmarks.pretrainers outputs/multirun/<sweep> ...", ""]
    durable.write(docs / "table.md", "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweeps", type=Path, nargs="+")
    main(parser.parse_args().sweeps)
