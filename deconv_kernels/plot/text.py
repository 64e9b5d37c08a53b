"""Words of figures: names of files, layers and classes, whatever characters they hold and however long they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

__all__ = ["class_name", "drawable", "fallback_families", "layer_name", "shortened"]

_PLACEHOLDERS = ("Last Resort", "Adobe Blank", "Unifont")  # fonts that draw a box or a number for every character


def layer_name(layer: str) -> str:
    """What to call a layer where its name alone would read as a number."""
    return f"layer {layer}" if layer[:1].isdigit() else layer


def class_name(number: int, classes: Sequence[str]) -> str:
    """What to call a class; classes without a name have a number."""
    return classes[number] if number < len(classes) else f"class {number}"


def shortened(name: str, length: int) -> str:
    """A name of at most so many characters, with its middle left out, as it can be drawn."""
    name = drawable(name)
    if len(name) <= length:
        return name
    end = (length - 1) // 3
    return f"{name[: length - 1 - end]}\u2026{name[len(name) - end :]}"


def drawable(text: str) -> str:
    """A text with escapes such as \\u7530 for the characters that no installed font has."""
    families = _families(_missing(text))
    escapes = {ord(character): _escaped(character) for character, family in families.items() if family is None}
    return text.translate(escapes)


def fallback_families(text: str) -> list[str]:
    """The font families that hold what the figures' own font lacks of a text; none for most."""
    found = _families(_missing(text)).values()
    return list(dict.fromkeys(family for family in found if family is not None))


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if character.isprintable() else repr(character)[1:-1]


def _missing(text: str) -> frozenset[str]:
    """The characters that the figures' own font lacks, and those that are no characters to draw."""
    others = {character for character in text if not character.isascii() or not character.isprintable()} - {"\n"}
    if not others:
        return frozenset()
    own = get_font(findfont(FontProperties()))
    return frozenset(c for c in others if not c.isprintable() or not own.get_char_index(ord(c)))


@cache
def _families(characters: frozenset[str]) -> Mapping[str, str | None]:
    """For every character a font family that has it, None where none has or there is nothing to draw."""
    families: dict[str, str | None] = dict.fromkeys(characters)
    wanted = {character for character in characters if character.isprintable()}
    for entry in fontManager.ttflist:
        if not wanted:
            break
        if entry.name.startswith(_PLACEHOLDERS) or entry.style != "normal":
            continue
        font = get_font(entry.fname)
        for character in [c for c in wanted if font.get_char_index(ord(c))]:
            families[character] = entry.name
            wanted.remove(character)
    return families
