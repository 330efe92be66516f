"""The table of pretrainers: what is compared with what, and in which order."""

import json

from benchmarks import pretrainers


def test_a_pretrainer_is_compared_with_none_on_the_same_seed_and_draw(tmp_path):
    sweep, other = tmp_path / "sweep", tmp_path / "other"
    base = {0: [0.80, 0.70, 0.75], 1: [0.82, 0.71, 0.77]}
    n = 0
    for name, gain in (("none", 0.0), ("ae", 0.02), ("vicreg", 0.10)):
        for seed, draws in base.items():
            for labels in (10, "all"):
                for strategy in pretrainers.STRATEGIES:
                    content = {
                        "config": {"seed": seed, "labels": labels},
                        "choices": {"strategy": strategy, "pretrainer": name},
                        "draws": {"pretrained": [a + gain + 0.0001 * i for i, a in enumerate(draws)]},
                        "stages": {"pretrain": {"seconds": 10.0 + 2 * seed}} if gain else {},
                    }
                    folder = (other if name == "vicreg" else sweep) / str(n)
                    folder.mkdir(parents=True)
                    (folder / "results.json").write_text(json.dumps(content))
                    n += 1
    pretrainers.main([sweep, other], tmp_path)
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert [r.split(" | ")[0] for r in rows] == ["| pretrainer", "| ---", "| vicreg", "| ae", "| none"]
    assert "| +10.0 (" in rows[2]
    assert rows[2].endswith("| helped, helped | 11 |")
    assert rows[4].split(" | ")[1] == "75.8"
    assert rows[4].rstrip(" |").endswith("75.8")  # nothing that the control is compared with
