"""The HTML report: complete, safe, and alive in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
from typer.testing import CliRunner, Result

from snncompiler.advice import advise
from snncompiler.artifact import load
from snncompiler.cli import app
from snncompiler.data import Samples
from snncompiler.decomposition import CAUSES
from snncompiler.driver import compile_model
from snncompiler.provenance import commands, diffs
from snncompiler.record import RECORD, record_of

pytest.importorskip("matplotlib", reason="needs the extra 'report'")
pytest.importorskip("jinja2", reason="needs the extra 'report'")

from snncompiler.drawing import draw
from snncompiler.page import plots_of, render
from snncompiler.study import gather

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS, TRAIN, TEST = (MODELS / f"digits{end}" for end in (".onnx", "_train.npz", "_test.npz"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RUNNER = CliRunner()
#: Names that would do harm if anything took them for markup, mathematics or a path.
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> $\\frac$ ../x"


def snnc(*arguments: object) -> Result:
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two recipes (T = 8), with the plots in plots/ and the numbers in report.json."""
    made = tmp_path_factory.mktemp("report")
    with np.load(TRAIN) as train:
        np.savez(made / "train.npz", x=train["x"][:200])
    for recipe, extra in (("binary", ["--dump-ir", made / "ir"]), ("ternary", [])):
        snnc(
            *("compile", DIGITS, "--calibration", made / "train.npz", "-T", 8, "--recipe", recipe),
            *("-o", made / f"{recipe}.onnx", "--set", "thresholds.percentile=99.5", *extra),
        )
    snnc(
        *("report", made / "binary.onnx", TEST, "--reference", DIGITS, "--limit", 40),
        *("--with", made / "ternary.onnx", "--dumps", made / "ir", "--examined", 8),
        *("-o", made / "report.html", "--plots", made / "plots", "--json", made / "report.json"),
    )
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


PLOTS = {"accuracy", "decomposition", "thresholds"} | {
    f"{kind} {i}" for kind in ("rates", "scatter", "raster", "membrane") for i in range(4)
}


