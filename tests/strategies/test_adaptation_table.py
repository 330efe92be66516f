"""The table of strategies: paired differences and simultaneous intervals."""

import json

from benchmarks import adaptation


def test_a_strategy_is_compared_with_full_on_the_same_seed_and_draw(tmp_path):
    base = {0: [0.80, 0.70, 0.75], 1: [0.82, 0.71, 0.77]}
    jobs = [("full", s, 10, d) for s, d in base.items()]
    jobs += [
        ("lp_ft", s, 10, [a + 0.02 + 0.0001 * i for i, a in enumerate(d)]) for s, d in base.items()
    ]
    for n, (strategy, seed, labels, draws) in enumerate(jobs):
        (tmp_path / str(n)).mkdir()
        config = {"seed": seed, "labels": labels, "task": {"head": "probe"}}
        content = {
            "config": config,
            "choices": {"strategy": strategy},
            "draws": {"pretrained": draws},
        }
        (tmp_path / str(n) / "results.json").write_text(json.dumps(content))
    adaptation.main(tmp_path, tmp_path)
    text = (tmp_path / "adaptation.md").read_text()
    assert "| 10 | full | 75.83 | | | |" in text
    assert "| 10 | lp_ft | 77.84 | +2.01 | " in text
    assert "| better |" in text
    assert "pretraining seeds: 2, label draws: 3" in text
