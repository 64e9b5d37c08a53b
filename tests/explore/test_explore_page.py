"""The explorer's page in a browser, with the server behind it: clicks, keys, drags, uploads, several tabs."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explored import SIZE, Served, explorer_of, photographs, picture, served
from PIL import Image

from deconv_kernels.explore.explorer import Place

pytest.importorskip("starlette", reason="the package starlette is not installed")
pytest.importorskip("uvicorn", reason="the package uvicorn is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
expect = playwright.expect

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60_000  # milliseconds, on a machine that has other work
LAYER = "layer2.0.conv1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    paths = photographs(tmp_path_factory.mktemp("shown") / "in", random.randrange(2**31))
    with served(explorer_of("residual", paths)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    opened = browser.new_context(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(PATIENCE)
    opened.grant_permissions(["clipboard-read", "clipboard-write"])
    yield opened
    opened.close()


def opened(context: Any, server: Served, view: str = "") -> Any:
    """A tab with the page, which has drawn its unit; every error of its own or of its policy fails the test."""
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda told: page.wrong.append(told.text) if "Security Policy" in told.text else None)
    page.goto(server.address + view)
    expect(page.locator("#projection")).to_have_attribute("src", re.compile("^data:image/png"))
    return page


def view_of(place: Place, image: str = "a.png", rule: str = "deconvnet") -> str:
    return f"#image={image}&layer={place.layer}&map={place.map}&y={place.y}&x={place.x}&rule={rule}&overlap=sum"


def shows(page: Any, server: Served, image: str, place: Place, rule: str = "deconvnet", overlap: str = "sum") -> None:
    """Whether the page shows this unit: its words, its projection and its receptive field."""
    unit = server.ask("unit", image=image, **vars(place), rule=rule, overlap=overlap)
    expect(page.locator("#readout")).to_contain_text(f"{place.layer}Map{place.map}Unitrow {place.y}, column {place.x}S")
    expect(page.locator("#projection")).to_have_attribute("src", unit["projection"])
    expect(page.locator("#patch")).to_have_attribute("src", unit["patch"])
    style = page.locator("#field").evaluate("field => [field.style.top, field.style.left, field.style.height]")
    y0, x0, y1, _ = unit["box"]
    found = [float(value.rstrip("%")) for value in style]
    assert found == pytest.approx([100 * y0 / SIZE, 100 * x0 / SIZE, 100 * (y1 - y0) / SIZE], abs=1e-3)


def clicked(page: Any, selector: str, y: float, x: float, click: bool = True) -> None:
    """Clicks, or points, at a share of an element's height and width."""
    element = page.locator(selector)
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    at = {"x": box["width"] * x, "y": box["height"] * y}
    if click:
        element.click(position=at)
    else:
        element.hover(position=at)


def tile(number: int) -> str:
    return f'#maps label:has(input[value="{number}"])'


def percent(found: dict[str, float]) -> str:
    """A probability as the page has it."""
    return f"{100 * found['probability']:.1f} %"


def test_units_are_pointed_at_and_clicked(context: Any, server: Served) -> None:
    start = Place(LAYER, 0, 1, 1)
    page = opened(context, server, view_of(start))
    shows(page, server, "a.png", start)
    expect(page.locator("#maps label")).to_have_count(8)
    expect(page.locator("#layers label")).to_have_count(len(server.explorer.layers))
    clicked(page, "#map", 5.5 / 8, 2.5 / 8, click=False)
    shows(page, server, "a.png", Place(LAYER, 0, 5, 2))
    page.locator("h1").hover()
    shows(page, server, "a.png", start)
    clicked(page, tile(3), 6.5 / 8, 1.5 / 8, click=False)
    shows(page, server, "a.png", Place(LAYER, 3, 6, 1))
    clicked(page, tile(6), 2.5 / 8, 4.5 / 8)
    page.locator("h1").hover()
    shows(page, server, "a.png", Place(LAYER, 6, 2, 4))
    expect(page.locator("#maps input:checked")).to_have_value("6")
    clicked(page, "#map", 7.5 / 8, 0.5 / 8)
    shows(page, server, "a.png", Place(LAYER, 6, 7, 0))
    page.locator("#rules").get_by_text("guided").click()
    shows(page, server, "a.png", Place(LAYER, 6, 7, 0), "guided")
    page.locator("#overlaps").get_by_text("last").click()
    shows(page, server, "a.png", Place(LAYER, 6, 7, 0), "guided", "last")
    assert page.wrong == []


