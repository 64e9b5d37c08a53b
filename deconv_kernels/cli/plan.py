"""`deconv-kernels plan`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import click

from ..checks import at_least
from ..engine.datasheets import CARDS, PRECISIONS
from . import options
from .answer import Answer
from .options import Machine, UntrainedNetwork, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to plan."""

    network: UntrainedNetwork = group(UntrainedNetwork)
    layers: str = options.layers("Whose units are projected, separated by commas, such as conv5_3.", required=True)
    units: int = option(1, "How many of each layer.")
    size: int | tuple[int, ...] | None = options.any_size()
    precision: str = option("tf32", "Of the model of a card.", type=click.Choice(tuple(PRECISIONS)))


@options.command("plan", Settings)
def command(settings: Settings) -> Answer:
    """Print how units would be projected: the steps, their windows, costs and kernels, and how many units at once.

    The device need not be there. No weights are needed: known models are only looked at. A card as the device (a100,
    h100 or h200) prints a model of what each step costs there at the least, by what the maker says of the card; it is
    not a measurement.

    \b
    Example:
        deconv-kernels plan --model vgg16 --layers conv5_3 --units 4608
    """
    import torch

    from ..engine.cards import CardModel
    from ..engine.deconvnet import Deconvnet
    from ..engine.plan import DEVICE_BYTES, HOST_BYTES
    from ..experiments.common.layers import taking
    from ..models import ARCHITECTURES, load_reader_of_tensors
    from .subject import layers_of, load, set_threads

    named, device, size = settings.network, settings.network.machine.device, settings.size
    set_threads(named.machine.threads)
    budgets = {"cpu": HOST_BYTES, "cuda": DEVICE_BYTES, **dict.fromkeys(CARDS, DEVICE_BYTES)}
    if device not in budgets:
        cards = ", ".join(CARDS)
        raise ValueError(f"device must be cpu or cuda, got {device!r}; cards that there is a model of: {cards}")
    at_least("units", settings.units, 1)
    reader, side = load_reader_of_tensors(named.model, named.weights, size), size if isinstance(size, int) else 224
    if reader is not None:
        named.reading.refuse()
        network, _, shape = reader
        images = torch.zeros(1, *shape)
    elif named.model in ARCHITECTURES and named.weights is None:
        # Images and weights have shapes only, so that nothing is computed.
        with torch.device("meta"):
            network = ARCHITECTURES[named.model]().eval()
            images = torch.empty(1, 3, side, side)
    else:
        subject = load(replace(named, machine=Machine()), side)
        network = subject.model
        images = subject.inputs(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    net, sides = Deconvnet(network), "x".join(map(str, images.shape[2:]))
    plans = []
    for layer in layers_of(network, settings.layers):
        with taking(f"images of {sides} are too small for {layer} of {named.model}"):
            record = net.record(images, layer, progress=False)
        plans.append(net.plan(record, layer, max_bytes=budgets[device]))
    if device in CARDS:
        models = [CardModel(plan, settings.units, device, settings.precision) for plan in plans]
        tables = "\n\n".join(model.table() for model in models)
        return Answer([tables], found={"models": [model.as_dict() for model in models]})
    tables = "\n\n".join(plan.table(settings.units) for plan in plans)
    return Answer([tables], found={"plans": [plan.as_dict(settings.units) for plan in plans]})
