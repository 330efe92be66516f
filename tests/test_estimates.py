"""What a plan says that a run will take: the arithmetic, and the truth."""

import pytest

import sft_exp
from sft_exp.config import build, compose
from sft_exp.jobs import prepare
from sft_exp.runs.estimates import Example, estimate, outlook


def finished(*examples):
    return [Example({"stop": steps}, seconds, 1000) for steps, seconds in examples]


@pytest.mark.parametrize(
    ("examples", "scaled", "seconds"),
    [
        ([(100, 2.0), (100, 4.0)], True, 30.0),  # one length: in proportion
        ([(5, 1.5), (25, 3.5)], True, 101.0),  # two: 0.1 s a step, and 1 s whatever the steps
        ([(5, 2.0), (25, 1.0)], True, 220.0),  # noise: no line that rises
        ([(0, 2.0)], True, None),  # a closed form tells nothing of steps
        ([(0, 2.0), (0, 4.0), (0, 3.0)], False, 3.0),
        ([], True, None),
    ],
)
def test_steps_are_scaled_by_the_finished_requests_of_the_same_parts(examples, scaled, seconds):
    result = estimate({"stop": 1000}, finished(*examples), scaled)
    assert (result and result.seconds) == (None if seconds is None else pytest.approx(seconds))


def test_other_parts_tell_nothing():
    other = Example({"stop": 5, "encoder": {"is": "Conv"}}, 1.0, 1000)
    assert estimate({"stop": 1000}, [other], True) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["pretrainer=vae", "pretrain.steps=600", "finetune.steps=600"],
        ["pretrainer=vicreg", "encoder=conv", "pretrain.steps=300", "finetune.steps=300"],
    ],
)
def test_the_estimate_on_an_empty_store_is_within_a_factor_of_two(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [*words, "draws=3", "tracker=none", "report=false", "monitors=false"]
    job = prepare.prepare(build.experiment(*compose.compose(given)))
    estimates = [one for stage in outlook([job]).values() for one in stage.missing]
    assert None not in estimates
    result = sft_exp.run(given)
    seconds = sum(s.seconds for s in result.result.stages.present().values() if not s.cached)
    assert 0.5 < sum(one.seconds for one in estimates) / seconds < 2
