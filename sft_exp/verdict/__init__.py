"""Did pretraining help? The statistics of the verdict on plain arrays, without torch and Hydra.

    from sft_exp import verdict

    report = verdict.judge(
        {"vae": verdict.Comparison(pretrained, scratch)},  # scores [seeds][draws], paired
        verdict.Setting(tested=10_000),
        verdict.frozen(),
        without=["mnist"],  # the data set that the scores are of
    )
    print(report.verdicts["vae"].text)

docs/verdict.md states every formula with its source, and what it does not promise.
"""

from sft_exp.verdict.archive import Archive, Prior, from_folder, frozen
from sft_exp.verdict.evidence import interval
from sft_exp.verdict.rule import MOST, STANDARD, Comparison, Report, Setting, judge, primary_weights
from sft_exp.verdict.words import SAYS, WITHHELD, Verdict

__all__ = [
    "MOST", "SAYS", "STANDARD", "WITHHELD", "Archive", "Comparison", "Prior", "Report", "Setting",
    "Verdict", "from_folder", "frozen", "interval", "judge", "primary_weights",
]  # fmt: skip
