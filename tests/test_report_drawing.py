"""The figures of a report, drawn by matplotlib, and its page in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import report
from electra_ref.training.report.curves import MOST_POINTS, Curve
from electra_ref.training.report.drawing import draw
from electra_ref.training.report.page import page_of
from electra_ref.training.report.panels import Panel, Series
from electra_ref.training.report.reading import read_runs
from tests.report_runs import HELD_OUT, HOSTILE, SAMPLE, TRAINING, Page, hostile_sample, make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "small", "div", "p", "b",
    "nav", "a", "main", "section", "h2", "h3", "figure", "figcaption", "svg", "defs", "g", "path",
    "use", "text", "line", "clipPath", "rect", "ul", "ol", "li", "span", "bdi", "table", "caption",
    "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
CHROMIUM_ITSELF = '"initiator":"not an origin"'  # of a request that no page makes
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


@pytest.fixture(autouse=True)
def matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: plots)")


def panel_of(*series: Series, **changes: Any) -> Panel:
    values: dict[str, Any] = {
        "slug": "loss", "title": "Loss", "note": "", "series": series, "changes": [],
        "last_step": 10, "is_thinned": False,
    }  # fmt: skip
    return Panel(**{**values, **changes})


def series_of(*values: float, run: int = 0, role: str = "main") -> Series:
    steps = np.arange(1.0, len(values) + 1)
    return Series(run, role, "held-out rows", Curve(steps, np.array(values)))


def paths_of(svg: str, colour: str) -> list[str]:
    """Return what ``svg`` draws with a colour."""
    drawn = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg)
    return [path for path, style in drawn if f"stroke: {colour}" in style]


@pytest.mark.plots
def test_a_figure_is_part_of_its_page() -> None:
    svg = draw(panel_of(series_of(3.0, 2.0, 1.0)), 'a "word" & <b>')
    page = Page(svg)
    figure = page.elements[0][1]
    assert (figure["role"], figure["aria-label"]) == ("img", 'a "word" & <b>')
    assert figure["viewbox"] == "0 0 324 208.8"
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert all(str(name).startswith("loss-") for name in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', svg)
    assert used
    assert set(used) <= set(ids)
    assert not {tag for tag, _ in page.elements} & {"style", "script", "metadata", "image"}
    assert "http" not in svg
    assert "font-family: inherit" in svg
    assert "DejaVu" not in svg
    assert "#0a0b" not in svg
    assert set(re.findall(r"var\(--[a-z0-9-]*\)", svg)) == {"var(--grid)", "var(--run-0)"}
    assert "step" in page.text


@pytest.mark.plots
def test_the_same_figure_has_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the settings of the user are."""
    import matplotlib as mpl  # noqa: PLC0415  (an extra)

    panel = panel_of(series_of(3.0, 2.0, 1.0), series_of(1.0, 2.0, run=1), changes=[(0, 2)])
    first = draw(panel, "words")
    monkeypatch.setitem(mpl.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    assert draw(panel, "words") == first
    assert mpl.rcParams["lines.linewidth"] == 9.0


@pytest.mark.plots
def test_lines_are_where_their_values_are() -> None:
    panel = panel_of(
        series_of(0.0, 1.0), series_of(1.0, 0.0, run=1, role="step"), last_step=2, level=0.5,
        changes=[(0, 1)],
    )  # fmt: skip
    svg = draw(panel, "words")
    (up,), (down,) = (paths_of(svg, f"var(--run-{run})")[:1] for run in (0, 1))
    (x0, y0), (x1, y1) = re.findall(r"([\d.]+) ([\d.]+)", up)
    (u0, v0), (u1, v1) = re.findall(r"([\d.]+) ([\d.]+)", down)
    assert (x0, x1) == (u0, u1)
    assert (y0, y1) == (v1, v0)
    assert float(x0) < float(x1)
    assert float(y0) > float(y1)  # downwards in SVG
    level, change = paths_of(svg, "var(--change)")
    assert {y for _, y in re.findall(r"([\d.]+) ([\d.]+)", level)} == {
        f"{(float(y0) + float(y1)) / 2:.6f}".rstrip("0")
    }
    assert {x for x, _ in re.findall(r"([\d.]+) ([\d.]+)", change)} == {x0}


@pytest.mark.plots
def test_axes_are_those_of_the_figure() -> None:
    svg = draw(panel_of(series_of(1.0, 10.0, 100.0), scale="log", last_step=2000), "words")
    heights = [
        float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", paths_of(svg, "var(--run-0)")[0])
    ]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2])
    shown = Page(svg).text.split()
    assert {"1,600", "2,000", "step", "10", "50"} <= set(shown)


@pytest.mark.plots
@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0], "linear"),
        ([1e300, 1.0, -1e300], "linear"),
        ([1e300], "log"),
        ([0.0, -1.0], "log"),
        ([0.0, 1e-30, 1e30], "log"),
        ([5.0, 5.0], "from zero"),
        ([np.nan, 1.0, np.nan, 2.0], "linear"),
        ([3.1, 3.2], "log"),
    ],
)
def test_any_values_are_drawn(values: list[float], scale: str) -> None:
    """Warnings are errors here."""
    for role in ("step", "main", "second", "baseline"):
        Page(draw(panel_of(series_of(*values, role=role), scale=scale), "words"))