def test_every_plot_is_there_on_the_page_and_as_files(folder: Path, page: str) -> None:
    shown = {a["data-plot"] for tag, a in Elements(page).tags if tag == "figure"}
    assert shown == PLOTS
    files = {p.name for p in (folder / "plots").iterdir()}
    assert len(files) == 2 * len(PLOTS)
    assert {"accuracy.png", "accuracy.svg", "00_relu1_raster.png"} <= files
    assert (folder / "plots/accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_no_network(page: str) -> None:
    for tag, attributes in Elements(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        for key in ("src", "href", "xlink:href", "action", "data"):
            target = attributes.get(key) or ""
            assert target.startswith(("#", "data:")) or not target, f"{tag} {key}={target[:80]}"
    assert "url(http" not in page
    assert "@import" not in page
    policy = next(a["content"] for t, a in Elements(page).tags if t == "meta" and "content" in a)
    assert "default-src 'none'" in str(policy)
    assert len(page) < 5_000_000


def test_the_page_tells_what_the_numbers_are(folder: Path, page: str) -> None:
    told = json.loads((folder / "report.json").read_text())
    assert [n["label"] for n in told["networks"]] == ["binary.onnx", "ternary.onnx"]
    for network in told["networks"]:
        for share in network["run"]["accuracy_at"].values():
            assert f"{100 * share:.2f} %" in page
        assert f"{network['operations']['effective_acs']:,.0f}" in page
    for site in told["doctor"]["sites"]:
        assert site["name"] in page
        assert f"{100 * site['error']:.2f} %" in page
    assert "estimates, not measurements" in told["networks"][0]["energy"]["label"]
    assert "Estimates of energy, not measurements" in page
    assert "--set thresholds.percentile=99.5" in html.unescape(page)
    assert "What neurons changed" in page
    assert "snn.IF(" in page  # from the differences


def test_the_commands_make_the_network_again(folder: Path, tmp_path: Path) -> None:
    record = record_of(load(folder / "binary.onnx"))
    compile_, _run = commands(str(tmp_path / "again.onnx"), record).splitlines()
    words = compile_.replace("MODEL.onnx", str(DIGITS)).split()
    words[words.index("DATA.npz")] = str(folder / "train.npz")
    snnc(*words[1:])
    assert (tmp_path / "again.onnx").read_bytes() == (folder / "binary.onnx").read_bytes()


def test_a_drawing_has_every_node_below_what_it_reads(folder: Path) -> None:
    model = load(folder / "binary.onnx")
    drawing = draw(model)
    nodes = list(model.graph)
    assert [b.index for b in drawing.boxes] == [-1, *range(len(nodes))]
    place = {b.index: b for b in drawing.boxes}
    for i, node in enumerate(nodes):
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer.op_type != "Constant":
                assert place[nodes.index(producer)].y < place[i].y
    corners = {(b.x, b.y) for b in drawing.boxes}
    assert len(corners) == len(drawing.boxes)  # none hides another
    assert all(0 <= b.x < drawing.width and 0 <= b.y < drawing.height for b in drawing.boxes)


@pytest.fixture(scope="module")
def evil_page() -> str:
    """A report on a network whose every name is an attack, labelled with another."""
    proto = onnx.load(DIGITS)
    for i, node in enumerate(proto.graph.node):
        node.name = f"{i} {EVIL}"
    with np.load(TRAIN) as train, np.load(TEST) as test:
        x, data = train["x"][:50], Samples(test["x"][:4], test["y"][:4])
        model = compile_model(proto, x, timesteps=3).model
        study = gather({f"__{EVIL}": model}, data, examined=2)
    return render(study, plots_of(study))


def test_names_are_never_markup(evil_page: str) -> None:
    page, tags = evil_page, Elements(evil_page).tags
    assert "alert(1)" in page  # the names are there, as text
    assert "<script>document" not in page
    assert not [a for _tag, a in tags if any(k.startswith("on") for k in a)]
    assert len([t for t, _a in tags if t == "script"]) == 2  # the data and our own
    assert [a for t, a in tags if t == "img"] == []
    data = re.search(r'<script id="nodes"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert any(EVIL in n.get("stands for", "") for n in json.loads(data[1]))


def browse(page: Path, *extra: str) -> tuple[str, str]:
    """Open a page in headless Chromium: (the document afterwards, what the browser logged)."""
    assert CHROMIUM is not None
    switches = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr --v=0"
    )
    done = subprocess.run(
        [
            *(CHROMIUM, *switches.split(), f"--user-data-dir={page.parent / 'profile'}"),
            *("--dump-dom", *extra, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

#: Clicks, zooms and drags as a user does, then writes what happened into the title.
ACTIONS = """
<script>
const say = [], node = document.querySelectorAll(".node");
const before = document.getElementById("scene").getAttribute("transform");
node[8].querySelector("rect").dispatchEvent(new MouseEvent("click", {bubbles: true}));
say.push(document.getElementById("details").textContent.includes("stands for"));
say.push(node[8].classList.contains("chosen"));
document.getElementById("zoom-in").click();
say.push(document.getElementById("scene").getAttribute("transform") !== before);
document.getElementById("zoom-fit").click();
say.push(document.getElementById("scene").getAttribute("transform") === before);
const at = (type, x) => new PointerEvent(type, {bubbles: true, pointerId: 1, clientX: x});
document.getElementById("viewport").dispatchEvent(at("pointerdown", 10));
window.dispatchEvent(at("pointermove", 60));
window.dispatchEvent(at("pointerup", 60));
say.push(document.getElementById("scene").getAttribute("transform") !== before);
node[9].dispatchEvent(new KeyboardEvent("keydown", {bubbles: true, key: "Enter"}));
say.push(node[9].classList.contains("chosen"));
say.push([...document.querySelectorAll("figure svg")].every((s) => s.viewBox.baseVal.width > 0));
say.push(document.documentElement.scrollWidth <= window.innerWidth);
document.title = JSON.stringify(say);
</script>
"""


@chromium
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_lives_in_a_browser(page: str, tmp_path: Path, width: int) -> None:
    # Only the test's own copy lets a second script in.
    acted = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (tmp_path / "page.html").write_text(acted.replace("</body>", f"{ACTIONS}</body>"))
    document, log = browse(tmp_path / "page.html", f"--window-size={width},900")
    assert "CONSOLE" not in log
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    assert json.loads(html.unescape(title[1])) == [True] * 8


@chromium
def test_the_page_as_written_obeys_its_own_policy(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "report.html", tmp_path / "page.html")
    document, log = browse(tmp_path / "page.html")
    assert "CONSOLE" not in log
    scene = re.search(r'id="scene" transform="translate', document)
    assert scene is not None  # so the script ran


@chromium
def test_evil_names_do_nothing_in_a_browser(evil_page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(evil_page)
    document, log = browse(tmp_path / "page.html")
    assert "CONSOLE" not in log
    assert "<title>owned" not in document
    assert 'id="scene" transform="translate' in document


def test_a_report_without_labels_or_trained_network(folder: Path) -> None:
    with np.load(TEST) as test:
        study = gather({"snn": load(folder / "binary.onnx")}, Samples(test["x"][:4], None))
    page = render(study, plots_of(study))
    assert "Where the error comes from" not in page
    assert study.as_json()["doctor"] is None
    assert study.entries[0].latency() is None


def test_what_cannot_be_reported_is_told(folder: Path, tmp_path: Path) -> None:
    snn, out = folder / "binary.onnx", tmp_path / "r.html"
    for extra, words in (
        (("--dumps", tmp_path), "there are no dumps"),
        (("--examined", "0"), "cannot examine 0 samples"),
        (("--plots", TEST), "cannot write"),
    ):
        order = ["report", snn, TEST, "--limit", 2, "-o", out, *extra]
        result = RUNNER.invoke(app, [str(a) for a in order])
        assert result.exit_code == 2, result.output
        assert words in result.output
        assert not out.exists()
    assert diffs(None) == []


@pytest.mark.parametrize("junk", [None, 7, "x", [1, None], [{"name": 3, "gamma": {}}], {"a": "b"}])
def test_a_record_of_a_stranger_does_no_harm(folder: Path, junk: object) -> None:
    record = {
        **record_of(load(folder / "binary.onnx")),
        "passes": junk,
        "story": junk,
        "seed": junk,
    }
    assert "snnc compile" in commands("a b.onnx", record)
    assert "'a b.onnx'" in commands("a b.onnx", record)
    for cause in CAUSES:
        assert advise(cause, 8, record)
    with np.load(TEST) as test:
        model = load(folder / "binary.onnx")
        model.metadata_props[RECORD] = json.dumps(record)
        study = gather({"snn": model}, Samples(test["x"][:2], None), timesteps=2, examined=1)
    assert "How it was made" in render(study, {})
