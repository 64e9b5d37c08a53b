"""Classes have their names, and the place whose hiding makes one more probable is framed."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

import deconv_kernels as dk
from deconv_kernels.cli.labels import class_names, read_labels
from deconv_kernels.experiments.occlusion import Occlusion, occlude
from deconv_kernels.plot.occlusion import OccludedImage, _draw_probability, _range
from deconv_kernels.plot.page import _occlusion
from deconv_kernels.plot.text import class_name
from deconv_kernels.plot.views import Photographs, view_of

CLASSES = ("cat", "dog", "fish")


@pytest.fixture(scope="module")
def found() -> Occlusion:
    """Class 1 counts the light of the image's left half less that of its right half, which hiding so raises."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 12 * 16, 3))
    image = torch.rand(3, 12, 16)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
        model[3].weight.zero_()
        model[3].bias.zero_()
        sides = torch.where(torch.arange(16) < 8, 0.004, -0.004).expand(12, -1)
        model[3].weight[1] = torch.stack([sides, sides]).flatten()
        model[3].bias[1] = 1.0
    return occlude(dk.Deconvnet(model), image, "1", "3", size=4, stride=4, progress=False)


def test_the_page_frames_what_raises_the_class(found: Occlusion) -> None:
    raises = found.raises()
    assert raises and all(place.x >= 8 for place in raises)
    view = view_of(Photographs(torch.zeros(1, 3, 12, 16, dtype=torch.uint8), ["image"]), lambda values: values)
    (hidden,) = view.hidden(found, 0)
    data = _occlusion(hidden, view.aspect, CLASSES)
    assert data["class"] == "dog"
    assert [(each["y"], each["x"]) for each in data["raises"]] == [(place.y, place.x) for place in raises]
    assert data["maps"][1]["what"] == "probability of dog"
    assert {name for row in data["maps"][2]["classes"] for name in row} <= set(CLASSES)


def test_the_figure_frames_it_too(found: Occlusion) -> None:
    axes = Figure().subplots()
    image = OccludedImage("image", torch.zeros(12, 16, 3, dtype=torch.uint8).numpy(), found, None, CLASSES)
    _draw_probability(axes, image, _range([image]))
    frame = next(patch for patch in axes.patches if isinstance(patch, Rectangle))
    first = found.raises()[0]
    assert frame.get_xy() == (first.x, first.y) and (frame.get_height(), frame.get_width()) == found.size
    assert "probability of dog" in axes.get_title() and f"{first.probability:.3g}" in axes.get_title()


def test_names_come_from_the_file_or_with_the_weights(tmp_path) -> None:
    (tmp_path / "classes").write_text("cow\nhen\n")
    assert class_names(None, CLASSES) == CLASSES and class_names(str(tmp_path / "classes"), CLASSES) == ["cow", "hen"]
    assert read_labels("fish,0", None, 2, CLASSES) == [2, 0]
    assert read_labels("hen", str(tmp_path / "classes"), 1, CLASSES) == [1]
    with pytest.raises(ValueError, match="label 'hen' is not a number"):
        read_labels("hen", None, 1, CLASSES)
    assert class_name(2, CLASSES) == "fish" and class_name(3, CLASSES) == "class 3"
