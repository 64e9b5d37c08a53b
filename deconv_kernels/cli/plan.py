"""`deconv-kernels plan`."""

from __future__ import annotations

import click
import torch
from torch import nn

from ..checks import at_least
from ..engine.deconvnet import Deconvnet
from ..engine.plan import DEVICE_BYTES, HOST_BYTES
from ..models import ARCHITECTURES
from .common import layers_of, layers_option, load, network_options, set_threads, size_option, user_errors

_BUDGETS = {"cpu": HOST_BYTES, "cuda": DEVICE_BYTES}


@click.command("plan")
@network_options
@layers_option("Whose units are projected, separated by commas, such as conv5_3.", required=True)
@click.option("--units", default=1, show_default=True, help="How many of each layer.")
@size_option()
def command(
    model: str,
    weights: str | None,
    mean: str,
    std: str,
    layers: str,
    units: int,
    size: int,
    device: str,
    threads: int | None,
) -> None:
    """Print how units would be projected: the steps, their windows, costs and kernels, and how many units at once.

    The device need not be there. No weights are needed: known models are only looked at.
    """
    with user_errors(ValueError):
        set_threads(threads)
        if device not in _BUDGETS:
            raise ValueError(f"device must be cpu or cuda, got {device!r}")
        for name, value in (("units", units), ("size", size)):
            at_least(name, value, 1)
        if model in ARCHITECTURES and weights is None:
            # Images and weights have shapes only, so that nothing is computed.
            with torch.device("meta"):
                network: nn.Module = ARCHITECTURES[model]().eval()
                images = torch.empty(1, 3, size, size)
        else:
            subject = load(model, weights, size, mean, std)
            network = subject.model
            images = subject.weights.preprocess(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        net = Deconvnet(network)
        tables = []
        for layer in layers_of(network, layers):
            try:
                record = net.record(images, layer, progress=False)
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"images of {size}x{size} are too small for {layer} of {model}: {error}") from error
            tables.append(net.plan(record, layer, max_bytes=_BUDGETS[device]).table(units))
        click.echo("\n\n".join(tables))
