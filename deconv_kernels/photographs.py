"""Photographs and the crops that a network is shown: the public names of `data.photographs` and `data.crops`."""

from .data.crops import Crop, cut, plan_centres, plan_crops
from .data.photographs import Photograph, image_files, is_hidden, load_photographs, read_photograph

__all__ = [
    "Crop",
    "Photograph",
    "cut",
    "image_files",
    "is_hidden",
    "load_photographs",
    "plan_centres",
    "plan_crops",
    "read_photograph",
]