def test_a_link_reopens_the_view_in_another_tab(context: Any, server: Served) -> None:
    first = opened(context, server, view_of(Place(LAYER, 2, 3, 4), rule="gradient") + "&square=5,6,20")
    first.locator("#link").click()
    expect(first.locator("#link")).to_have_text("Copied")
    address = first.evaluate("navigator.clipboard.readText()")
    second = opened(context, server, address.removeprefix(server.address))
    for page in (first, second):
        shows(page, server, "a.png", Place(LAYER, 2, 3, 4), "gradient")
        expect(page.locator("#square")).to_have_attribute("aria-label", re.compile("20 pixels at row 5, column 6"))
        assert page.wrong == []
    first.locator("#layers label", has_text="layer4.1.conv2").click()
    expect(first.locator("#maps label")).to_have_count(32)
    first.close()
    clicked(second, tile(1), 0.5 / 8, 0.5 / 8)
    shows(second, server, "a.png", Place(LAYER, 1, 0, 0), "gradient")


def test_everything_can_be_reached_by_keys(context: Any, server: Served) -> None:
    page = opened(context, server, view_of(Place(LAYER, 0, 2, 2)))
    page.locator("#map").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    shows(page, server, "a.png", Place(LAYER, 0, 1, 4))
    page.locator("#maps input:checked").focus()
    page.keyboard.press("ArrowRight")
    peaks = server.ask("maps", image="a.png", layer=LAYER)["peaks"]
    shows(page, server, "a.png", Place(LAYER, 1, peaks["y"][1], peaks["x"][1]))
    page.locator("#layers input:checked").focus()
    page.keyboard.press("ArrowDown")
    names = [layer.name for layer in server.explorer.layers]
    expect(page.locator("#layers input:checked")).to_have_value(names[names.index(LAYER) + 1])
    page.locator("#covers").focus()
    page.keyboard.press("Space")
    page.locator("#square").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#square")).to_have_attribute("aria-label", re.compile("50 pixels at row 0, column 6"))
    unnamed = """elements => elements.filter(each => !(each.getAttribute("aria-label") || each.textContent.trim()
      || each.labels?.length || each.hidden)).map(each => each.id)"""
    assert page.locator("img[src]:not([alt])").count() == 0
    assert page.locator("button, a, input, select, [tabindex]").evaluate_all(unnamed) == []
    assert page.wrong == []


def test_a_square_is_dragged_over_the_picture(context: Any, server: Served) -> None:
    page = opened(context, server, view_of(Place(LAYER, 2, 3, 4)))
    expect(page.locator("#classes li")).to_have_count(5)
    page.locator("#covers").check()
    expect(page.locator("#square")).to_have_attribute("aria-label", re.compile("50 pixels at row 7, column 7"))
    page.locator("#side").fill("24")
    box, frame = page.locator("#square").bounding_box(), page.locator("#frame").bounding_box()
    scale = frame["width"] / SIZE
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 5 - 8 * scale, box["y"] + 5 + 10 * scale, steps=6)
    page.mouse.up()
    label = page.locator("#square").get_attribute("aria-label")
    side, y, x = map(int, re.findall(r"\d+", label))
    assert (side, y, x) == (24, 30, 12)
    found = server.ask("occluded", image="a.png", layer=LAYER, map=2, y=y, x=x, side=side)["classes"]
    clean = {each["number"]: percent(each) for each in server.ask("classes", image="a.png")["classes"]}
    for line, each in enumerate(found):
        before = f"{clean[each['number']]} → " if each["number"] in clean else ""
        expect(page.locator("#classes li").nth(line)).to_contain_text(f"{before}{percent(each)}")
    page.locator("#covers").uncheck()
    expect(page.locator("#classes")).not_to_contain_text("→")
    expect(page.locator("#map-caption")).to_contain_text("from")
    assert page.wrong == []


