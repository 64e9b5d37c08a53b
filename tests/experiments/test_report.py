"""The page of everything: what its numbers are, that it stands alone, and that a browser can click through it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib import colormaps
from PIL import Image

import deconv_kernels as dk
from deconv_kernels.cli.report import command
from deconv_kernels.experiments.common.layers import spread_layers
from deconv_kernels.experiments.invariance import figure_5
from deconv_kernels.experiments.report import make_report
from deconv_kernels.models import load_weights
from deconv_kernels.plot.invariance import Examples
from deconv_kernels.plot.page import Photographs, write_page

NETWORK = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )
"""
OTHERS = """
import torch
from torch import nn
from network import build

def depth():
    return nn.Sequential(nn.Conv2d(2, 6, 5), nn.ReLU(), nn.Conv2d(6, 4, 3))

def double():
    return build().double()

def nan(value=float("nan")):
    network = build()
    network[3].weight.data[0, 0, 0, 0] = value
    return network

def infinite():
    return nan(float("inf"))
"""
MAPS, K, SIZE = 4, 4, 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "network.py").write_text(NETWORK)
    (folder / "photographs").mkdir()
    for name in ("one", "a<b>&'c"):
        Image.effect_noise((70, 56), 70).convert("RGB").save(folder / "photographs" / f"{name}.png")
    return folder


def run(place, *arguments: str, output: str = "out"):
    options = {
        "--model": f"{place / 'network.py'}:build", "--weights": "random", "--images": str(place / "photographs"),
        "--maps": str(MAPS), "-k": str(K), "--crops": "12", "--whole": "2", "--occluder": "9", "--stride": "6",
        "--size": str(SIZE), "-o": str(place / output),
    }  # fmt: skip
    options.update(zip(arguments[::2], arguments[1::2], strict=True))
    return CliRunner().invoke(command, [part for pair in options.items() for part in pair])


@pytest.fixture(scope="module")
def page(place):
    result = run(place)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (place / "out").iterdir()] == ["report.html"]
    return place / "out" / "report.html"


