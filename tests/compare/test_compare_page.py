"""compare.html in a real browser: what is clicked, and what is then shown."""

import base64
import json
import os
from itertools import product
from pathlib import Path

import pytest
from browser import ABSENT, CHROMIUM, Browser
from test_compare import give_curves, grid, planned, sweep

from sft_exp.compare.comparison import Comparison, collect
from sft_exp.compare.output import finish

__all__ = ["grid"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)]
HEADS = "[...document.querySelectorAll('table.interactive th')]"
ROWS = "[...document.querySelectorAll('table.interactive tbody tr')].filter(r => !r.hidden)"
BACK = "document.querySelector('.chart svg').style.backgroundColor"
# a browser may be asked for pictures to look at
PICTURES = os.environ.get("PAGE_PICTURES")


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def opened(browser, folder, width=1200, dark=False, name=""):
    """Open the page of a finished sweep. No request may leave it."""
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=width < 600,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.call("Emulation.setEmulatedMedia", features=[scheme])
    browser.open((folder / "compare.html").as_uri())
    assert browser.run("performance.getEntriesByType('resource').map(e => e.name)") == []
    if PICTURES and name:
        png = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(PICTURES, f"{name}.png").write_bytes(base64.b64decode(png["data"]))


def column(browser, head):
    place = f"{HEADS}.findIndex(th => th.textContent === '{head}')"
    return browser.run(f"{ROWS}.map(r => r.cells[{place}].textContent.trim())")


def sort(browser, head):
    browser.run(f"{HEADS}.find(th => th.textContent === '{head}').querySelector('button').click()")


def filtered(browser, query):
    browser.run(
        "(field => { field.value = " + json.dumps(query) + ";"
        "field.dispatchEvent(new Event('input')); })(document.querySelector('input[type=search]'))"
    )


def lines(browser, chart):
    """The lines that a chart has drawn, a path of more than one point each."""
    found = f"document.querySelectorAll('#{chart} .mark-line path')"
    return browser.run(
        f"[...{found}].map(p => p.getAttribute('d') || '').filter(d => d.includes('L')).length"
    )


def points(browser):
    return browser.run("document.querySelectorAll('#scatter .mark-symbol.role-mark path').length")


def test_sorted_by_numbers_with_missing_ones_last(browser, tmp_path):
    values = [0.095, None, 0.1025, 0.9, 0.0001]
    jobs = [planned(lr=lr) for lr in (1e-5, 0.1, 9.5, 10.25, 100)]
    finish(sweep(tmp_path / "s", jobs, {n: {"val": v} for n, v in enumerate(values)}))
    opened(browser, tmp_path / "s")
    sort(browser, "val")
    assert column(browser, "val") == ["90.0", "10.2", "9.5", "0.0", ""]
    sort(browser, "val")
    assert column(browser, "val") == ["0.0", "9.5", "10.2", "90.0", ""]
    sort(browser, "optim.lr")
    assert column(browser, "optim.lr") == ["100", "10.25", "9.5", "0.1", "1e-05"]


