"""`deconv-kernels plan`."""

from __future__ import annotations

import click
import torch

from ..deconvnet import Deconvnet
from ..models import ARCHITECTURES
from ..plan import DEVICE_BYTES, HOST_BYTES
from .common import user_errors

_BUDGETS = {"cpu": HOST_BYTES, "cuda": DEVICE_BYTES}


@click.command("plan")
@click.option("--model", default="vgg16", show_default=True, help=f"One of {', '.join(ARCHITECTURES)}.")
@click.option("--layer", required=True, help="Whose units are projected, such as conv5_3.")
@click.option("--units", default=1, show_default=True, help="How many.")
@click.option("--size", default=224, show_default=True, help="Rows and columns of the images.")
@click.option("--device", default="cpu", show_default=True, help="Where it would run: cpu or cuda. Need not be there.")
def command(model: str, layer: str, units: int, size: int, device: str) -> None:
    """Print how units would be projected: the steps, their windows, costs and kernels, and how many units at once."""
    with user_errors(ValueError):
        click.echo(_plan(model, layer, size, device, units))


def _plan(model: str, layer: str, size: int, device: str, units: int) -> str:
    """The plan as text. Images and weights have shapes only, so that nothing is computed."""
    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model!r}; known are {', '.join(ARCHITECTURES)}")
    if device not in _BUDGETS:
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    for name, value in (("units", units), ("size", size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    with torch.device("meta"):
        net = Deconvnet(ARCHITECTURES[model]().eval())
        images = torch.empty(1, 3, size, size)
    net.tape.index(layer)
    try:
        record = net.record(images, layer)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"images of {size}x{size} are too small for {layer} of {model}: {error}") from error
    return net.plan(record, layer, max_bytes=_BUDGETS[device]).table(units)