def test_the_strongest_are_searched_shown_and_visited(context: Any, server: Served) -> None:
    values = server.ask("maps", image="b.jpg", layer=LAYER)["peaks"]["value"]
    number = values.index(max(values))
    page = opened(context, server, view_of(Place(LAYER, number, 0, 0)))
    expect(page.locator("#searched")).to_have_text("4 pictures, 1 unreadable")
    units = server.ask("strongest", layer=LAYER, map=number)["units"]
    expect(page.locator("#strongest button")).to_have_count(len(units))
    for place, unit in enumerate(units):
        button = page.locator("#strongest button").nth(place)
        expect(button.locator("img").nth(1)).to_have_attribute("src", re.compile("^data:image/png"))
        expect(button).to_contain_text(unit["image"])
    if units:
        page.locator("#strongest button").last.click()
        shows(page, server, units[-1]["image"], Place(LAYER, number, units[-1]["y"], units[-1]["x"]))
        expect(page.locator("#images input:checked")).to_have_value(units[-1]["image"])
    assert page.wrong == []


def test_pictures_are_added_and_broken_ones_refused(context: Any, server: Served, tmp_path: Path) -> None:
    picture(random.randrange(2**31)).save(tmp_path / "mine.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "mine.png").read_bytes()[:300])
    page = opened(context, server, view_of(Place(LAYER, 2, 3, 4)))
    page.locator("#file").set_input_files(tmp_path / "mine.png")
    expect(page.locator("#title")).to_have_text("mine.png")
    expect(page.locator("#images label")).to_have_count(5)
    expect(page).to_have_url(re.compile("image=dropped-"))
    page.locator("#file").set_input_files(tmp_path / "broken.png")
    expect(page.locator("#message")).to_contain_text("broken.png' cannot be read")
    expect(page.locator("#title")).to_have_text("mine.png")
    expect(page.locator("#images label")).to_have_count(5)
    page.locator("#images label").nth(1).click()
    expect(page.locator("#title")).to_have_text("b.jpg")
    expect(page.locator("#message")).to_be_hidden()
    content = list((tmp_path / "mine.png").read_bytes())
    dropping = """content => {
      const carried = new DataTransfer();
      carried.items.add(new File([new Uint8Array(content)], "dropped.png", {type: "image/png"}));
      window.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, cancelable: true}));
    }"""
    page.evaluate(dropping, content)
    expect(page.locator("#title")).to_have_text("dropped.png")
    page.locator("#images label").nth(2).click()
    expect(page.locator("#message")).to_contain_text("cannot be read")
    expect(page.locator("#title")).to_have_text("a.png")
    assert page.wrong == []


def test_what_is_saved(context: Any, server: Served, tmp_path: Path) -> None:
    page = opened(context, server, view_of(Place(LAYER, 2, 3, 4)))
    expect(page.locator("#classes li")).to_have_count(5)
    with page.expect_download(timeout=PATIENCE) as waiting:
        page.locator("#save").click()
    assert waiting.value.suggested_filename == f"{LAYER}-map-2-3-4.png"
    waiting.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as image:
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(2**20)) > 100
    with page.expect_download(timeout=PATIENCE) as waiting:
        page.locator("#table").click()
    waiting.value.save_as(tmp_path / "units.csv")
    assert (tmp_path / "units.csv").read_text().splitlines()[1].startswith(f"chosen,a.png,{LAYER},2,3,4,")
    assert page.wrong == []


def test_a_token_opens_the_page(context: Any, tmp_path: Path) -> None:
    paths = photographs(tmp_path / "in", 4)
    with served(explorer_of("chain", paths, 48), "the token") as guarded:
        page = context.new_page()
        page.goto(guarded.address)
        expect(page.locator("body")).to_contain_text("it holds a token")
        inside = opened(context, guarded, "?token=the+token")
        assert "token" not in inside.url
        clicked(inside, tile(5), 0.5, 0.5)
        expect(inside.locator("#readout")).to_contain_text("Map5")


def test_a_server_that_has_ended(context: Any, tmp_path: Path) -> None:
    with served(explorer_of("chain", photographs(tmp_path / "in", 5), 48)) as short:
        page = opened(context, short)
        expect(page.locator("#searched")).to_contain_text("4 pictures")
    page.locator("#rules").get_by_text("gradient").click()
    expect(page.locator("#message")).to_contain_text("The server does not answer")
