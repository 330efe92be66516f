"""What to label, forecasts and suspicious labels, on finished runs: `python -m benchmarks.labels RUN...`

Of each run's pretrained features: TypiClust and coreset against labels drawn at random, at 1, 2 and 5 labels a class over 10
draws; how many held-out counts of its learning curve lie inside their forecasts; and where flipped labels are ranked. The
classifier is the linear probe that `strategy=linear` starts from.

Where they are installed, scikit-activeml chooses among the same images, and cleanlab ranks the same flipped labels, by the
five-fold predictions of a logistic regression on the same features.
"""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor, nn

from sft_exp import api
from sft_exp.core.rng import stream
from sft_exp.data import splits
from sft_exp.data.corpus import Corpus
from sft_exp.data.splits import Labels
from sft_exp.label import acquire
from sft_exp.label.learning_curve import forecast
from sft_exp.label.selection import POOL, outputs
from sft_exp.label.suspicious import agreement
from sft_exp.models.heads.fitted import fit_linear
from sft_exp.models.layers import Standardise
from sft_exp.tasks.classify import Classify
from sft_exp.training.context import corpus
from sft_exp.verdict import interval

DRAWS = 10
EACH = (1, 2, 5)  # labels a class
# of the learning curve
COUNTS = (10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 1920, 2560)
# halvings a forecast sees at most; how many times their largest count it goes
SEEN, FARTHEST = (4, 4)
FLIPPED = 0.05
RANKED = (100, 300)  # labels in all, among which flipped ones are looked for


class Probe:
    """Features of a run's training and test images, and the accuracy of a linear probe on some of them."""

    def __init__(self, run: str):
        self.data: Corpus = corpus(api.reopen(run).dataset)
        if self.data.test is None:
            test, train = (
                self.data.train.at(rows)
                for rows in reversed(splits.fold(self.data.train, self.data.classes, 0))
            )
        else:
            test, train = self.data.test, self.data.train
        encoder = api.load_pretrained(run)
        scale, f_ND = Standardise(encoder.width), outputs(encoder, train)
        scale.fit(f_ND, each=False)
        self.raw_ND, self.f_ND, self.y_N = f_ND, scale(f_ND), train.y
        self.test_ND, self.test_N = scale(outputs(encoder, test)), test.y
        self.told = Corpus(self.data.name, self.data.classes, train)

    def accuracy(self, rows: Tensor) -> float:
        head = nn.Linear(self.f_ND.shape[1], len(self.data.classes))
        fit_linear(head, self.f_ND[rows], self.y_N[rows], Classify().ridge)
        with torch.no_grad():
            return float((head(self.test_ND).argmax(1) == self.test_N).float().mean())

    def drawn(self, total: int, draw: int) -> Tensor:
        """A stratified label draw."""
        return splits.choose(self.told, torch.arange(len(self.y_N)), Labels(f"total:{total}"), draw)


def chosen(probe: Probe) -> None:
    """Each strategy without a label to start from; differences to uniform draws, paired by number."""
    looked = torch.randperm(len(probe.f_ND), generator=stream("looked"))[:POOL]
    f_ND, none = (
        acquire.directions(probe.raw_ND[looked]),
        torch.zeros(len(looked), dtype=torch.bool),
    )
    for each in EACH:
        n = each * len(probe.data.classes)
        found = {
            "random": [probe.accuracy(looked[acquire.random(none, n, d)]) for d in range(DRAWS)],
            "stratified": [probe.accuracy(probe.drawn(n, d)) for d in range(DRAWS)],
            "typiclust": [
                probe.accuracy(looked[acquire.typiclust(f_ND, none, n, d)]) for d in range(DRAWS)
            ],
            "coreset": [
                probe.accuracy(looked[acquire.coreset(f_ND, none, n, d)]) for d in range(DRAWS)
            ],
        }
        if find_spec("skactiveml"):
            found["scikit-activeml's TypiClust"] = [
                probe.accuracy(looked[theirs(f_ND, n, d)]) for d in range(DRAWS)
            ]
        for name, scores in found.items():
            mean, low, high = (
                100 * v
                for v in interval([[a - b for a, b in zip(scores, found["random"], strict=True)]])
            )
            against = (
                ""
                if name == "random"
                else f"  {mean:+5.1f} points ({low:+.1f} to {high:+.1f}) against random"
            )
            print(f"  {n:4} labels  {name:27} {100 * fmean(scores):5.1f} %{against}", flush=True)


