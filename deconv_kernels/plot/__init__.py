"""Figures: pages of tiles, and one file for the figure of each experiment."""

from .tiles import MapTiles, draw_filters, draw_maps, patches, with_contrast

__all__ = ["MapTiles", "draw_filters", "draw_maps", "patches", "with_contrast"]