class Data(HTMLParser):
    """The JSON inside the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inside, self.text, self.links = False, "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = dict(attributes).get("id") == "data"
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]

    def handle_data(self, data):
        if self.inside:
            self.text += data


def test_the_page_stands_alone(page):
    text = page.read_text()
    links = Data(text).links
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"https?://|@import|url\(", re.sub(r"data:image/[^\"']*", "", text))


def test_its_numbers_and_pictures_are_those_of_the_network(page, place):
    data = json.loads(Data(page.read_text()).text)
    assert [layer["name"] for layer in data["layers"]] == ["0", "3"]
    weights = load_weights(f"{place / 'network.py'}:build", "random")
    model = weights.model().double()
    crops = {int(number): crop for number, crop in data["crops"].items()}
    for layer in data["layers"]:
        maps = model[0].out_channels if layer["name"] == "0" else model[3].out_channels
        assert layer["of"] == maps
        assert len(layer["maps"]) == min(MAPS, maps)
        for entry in layer["maps"]:
            found = [unit["a"] for unit in entry["units"]]
            assert found == sorted(found, reverse=True)
            assert len({unit["crop"] for unit in entry["units"]}) == len(found) == K
            for unit in entry["units"]:
                y0, x0, y1, x1 = unit["box"]
                assert [y1 - y0, x1 - x0] == layer["field"]
                assert decoded(unit["src"]).shape == (*layer["field"], 3)
                assert decoded(crops[unit["crop"]]["src"]).shape == (SIZE, SIZE, 3)


def test_heat_maps_lie_where_the_squares_were(page):
    """In the frame of the image: at the middle of every square the colour of its value, and nothing outside."""
    for occlusion in json.loads(Data(page.read_text()).text)["occlusions"]:
        height, width = occlusion["size"]
        rows, columns = occlusion["edges"]
        middles = [
            [place + size / 2 for place in occlusion[axis]]
            for axis, size in zip(("rows", "columns"), occlusion["occluder"], strict=True)
        ]
        for edges, places in zip((rows, columns), middles, strict=True):
            assert all(low < place < high for low, place, high in zip(edges, places, edges[1:], strict=False))
            assert len(edges) == len(places) + 1
        for heat in occlusion["maps"]:
            content = base64.b64decode(heat["src"].partition(",")[2])
            drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
            assert drawn.shape == (height, width, 4)
            values = np.array(heat["values"])
            shares = (values - values.min()) / (np.ptp(values) or 1)
            colours = (colormaps["viridis"](shares) * 255).round()
            at = [np.floor(places).astype(int) for places in middles]
            assert np.abs(drawn[np.ix_(*at)].astype(int) - colours).max() <= 1
            inside = (np.arange(height) + 0.5 > rows[0]) & (np.arange(height) + 0.5 < rows[-1])
            assert (drawn[~inside, :, 3] == 0).all()


def decoded(link: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))).convert("RGB"))


def test_the_report_equals_its_parts(place):
    weights = load_weights(f"{place / 'network.py'}:build", "random")
    model = weights.model()
    crops, images = torch.randn(9, 3, 33, 37), torch.randn(2, 3, 33, 37)
    report = make_report(model, crops, images, ["0", "3"], maps=3, k=2, occluder=8, stride=9, progress=False)
    net = dk.Deconvnet(model)
    for gallery in report.galleries:
        layer = gallery.units.layer
        record = net.record(crops, layer)
        strongest = record.strongest(layer, 2, sorted(set(gallery.units.channel.tolist())))
        expected = strongest[strongest.activation > 0]
        assert torch.equal(gallery.units.table(), expected.table())
        torch.testing.assert_close(gallery.windows, net.project(record, expected).windows)
    for image, found in zip(images, report.occlusions, strict=True):
        hidden = image.clone()
        hidden[:, int(found.rows[1]) : int(found.rows[1]) + 8, int(found.columns[2]) : int(found.columns[2]) + 8] = 0
        exact = model.double()(hidden[None].double()).softmax(1)[0]
        assert abs(found.probability[1, 2] - exact[found.label]) < 1e-5
        model.float()
    assert report.diagnosis.layer == "0"
    assert report.invariance.layers == ("0", "3")


def test_only_responses_are_shown_and_dead_maps_are_called_dead(place):
    """Map 0 never responds, map 1 in some crops only, map 2 in all; before and behind its relu."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, bias=True), torch.nn.BatchNorm2d(3), torch.nn.ReLU()).eval()
    crops, images = torch.randn(9, 3, 20, 22), torch.randn(1, 3, 20, 22)
    with torch.no_grad():
        peaks = model[:2](crops).amax((2, 3))
        model[1].bias.copy_(torch.tensor([-99.0, -float(peaks[:, 1].sort().values[5:7].mean()), 9.0]))
        peaks = model(crops).amax((2, 3))
    report = make_report(model, crops, images, ["0", "2"], maps=3, k=4, occluder=9, stride=11, progress=False)
    assert report.layers == ("0", "2")
    assert report.chosen == {"0": (0, 1, 2), "2": (0, 1, 2)}
    assert report.fields == {"0": (3, 3), "2": (3, 3)}
    for gallery in report.galleries:
        assert gallery.units.layer == "2"
        assert gallery.units.channel.tolist() == [1, 1, 1, 2, 2, 2, 2]
        expected = torch.cat([peaks[:, channel].topk(count).values for channel, count in ((1, 3), (2, 4))])
        torch.testing.assert_close(gallery.units.activation, expected)
    seen = Photographs(torch.zeros(9, 3, 20, 22, dtype=torch.uint8), [str(number) for number in range(9)])
    whole = Photographs(seen.pixels[:1], ["one"])
    shown = [Examples(each.parameters[:1], np.zeros((1, 1, 20, 22, 3), np.uint8)) for each in figure_5(20)]
    write_page(place / "dead.html", report, seen, whole, shown, lambda values: values, "a network", [])
    for layer in json.loads(Data((place / "dead.html").read_text()).text)["layers"]:
        assert [(entry["map"], len(entry["units"])) for entry in layer["maps"]] == [(0, 0), (1, 3), (2, 4)]
        assert ("layer 2 rectifies them" in layer["about"]) == (layer["name"] == "0")
        assert layer["about"].startswith("Receptive field 3x3 pixels.")