@pytest.mark.plots
def test_a_page_of_many_records_is_small(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    records = [
        {**TRAINING[0], "step": step, "loss": loss, "mlm_loss": loss, "gradient_norm": loss}
        for step, loss in enumerate(random.uniform(1.0, 2.0, 20 * MOST_POINTS).tolist(), 1)
    ]
    page = page_of(read_runs([make_run(tmp_path / "a", [*records, HELD_OUT])]), draw)
    assert len(page) < 400_000
    assert "(thinned)" in page
    assert page == page_of(read_runs([tmp_path / "a"]), draw)
    Page(page)


# A page with a script, which measures the report in a frame of some width.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe src="REPORT" style="width: WIDTHpx; height: 900px"></iframe><script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const box = (each) => { const r = each.getBoundingClientRect(); return [r.width, r.height]; };
  const all = (selector) => [...page.querySelectorAll(selector)];
  const result = {
    figures: all("figure > svg").map(box),
    lines: all('figure > svg path[style*="--run"]').map((path) => getComputedStyle(path).stroke),
    swatches: all(".swatch path").map(box),
    tokens: all(".tokens bdi").map((each) => each.textContent),
    elements: [...new Set(all("*").map((each) => each.localName))],
    width: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    title: page.title,
    titles: all("h3").map((each) => each.textContent),
  };
  document.body.textContent = JSON.stringify(result);
};
</script></body>"""


def open_in_chromium(page: Path, folder: Path, *flags: str) -> tuple[str, list[str], set[str]]:
    """Return the page as Chromium has it, the lines of its console, what it asks a network for."""
    log = folder / "requests.json"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", f"--log-net-log={log}", *flags]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, timeout=120, check=False
    )
    said = done.stderr.decode(errors="replace").splitlines()
    assert done.returncode == 0, said
    lines = log.read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if '"initiator":' in line and CHROMIUM_ITSELF not in line]
    requests = {url for line in asked for url in re.findall(r'"url":"([^"]*)"', line)}
    return done.stdout.decode(), [line for line in said if "CONSOLE" in line], requests


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: chromium)")
def test_a_browser_shows_the_page_and_asks_for_nothing(tmp_path: Path) -> None:
    other = {"step": 5, "split": "training", "loss": 1.0, '"><b>x</b>_loss': 1.0}
    first = make_run(tmp_path / "<i>a&amp;", samples=[hostile_sample()])
    second = make_run(tmp_path / "b", [*TRAINING, other], seed=1)
    page = tmp_path / "page.html"
    assert report.main([str(first), str(second), "--output", str(page)]) == 0
    _, said, requests = open_in_chromium(page, tmp_path / "profile")
    assert said == []
    assert requests == set()
    for width in (360, 1200):
        probe = tmp_path / f"probe-{width}.html"
        probe.write_text(PROBE.replace("REPORT", page.name).replace("WIDTH", str(width)))
        folder = tmp_path / f"profile-{width}"
        dom, said, _ = open_in_chromium(probe, folder, "--allow-file-access-from-files")
        assert said == []
        seen = json.loads(html.unescape(re.sub("<[^>]*>", "", dom)))
        assert len(seen["figures"]) == 10
        assert all(box[0] > 250 and box[1] > 150 for box in seen["figures"])
        assert {*seen["lines"]} == {"rgb(11, 98, 168)", "rgb(200, 80, 10)"}
        assert seen["swatches"]
        assert all(min(box) > 1 for box in seen["swatches"])
        assert seen["width"] == 0  # nothing is wider than the page
        assert seen["title"] == "ELECTRA pre-training: <i>a&amp;, b"
        assert set(seen["elements"]) <= ELEMENTS
        assert '"><b>x</b>_loss' in seen["titles"]
        for token in ("</script>", "<b>bold</b>", "&amp;", "$x^2$", "\\u202eabc", "\\x00"):
            assert seen["tokens"].count(token) == 3
        assert len(seen["tokens"]) == 3 * (len(HOSTILE) + len(SAMPLE["original"]))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: chromium)")
def test_a_browser_tells_of_a_page_that_asks_and_runs(tmp_path: Path) -> None:
    """What the test above asserts can fail."""
    url = "http://127.0.0.1:9/picture.png"  # a port at which nobody answers
    picture, script = f'<img src="{url}">', "<script>1</script>"
    page = tmp_path / "page.html"
    assert report.main([str(make_run(tmp_path / "a")), "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("<main>", f"<main>{picture}{script}"), encoding="utf-8")
    _, said, requests = open_in_chromium(page, tmp_path / "profile")
    assert len(said) == 2
    assert requests == set()  # the policy stops this one, too
    page.write_text(f"<body>{picture}</body>", encoding="utf-8")
    _, _, requests = open_in_chromium(page, tmp_path / "again")
    assert requests == {url}
