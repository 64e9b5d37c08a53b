"""Photographs and the crops that a network is shown: the public names of `deconv_kernels.data.photographs`."""

from .data.photographs import (
    Crop,
    Photograph,
    cut,
    image_files,
    is_hidden,
    load_photographs,
    plan_centres,
    plan_crops,
    read_photograph,
)

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