def theirs(f_ND: Tensor, n: int, seed: int) -> Tensor:
    """The rows that scikit-activeml's TypiClust chooses."""
    import numpy as np
    from skactiveml.pool import TypiClust

    unlabelled = np.full(len(f_ND), np.nan)
    rows = TypiClust(random_state=seed).query(f_ND.numpy(), unlabelled, batch_size=n)
    return torch.from_numpy(rows)


def ranked(probe: Probe) -> Iterator[str]:
    """The average precision with which few flipped labels are found: ours, and cleanlab's."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import cross_val_predict

    classes = len(probe.data.classes)
    for total in RANKED:
        found: dict[str, list[float]] = {}
        for draw in range(DRAWS):
            rows = probe.drawn(total, draw)
            y_N, f_ND = probe.y_N[rows].clone(), acquire.directions(probe.raw_ND[rows])
            generator = stream("flips", draw)
            some = torch.randperm(total, generator=generator)[: round(2 * FLIPPED * total)]
            other = torch.randint(1, classes, (len(some),), generator=generator)
            y_N[some] = (y_N[some] + other) % classes
            wrong_N = torch.isin(torch.arange(total), some).numpy()
            score_N = -agreement(f_ND, y_N, classes)[0].numpy()
            found.setdefault("ours", []).append(average_precision_score(wrong_N, score_N))
            if find_spec("cleanlab"):
                from cleanlab.rank import get_label_quality_scores

                model = LogisticRegression(max_iter=1000)
                p_NK = cross_val_predict(
                    model, probe.f_ND[rows].numpy(), y_N.numpy(), method="predict_proba"
                )
                score_N = -get_label_quality_scores(y_N.numpy(), p_NK)
                found.setdefault("cleanlab", []).append(average_precision_score(wrong_N, score_N))
        means = ", ".join(f"{name} {fmean(scores):.3f}" for name, scores in found.items())
        yield f"flipped labels among {total}, a tenth: average precision {means}"
        if "cleanlab" in found:
            pairs = zip(found["ours"], found["cleanlab"], strict=True)
            mean, low, high = interval([[a - b for a, b in pairs]])
            yield f"  ours above cleanlab's by {mean:+.3f} ({low:+.3f} to {high:+.3f})"


def curve(probe: Probe) -> dict[int, list[float]]:
    counts = [n for n in COUNTS if len(probe.data.classes) <= n <= len(probe.y_N)]
    return {n: [probe.accuracy(probe.drawn(n, d)) for d in range(DRAWS)] for n in counts}


def forecasts(scores: dict[int, list[float]]) -> Iterator[tuple[bool, float]]:
    """(inside, width) of each draw at each count that was held out."""
    for last in scores:
        seen = [last >> k for k in range(SEEN) if last >> k in scores]
        if len(seen) < 3 or any(a != 2 * b for a, b in pairwise(seen)):
            continue
        for count in (n for n in scores if last < n <= FARTHEST * last):
            coming = forecast({n: scores[n] for n in seen}, count)
            yield from (
                (coming.low <= score <= coming.high, coming.high - coming.low)
                for score in scores[count]
            )


def flips(probe: Probe) -> float:
    """The share of flipped labels in the first tenth of the ranking."""
    n, classes = len(probe.y_N), len(probe.data.classes)
    rows = torch.randperm(n, generator=stream("flips"))[: round(FLIPPED * n)]
    wrong_N = probe.y_N.clone()
    wrong_N[rows] = (
        wrong_N[rows] + torch.randint(1, classes, (len(rows),), generator=stream("flips to"))
    ) % classes
    agreement_N, _ = agreement(acquire.directions(probe.raw_ND), wrong_N, classes)
    first = agreement_N.argsort()[: n // 10]
    return float(torch.isin(rows, first).float().mean())


def main() -> None:
    for run in sys.argv[1:]:
        probe = Probe(run)
        print(f"\n{run}: {len(probe.y_N):,} images, {probe.f_ND.shape[1]} features")
        chosen(probe)
        inside, widths = zip(*forecasts(curve(probe)), strict=True)
        covered, width = 100 * fmean(inside), 100 * fmean(widths)
        print(
            f"  forecasts: {covered:.1f} % of {len(inside)} held-out accuracies inside; mean width {width:.1f} points"
        )
        print(
            f"  flipped labels: {100 * flips(probe):.1f} % in the first tenth of the ranking",
            flush=True,
        )
        for line in ranked(probe):
            print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
