"""Monitoring the features during pretraining is accurate and changes no bit of the training."""

import json
from pathlib import Path

import pytest
import torch

from sft_exp import api
from sft_exp.data.images import Images
from sft_exp.stages.monitor import clusters, effective_rank, probes

TINY = [
    "pretrain.steps=8", "finetune.steps=2", "draws=1", "controls=false", "tracker=none", "val=none",
    "labels=5", "report=false",
]  # fmt: skip


def rows_of(folder):
    return [json.loads(line) for line in (folder / "monitors.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pretrainer", ["vae", "gan"])
@pytest.mark.sampled(1)
def test_training_is_the_same_bits_with_and_without(pretrainer):
    folders = {}
    for on in ("true", "false"):
        found = api.run(
            [
                *TINY,
                f"pretrainer={pretrainer}",
                "encoder=conv",
                "encoder.channels=[8,8]",
                f"monitors={on}",
                f"store={on}",
            ]
        )
        folders[on] = Path(found["stages"]["pretrain"]["folder"])
    assert folders["true"].name == folders["false"].name
    for file in ("encoder.safetensors", "metrics.jsonl"):
        assert (folders["true"] / file).read_bytes() == (folders["false"] / file).read_bytes()
    assert not (folders["false"] / "monitors.jsonl").exists()
    floor, *rows = rows_of(folders["true"])
    assert (floor["step"], floor["labels"]) == (None, "labels=5")
    assert [r["step"] for r in rows] == [0, 2, 4, 6, 8]
    assert all(
        {"probe", "knn", "rank", "nmi", "ari", "cluster_accuracy"} <= row.keys()
        for row in (floor, *rows)
    )
    assert floor["probe"] > 0.5  # 50 labelled digits, read off their pixels


def test_effective_rank_counts_the_dimensions_used():
    """Equal singular values of 7 directions are 7; one direction alone is 1."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(50, 7, generator=rng)).Q
    assert effective_rank(
        basis @ torch.linalg.qr(torch.randn(20, 7, generator=rng)).Q.T
    ) == pytest.approx(7, abs=0.01)
    assert effective_rank(torch.ones(50, 20)) == pytest.approx(1, abs=0.01)


def test_features_that_are_the_classes_score_1_and_noise_scores_chance():
    y = torch.arange(4).repeat(25)
    labelled = Images(torch.zeros(100, 1, 1, 1), y, [str(i) for i in range(100)])
    told, noise = (
        torch.nn.functional.one_hot(y).float(),
        torch.randn(100, 4, generator=torch.Generator().manual_seed(0)),
    )
    for found in (probes(told, labelled), clusters(told, y)):
        assert all(value == pytest.approx(1) for value in found.values())
    assert max(probes(noise, labelled).values()) < 0.5
    assert clusters(noise, y)["ari"] < 0.1


def test_where_no_label_can_be_held_out_nothing_is_probed():
    labelled = Images(torch.zeros(3, 1, 1, 1), torch.arange(3), ["a", "b", "c"])
    assert probes(torch.randn(3, 4), labelled) == {}
    assert clusters(torch.randn(3, 4), labelled.y) == {}