def test_an_interrupted_report_goes_on(place, monkeypatch):
    from deconv_kernels.experiments import report

    calls = []

    def interrupted(*arguments, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return occlude(*arguments, **options)

    occlude = report.occlude
    monkeypatch.setattr(report, "occlude", interrupted)
    assert run(place, output="resumed").exit_code != 0
    assert not (place / "resumed" / "report.html").exists()
    monkeypatch.setattr(report, "occlude", occlude)
    monkeypatch.setattr(report, "_gallery", lambda *_: pytest.fail("the galleries were finished already"))
    assert run(place, output="resumed").exit_code == 0
    assert [path.name for path in (place / "resumed").iterdir()] == ["report.html"]


def test_names_that_look_like_formulas_are_drawn_as_they_are(place):
    (place / "formulas").mkdir()
    Image.effect_noise((70, 56), 70).convert("RGB").save(place / "formulas" / r"$\frac$ a$b$.png")
    result = run(place, "--images", str(place / "formulas"), "--whole", "1", output="formulas-out")
    assert result.exit_code == 0, result.output


def test_networks_that_do_not_fit_are_said_in_one_line(place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    (place / "others.py").write_text(OTHERS)
    for name, message in (
        ("depth", "does not take images of 3x40x40"),
        ("double", "parameters of torch.float64"),
        ("nan", "not finite"),
        ("infinite", "not finite"),
    ):
        result = run(place, "--model", f"{place / 'others.py'}:{name}", output="unfit")
        assert result.exit_code == 2, (name, result.output)
        assert message in result.stderr.splitlines()[-1], result.stderr
        assert not (place / "unfit" / "report.html").exists()


def test_a_run_that_is_asked_to_end_leaves_no_draft(place):
    command_line = [sys.executable, "-m", "deconv_kernels", "report", "--model", f"{place / 'network.py'}:build"]
    command_line += [
        "--weights",
        "random",
        "--images",
        str(place / "photographs"),
        "--size",
        "56",
        "--crops",
        "200",
        "-k",
        "2",
    ]
    command_line += ["--occluder", "3", "--stride", "1", "-o", str(place / "ended" / "out")]
    run = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and not list((place / "ended").rglob("[!.]*.pt")):
        time.sleep(0.05)
    run.terminate()
    assert run.wait(60) == 128 + signal.SIGTERM
    assert [path.name for path in (place / "ended" / "out").iterdir()] == [".parts-report"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "9"), "9"),
        (("--crops", "3"), "3 crops are too few for the 4 strongest activations"),
        (("--occluder", "41"), "larger than the image"),
        (("--maps", "0"), "must be at least 1"),
        (("--whole", "0"), "whole must be at least 1"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(place, arguments, message):
    result = run(place, *arguments, output="refused")
    assert result.exit_code == 2, result.output
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert not (place / "refused" / "report.html").exists()


def test_layers_are_spread_from_the_first_to_the_last():
    network = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 1) for _ in range(9)))
    assert spread_layers(network) == ("0", "2", "4", "6", "8")
    assert spread_layers(network, 2) == ("0", "8")
    assert spread_layers(network[:3]) == ("0", "1", "2")
    with pytest.raises(ValueError, match=r"no convolution"):
        spread_layers(torch.nn.Sequential(torch.nn.ReLU()))


CLICKS = """
<script>
const said = {};
const wait = () => new Promise((done) => setTimeout(done, 50));
(async () => {
  said.tabs = document.querySelectorAll('[role=tab]').length;
  document.querySelectorAll('[role=tab]')[1].click(); await wait();
  said.layer = document.querySelector('[role=tab][aria-selected=true]').textContent;
  said.cards = document.querySelectorAll('.card').length;
  document.querySelectorAll('.card')[1].click(); await wait();
  said.open = document.querySelector('dialog').open;
  said.named = document.getElementById('named').textContent;
  said.pairs = document.querySelectorAll('.pair').length;
  document.querySelectorAll('.pair')[2].click(); await wait();
  said.pressed = [...document.querySelectorAll('.pair')].map((pair) => pair.getAttribute('aria-pressed'));
  said.place = document.querySelector('.place').textContent;
  document.getElementById('next').click(); await wait();
  said.after = document.getElementById('named').textContent;
  document.getElementById('close').click(); await wait();
  said.closed = !document.querySelector('dialog').open;
  const heat = document.querySelector('.heat');
  heat.scrollIntoView();
  const corner = heat.getBoundingClientRect();
  heat.dispatchEvent(new PointerEvent('pointermove', {clientX: corner.right - 2, clientY: corner.top + 2}));
  said.caption = heat.nextSibling.textContent;
  said.square = document.querySelector('.hidden').style.left;
  const images = [...document.images];
  while (!images.every((image) => image.complete)) await wait();
  said.images = images.length;
  said.broken = images.filter((image) => image.naturalWidth === 0).length;
})().catch((error) => { said.error = String(error); }).finally(() => {
  const shown = Object.assign(document.createElement('pre'), {id: 'said', textContent: JSON.stringify(said)});
  document.body.replaceChildren(shown);
});
</script>
"""


def test_a_browser_clicks_through_it(page, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"{CLICKS}</body>"))
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,900", "--virtual-time-budget=20000", "--dump-dom", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    match = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr
    parser = Data('<pre id="data">' + match[1])
    said = json.loads(parser.text)
    data = json.loads(Data(page.read_text()).text)
    layer = data["layers"][1]
    unit = layer["maps"][1]["units"][2]
    assert "error" not in said, said
    assert said["tabs"] == len(data["layers"])
    assert said["layer"] == layer["name"]
    assert said["cards"] == len(layer["maps"])
    assert said["open"]
    assert said["closed"]
    assert said["named"] == f"Layer {layer['name']}, map {layer['maps'][1]['map']}"
    assert said["after"] == f"Layer {layer['name']}, map {layer['maps'][2]['map']}"
    assert said["pairs"] == K
    assert said["pressed"] == ["false", "false", "true", "false"]
    assert f"{unit['at']} of the map" in said["place"]
    assert data["crops"][str(unit["crop"])]["name"] in said["place"]
    occlusion = data["occlusions"][0]
    assert said["caption"].endswith(f"with the square at row 0, column {occlusion['columns'][-1]}")
    assert float(said["square"].rstrip("%")) == pytest.approx(100 * occlusion["columns"][-1] / SIZE)
    assert said["images"] > 20
    assert said["broken"] == 0