def test_table_and_charts(browser, grid):
    give_curves(grid, "finetune", [{"step": s, "loss": 2.0 / s} for s in range(1, 9)])
    (grid / "14/report.html").write_text("<body data-ready=yes>the report of job 14")
    finish(grid)
    opened(browser, grid, name="light")
    sort(browser, "test")
    tests = sorted((r.test for r in Comparison(collect([grid])).rows), reverse=True)
    assert column(browser, "test") == [f"{100 * t:.1f}" for t in tests]

    # each of ten rows has two seeds, and each seed a thin and a smoothed line
    assert lines(browser, "curves") == 10 * 2 * 2
    assert lines(browser, "parallel") == points(browser) == 24
    filtered(browser, "optim=sgd vae")
    assert len(column(browser, "job")) == 3
    browser.until("document.querySelectorAll('#scatter .mark-symbol.role-mark path').length === 6")
    assert lines(browser, "parallel") == 6

    filtered(browser, "")
    for n in (0, 4, 7):
        browser.run(f"{ROWS}[{n}].querySelector('input').click()")
    browser.until("3 * 2 * 2 === document.querySelectorAll('#curves .mark-line path').length")
    named = browser.run("document.querySelector('#curves .role-legend').textContent")
    for job in (column(browser, "job")[n] for n in (0, 4, 7)):
        assert f"{job}:" in named

    before = browser.run("document.querySelector('#curves .layer_1_marks path').outerHTML")
    browser.run(
        "(s => { s.value = 0.9; s.dispatchEvent(new Event('input')); })"
        "(document.getElementById('smoothing'))"
    )
    shape = "document.querySelector('#curves .layer_1_marks path').outerHTML"
    browser.until(f"{shape} !== {json.dumps(before)}")

    for axis in ("x", "colour"):
        browser.run(
            "(s => { s.value = 'optim.lr'; s.dispatchEvent(new Event('change')); })"
            f"(document.getElementById('{axis}'))"
        )
    browser.until(
        "document.querySelector('#scatter .role-legend').textContent.includes('optim.lr')"
    )
    assert "optim.lr" in browser.run(
        "document.querySelector('#scatter .role-axis-title').textContent"
    )
    assert points(browser) == 24

    browser.follow("[...document.querySelectorAll('a')].find(a => a.textContent === '14').click()")
    assert "the report of job 14" in browser.run("document.body.innerText")


@pytest.mark.parametrize("width", [400, 2000])
@pytest.mark.parametrize("dark", [False, True])
def test_widths_and_colours(browser, grid, width, dark):
    """Nothing sticks out of the window, and the charts have the page's colours."""
    give_curves(grid, "finetune", [{"step": s, "loss": 2.0 / s} for s in range(1, 9)])
    finish(grid)
    opened(browser, grid, width, dark, name=f"{width}-{'dark' if dark else 'light'}")
    assert browser.run("document.documentElement.scrollWidth") <= width
    wide = browser.run(
        "[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().right)"
    )
    assert len(wide) == 4
    assert max(wide) <= width
    assert browser.run(BACK) == ("rgb(23, 24, 27)" if dark else "rgb(255, 255, 255)")
    ink = browser.run("getComputedStyle(document.querySelector('#scatter text')).fill")
    assert ink == ("rgb(232, 232, 232)" if dark else "rgb(34, 34, 34)")


def test_the_page_follows_a_change_of_colours(browser, grid):
    finish(grid)
    opened(browser, grid)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", features=[scheme])
    browser.until(f"{BACK} === 'rgb(23, 24, 27)'")


def test_a_thousand_runs_are_a_small_and_fast_page(browser, tmp_path):
    """1,000 jobs, each with a training log of its own of 1,000 rows."""
    count = 1000
    jobs = [
        planned(*pair, lr=10**-rate, seed=seed)
        for *pair, rate, seed in product(("ae", "vae"), ("sgd", "adam"), range(25), range(10))
    ]
    outcomes = {n: {"val": 0.5 + (n * 7919 % count) / 2500, "test": 0.6} for n in range(count)}
    folder = sweep(tmp_path / "large", jobs, outcomes)
    for n in range(count):
        name = f"finetune-{n:016x}"
        log = tmp_path / "outputs" / "store" / name / "metrics.jsonl"
        log.parent.mkdir(parents=True)
        rows = ({"step": s, "loss": 2 / s + n, "lr": 0.1 / s} for s in range(1, count + 1))
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = folder / str(n) / "results.json"
        result = json.loads(file.read_text())
        about = {"folder": f"outputs/store/{name}", "cached": False, "seconds": 1.0}
        file.write_text(json.dumps(result | {"stages": {"finetune": about}}))
    finish(folder)
    assert (folder / "compare.html").stat().st_size < 10_000_000
    opened(browser, folder)
    assert len(column(browser, "val")) == count // 10  # seeds share a row
    assert points(browser) == count
    paint = "performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
    (painted,) = browser.run(paint)
    assert painted < 2000, "milliseconds"


def test_smoothing_is_the_average_that_trackers_draw(browser, grid):
    finish(grid)
    opened(browser, grid)
    assert browser.run("smoothed([4, 2, null, 1], 0.5)") == [
        4,
        pytest.approx(8 / 3),
        None,
        pytest.approx(12 / 7),
    ]
    assert browser.run("smoothed([4, 2], 0)") == [4, 2]
