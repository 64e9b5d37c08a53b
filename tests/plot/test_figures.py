"""Words of figures: characters that fonts lack, long names, names that are numbers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from deconv_kernels.plot import text
from deconv_kernels.plot.figures import new_figure, plain_text, save
from deconv_kernels.plot.text import drawable, fallback_families, layer_name, shortened


def test_characters_that_no_font_has_become_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    only = [entry for entry in text.fontManager.ttflist if entry.name == "DejaVu Sans"]
    monkeypatch.setattr(text.fontManager, "ttflist", only)
    text._families.cache_clear()
    try:
        assert drawable("caf\u00e9 \u00b1 $x$\n\u7530\U00020bb7\x07") == "caf\u00e9 \u00b1 $x$\n\\u7530\\U00020bb7\\x07"
        assert drawable("undecodable \udce9") == "undecodable \\udce9"
        assert fallback_families("\u7530") == []
    finally:
        text._families.cache_clear()


def test_another_font_draws_what_the_own_lacks() -> None:
    """STIX, which Matplotlib ships, has the script letter G; a font of placeholders is no help."""
    assert fallback_families("\u0393 plain") == []
    families = fallback_families("\U0001d4a2")
    if not families:
        pytest.skip("no installed font has the character")
    assert drawable("\U0001d4a2") == "\U0001d4a2" and not families[0].startswith("Last Resort")


def test_figures_draw_any_name_without_a_warning(tmp_path: Path) -> None:
    name = "\u5de6\u76ee \x07 $\\alpha$ " + "long " * 40
    figure, area = new_figure(name, name, 8.0, 3.0)
    first, second = area.subplots(1, 2)
    first.set_xticks([0, 1], [name[:9], "b"])
    first.set_title(shortened(name, 20))
    second.table([["\u9f3b"]], rowLabels=["\u732b"], colLabels=["$x$"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, tmp_path / "figure.png")
    lines = [line for words in figure.findobj(Text) for line in words.get_text().splitlines()]
    assert max(map(len, lines)) < 130


def test_table_cells_are_no_formulas() -> None:
    figure = Figure()
    table = figure.subplots().table([["$x$"]])
    plain_text(figure)
    assert not table[0, 0].get_text().get_parse_math()


@pytest.mark.parametrize("length", [10, 15, 24])
def test_long_names_lose_their_middle(length: int) -> None:
    name = "a photograph with a long name.jpeg"
    short = shortened(name, length)
    assert len(short) == length and short[:3] == "a p" and "\u2026" in short and short.endswith("eg")
    assert shortened("name.png", length) == "name.png"


def test_numbers_are_called_layers() -> None:
    assert [layer_name(name) for name in ("7", "4.conv1", "conv5_3", "features.28")] == [
        "layer 7", "layer 4.conv1", "conv5_3", "features.28",
    ]  # fmt: skip
