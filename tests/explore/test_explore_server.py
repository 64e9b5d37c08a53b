"""The explorer's server: answers, refusals, and what must not get in."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import quote, urlencode

import numpy as np
import own_networks
import pytest
from click.testing import CliRunner
from explored import SIZE, Served, explorer_of, photographs, picture, served
from PIL import Image
from torch import Tensor

from deconv_kernels.cli import main
from deconv_kernels.explore import library
from deconv_kernels.explore.explorer import Explorer, Place, UnitPictures

pytest.importorskip("starlette", reason="the package starlette is not installed")
pytest.importorskip("uvicorn", reason="the package uvicorn is not installed")

LAYER = "layer2.0.conv1"
UNIT = {"image": "a.png", "layer": LAYER, "map": 2, "y": 3, "x": 4}


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Explorer:
    """What will be served."""
    return explorer_of("residual", photographs(tmp_path_factory.mktemp("served") / "in", random.randrange(2**31)))


@pytest.fixture(scope="module")
def expected(explorer: Explorer) -> UnitPictures:
    """A unit, looked at before the server begins."""
    return explorer.unit("a.png", Place(LAYER, 2, 3, 4), "guided", "last")


@pytest.fixture(scope="module")
def all_maps(explorer: Explorer) -> Tensor:
    """The maps of its layer."""
    return explorer.maps("a.png", LAYER).clone()


@pytest.fixture(scope="module")
def server(explorer: Explorer, expected: UnitPictures, all_maps: Tensor) -> Iterator[Served]:
    with served(explorer) as running:
        yield running


def request(
    server: Served, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return response, response.read()


def pixels(address: str) -> np.ndarray:
    """A picture that lies in its own address."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_what_is_answered_is_what_is_computed(server: Served, expected: UnitPictures, all_maps: Tensor) -> None:
    network = server.ask("network")
    assert [layer["name"] for layer in network["layers"]] == [layer.name for layer in server.explorer.layers]
    unit = server.ask("unit", **UNIT, rule="guided", overlap="last")
    assert unit["box"] == list(expected.box)
    assert unit["activation"] == expected.activation
    assert np.array_equal(pixels(unit["projection"]), expected.projection)
    assert np.array_equal(pixels(unit["patch"]), expected.patch)
    maps = server.ask("maps", image="a.png", layer=LAYER)
    assert maps["peaks"]["value"] == pytest.approx(all_maps.flatten(1).amax(1).tolist())
    y, x = maps["peaks"]["y"][5], maps["peaks"]["x"][5]
    assert float(all_maps[5, y, x]) == pytest.approx(maps["peaks"]["value"][5])
    classes = server.ask("classes", image="c & d.png")
    assert classes["title"] == "c & d.png"
    assert len(classes["classes"]) == 5
    covered = server.ask("occluded", image="a.png", layer=LAYER, map=2, y=-3, x=30, side=20)
    assert pixels(covered["picture"]).shape == (8, 8, 3)
    assert server.ask("map", image="a.png", layer=LAYER, map=2)["high"] == pytest.approx(float(all_maps[2].max()))


def test_units_as_a_table(server: Served) -> None:
    while (found := server.ask("strongest", layer=LAYER, map=2))["done"] < found["total"]:
        pass
    assert found["unreadable"] == 1
    response, body = request(server, f"/api/units?{urlencode(UNIT)}")
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert 'filename="layer2.0.conv1-map-2.csv"' in response.headers["content-disposition"]
    assert [row["kind"] for row in rows] == ["chosen"] + ["strongest"] * len(found["units"])
    assert [row["image"] for row in rows[1:]] == [unit["image"] for unit in found["units"]]
    for row in rows:
        unit = server.ask("unit", layer=LAYER, map=2, **{name: row[name] for name in ("image", "y", "x")})
        assert float(row["activation"]) == pytest.approx(unit["activation"])
        assert [int(row[f"box_{side}"]) for side in ("y0", "x0", "y1", "x1")] == unit["box"]


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"image": "../a.png"}, 404, "no picture"),
        ({"image": str(Path(__file__).resolve())}, 404, "no picture"),
        ({"image": "in/a.png"}, 404, "no picture"),
        ({"image": "broken.jpg"}, 400, "cannot be read"),
        ({"layer": "conv77"}, 400, "no layer"),
        ({"layer": ""}, 400, "layer is missing"),
        ({"map": 8}, 400, "from 0 to 7, got 8"),
        ({"map": "two"}, 400, "whole number"),
        ({"y": -1}, 400, "whole number"),
        ({"x": 10**30}, 400, "whole number"),
        ({"rule": "guide"}, 400, "rule"),
        ({"overlap": "first"}, 400, "overlap"),
    ],
)
def test_what_cannot_be_asked(server: Served, changes: dict[str, object], status: int, words: str) -> None:
    response, body = request(server, f"/api/unit?{urlencode(UNIT | changes)}")
    assert response.status == status
    assert words in json.loads(body)["error"]
    assert str(Path.home()) not in body.decode() or "image" in changes


