"""Two processes equal one: gradients and numbers of all pretrainers, tasks and strategies."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ranked
import torch

from sft_exp.core.comm import share
from sft_exp.core.rng import stream
from sft_exp.errors import ConfigError
from sft_exp.execution import followers
from sft_exp.jobs import prepare
from sft_exp.runs import pipeline

HERE = Path(__file__).parents[1]
CASES = sorted(ranked.cases())
# BatchNorm, a queue and a teacher, a task with maps, one with a pool, a penalty, low rank
QUICK = {
    "pretrainer BarlowTwins", "pretrainer MoCo", "task Segment", "task FixMatch", "strategy L2SP", "strategy LoRA",
}  # fmt: skip
CLOSE = 1e-10


@pytest.fixture(scope="module")
def differences(tmp_path_factory, request):
    """Engine -> {case: what differed}; one pair of processes computes all that this session asks for."""
    of_here = (i.callspec.params for i in request.session.items if hasattr(i, "callspec"))
    only = ";".join(sorted({params["case"] for params in of_here if params.get("case") in CASES}))
    found = {}

    def of(engine):
        if engine not in found:
            folder = tmp_path_factory.mktemp(engine)
            two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            done = subprocess.run(
                [sys.executable, *two, str(HERE / "ranked.py"), str(folder), engine, only],
                capture_output=True,
                text=True,
                cwd=HERE.parent,
            )
            assert done.returncode == 0, done.stderr
            found[engine] = {
                file.name.removesuffix(f" {engine}.json"): json.loads(file.read_text())
                for file in folder.iterdir()
            }
        return found[engine]

    return of


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES]
)
@pytest.mark.parametrize("engine", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_compute_what_one_does(differences, engine, case):
    """Of ten rows one process has four and the other six. What is compared: gradients of each of four steps, and all parameters,
    statistics, queues and teachers after them."""
    found = differences(engine)[case]
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found.keys() == {"gradients", "end"}, found
    assert max(found.values()) < CLOSE


@pytest.mark.parametrize("total", [2, 7, 10, 128])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_are_handed_out_once_and_in_pairs(total, count):
    shares = [share(total, r, count) for r in range(count)]
    assert [row for s in shares for row in range(s.start, s.stop)] == list(range(total))
    assert all(s.start % 2 == 0 for s in shares)


@pytest.mark.parametrize("rows", [8, 24])  # the batch's, and of a pool with three for each
@pytest.mark.parametrize(
    "draw", [lambda s, n: s.rand(n, 3), lambda s, n: s.randn(n), lambda s, n: s.beta(0.5, n)]
)
def test_a_streams_numbers_are_the_whole_batchs(draw, rows):
    whole = draw(stream("x"), rows)
    parts = [
        draw(stream("x", share=s), rows // 8 * len(s))
        for s in (share(8, 0, 3), share(8, 1, 3), share(8, 2, 3))
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_stream_gives_one_number_to_all_and_refuses_other_counts():
    first, second = (stream("x", share=share(8, r, 2)) for r in range(2))
    assert first.rand() == second.rand()
    with pytest.raises(ValueError, match="not a multiple"):
        first.rand(3)


def test_coins_fall_as_for_the_whole_batch():
    p = torch.rand(8, 5, generator=torch.Generator().manual_seed(0))
    parts = [stream("x", share=s).bernoulli(s.of(p)) for s in (share(8, 0, 2), share(8, 1, 2))]
    assert torch.equal(torch.cat(parts), stream("x").bernoulli(p))


@pytest.mark.parametrize("words", [["seed=1"], ["optim.lr=0.02"], ["dataset.test=400"], []])
def test_a_rank_with_another_job_is_refused(words, experiment, monkeypatch):
    """The names of the results of two processes, as the group gathers them: they depend on config, code
    and data. Two real processes: test_together."""
    jobs = [prepare.prepare(experiment("hardware=ddp", *w)) for w in ([], words)]
    names = [pipeline.folder_names(job) for job in jobs]
    monkeypatch.setattr(followers, "present", lambda: True)
    monkeypatch.setattr(followers, "Group", lambda *_: SimpleNamespace(same=lambda own: names))
    ctx = SimpleNamespace(device=torch.device("cpu"), group=None)
    if not words:
        followers.init_group(jobs[0], ctx)
        return
    with pytest.raises(ConfigError, match="process 1 has another config, other code or other data"):
        followers.init_group(jobs[0], ctx)
