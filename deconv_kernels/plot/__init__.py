"""Figures: pages of tiles, and one file for the figure of each experiment."""

from ..engine.pictures import patches, with_contrast
from .tiles import MapTiles, draw_filters, draw_maps

__all__ = ["MapTiles", "draw_filters", "draw_maps", "patches", "with_contrast"]