@pytest.mark.parametrize("path", ["/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "//etc/passwd", "/page/"])
def test_no_other_file_is_served(server: Served, path: str) -> None:
    assert request(server, path)[0].status == 404
    assert request(server, "/style.css")[0].status == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/images", {}, 200),
        ("/api/images", {"Host": "localhost:99"}, 200),
        ("/api/images", {"Host": "[::1]:99"}, 200),
        ("/api/images", {"Host": "rebound.example"}, 403),
        ("/", {"Host": "rebound.example:8756"}, 403),
        ("/api/images", {"Host": "127.0.0.1.rebound.example"}, 403),
        ("/api/images", {"Host": "[127.0.0.1"}, 403),
        ("/api/images", {"Host": ""}, 403),
        ("/api/images", {"Origin": "http://site.example"}, 403),
        ("/api/images", {"Origin": "null"}, 403),
        ("/api/images", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/api/images", {"Sec_Fetch_Site": "same-site"}, 403),
        ("/api/images", {"Sec_Fetch_Site": "same-origin"}, 200),
        ("/", {"Sec_Fetch_Site": "cross-site"}, 200),
    ],
)
def test_who_may_ask(server: Served, path: str, headers: dict[str, str], status: int) -> None:
    response, _ = request(server, path, **headers)
    assert response.status == status
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


def test_other_sites_may_send_nothing(server: Served) -> None:
    body = encoded(picture(1), "png")
    for headers in ({"Origin": "http://site.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Host": "rebound.example"}):
        assert request(server, "/api/upload", "POST", body, **headers)[0].status == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec_Fetch_Site": "same-origin"}
    assert request(server, "/api/upload", "POST", body, **own)[0].status == 200


def test_elsewhere_a_token_is_needed(server: Served) -> None:
    with served(explorer_of("chain", []), "the token") as guarded:
        for path in ("/", "/api/images", "/style.css", "/?token=another", "/?token=", "/api/images?token=the+token"):
            assert request(guarded, path)[0].status == 401
        assert request(guarded, "/", Cookie='deconv_kernels_explore="another"')[0].status == 401
        response, _ = request(guarded, "/?token=the+token", Host="machine.example:1")
        assert response.status == 303
        assert response.headers["location"] == "/"
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        inside = {"Cookie": cookie.partition("; ")[0], "Host": "machine.example:1"}
        assert request(guarded, "/api/images", **inside)[0].status == 200
        assert request(guarded, "/api/images", **inside, Origin="http://site.example")[0].status == 403


def test_a_picture_is_taken_in(server: Served) -> None:
    sent = picture(random.randrange(2**31))
    title = "Größe\n ü.png"
    response, body = request(server, "/api/upload", "POST", encoded(sent, "png"), X_Name=quote(title))
    assert response.status == 200
    answer = json.loads(body)
    assert answer["title"] == "Größe ü.png"
    shown = np.asarray(Image.open(io.BytesIO(request(server, f"/api/picture?image={answer['image']}")[1])))
    square = sent.crop((4, 0, 76, 72)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.array_equal(shown, np.asarray(square))
    assert server.ask("unit", **{**UNIT, "image": answer["image"]})["box"]


def test_what_is_no_picture_is_refused(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(picture(2), "png")
    vast = encoded(Image.new("1", (9000, 9000)), "png")
    monkeypatch.setattr(library, "MOST_PIXELS", 8_000_000)
    cases = (
        (b"", "cannot be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG, PNG"),
        (encoded(picture(2), "tiff"), "none of JPEG, PNG"),
        (whole[: len(whole) // 2], "cannot be read"),
        (vast, "9000x9000"),
    )
    for body, words in cases:
        response, told = request(server, "/api/upload", "POST", body, X_Name="mine.png")
        assert response.status == 400
        assert words in json.loads(told)["error"]
        assert " at 0x" not in json.loads(told)["error"]
    connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", "/api/upload", bytes(library.MOST_BYTES + 1))
        response = connection.getresponse()
        assert response.status == 413
        assert "20 MB" in response.read().decode()


def test_pictures_that_were_sent_make_room_for_others(server: Served) -> None:
    shelf = server.explorer.library
    kept = shelf._uploads.most_bytes // (3 * SIZE * SIZE)
    names = [shelf.add(encoded(picture(number), "bmp"), "sent") for number in range(kept + 3)]
    assert len(shelf._uploads) == kept
    assert request(server, f"/api/picture?image={names[0]}")[0].status == 404
    assert request(server, f"/api/picture?image={names[-1]}")[0].status == 200


def test_those_who_go_away_do_no_harm(server: Served) -> None:
    """Tabs that are closed while they wait, and connections that never ask anything."""
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for number in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            asked = f"/api/unit?{urlencode(UNIT | {'map': number % 8})}"
            connection.sendall(f"GET {asked} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nhalf")
    assert server.ask("unit", **UNIT)["box"]
    for connection in silent:
        connection.close()


def test_the_command(tmp_path: Path) -> None:
    photographs(tmp_path / "in", 3)
    model = f"{Path(own_networks.__file__)}:chain"
    command = ("explore", "--model", model, "--images", str(tmp_path / "in"), "--size", "48", "--port")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = CliRunner().invoke(main, [*command, str(taken.getsockname()[1])])
    assert done.exit_code == 2
    assert "another --port" in done.output
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = [sys.executable, "-m", "deconv_kernels", *command, "0", "--host", "0.0.0.0"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        address = re.fullmatch(r"http://0\.0\.0\.0:(\d+)/\?token=(\S{30,})\n", process.stdout.readline())
        assert address is not None
        try:
            with contextlib.closing(HTTPConnection("127.0.0.1", int(address[1]), timeout=120)) as connection:
                connection.request("GET", f"/?token={address[2]}")
                assert connection.getresponse().status == 303
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 0
