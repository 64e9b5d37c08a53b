"""Which networks of public collections are exact: every one that is installed here, with random weights, in float64.

    python benchmarks/coverage.py --write          # rewrites docs/networks.md
    python benchmarks/coverage.py timm --of 2      # two models of every family of one collection, on the terminal

A network is exact if its forward pass, and the projection of a unit of its output under the rule "gradient", are those
of the network itself under autograd. Under "deconvnet" the definition decides; what has no rule there is named.
"""

from __future__ import annotations

import random
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import deconv_kernels as dk
from deconv_kernels.engine.errors import Undecided
from deconv_kernels.measure.baselines import definition, installed

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
EXACT = 1e-9
HF = {
    "BeitForImageClassification": "BeitConfig",
    "BitForImageClassification": "BitConfig",
    "ConvNextForImageClassification": "ConvNextConfig",
    "ConvNextV2ForImageClassification": "ConvNextV2Config",
    "EfficientNetForImageClassification": "EfficientNetConfig",
    "LevitForImageClassification": "LevitConfig",
    "MobileNetV1ForImageClassification": "MobileNetV1Config",
    "MobileNetV2ForImageClassification": "MobileNetV2Config",
    "MobileViTForImageClassification": "MobileViTConfig",
    "PoolFormerForImageClassification": "PoolFormerConfig",
    "PvtForImageClassification": "PvtConfig",
    "RegNetForImageClassification": "RegNetConfig",
    "ResNetForImageClassification": "ResNetConfig",
    "SegformerForSemanticSegmentation": "SegformerConfig",
    "SwinForImageClassification": "SwinConfig",
    "ViTForImageClassification": "ViTConfig",
}


class Network(NamedTuple):
    """A network of a collection: its name, its family, what makes it, and the (C, H, W) of its images."""

    name: str
    family: str
    make: Callable[[], nn.Module]
    size: tuple[int, ...]


def of_torchvision() -> Iterator[Network]:
    from torchvision import models

    for name in models.list_models(module=models) + models.list_models(module=models.segmentation):
        # Detection and video are other tasks; quantized networks are not differentiable.
        builder = models.get_model_builder(name)
        given: dict[str, Any] = {"weights": None}
        if name in ("googlenet", "inception_v3"):
            given["init_weights"] = False
        if "segmentation" in builder.__module__:
            given["weights_backbone"] = None
        side = 299 if name == "inception_v3" else 96 if "segmentation" in builder.__module__ else 224
        yield Network(name, builder.__module__.rpartition(".")[2], lambda b=builder, g=given: b(**g), (3, side, side))


def of_timm() -> Iterator[Network]:
    import timm

    for name in timm.list_models():
        family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        size = tuple(config.input_size) if config is not None else (3, 224, 224)
        yield Network(name, family, lambda n=name: timm.create_model(n, pretrained=False), size)


def of_segmentation_models_pytorch() -> Iterator[Network]:
    import segmentation_models_pytorch as smp

    for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN"):
        for encoder in ("resnet18", "mobilenet_v2"):
            make = lambda n=name, e=encoder: getattr(smp, n)(e, encoder_weights=None)  # noqa: E731
            yield Network(f"{name} {encoder}", name, make, (3, 128, 128))


def of_transformers() -> Iterator[Network]:
    import transformers

    for name, config in HF.items():
        make = lambda n=name, c=config: getattr(transformers, n)(getattr(transformers, c)())  # noqa: E731
        yield Network(name, name, make, (3, 224, 224))


COLLECTIONS: dict[str, Callable[[], Iterator[Network]]] = {
    "torchvision": of_torchvision,
    "timm": of_timm,
    "segmentation_models_pytorch": of_segmentation_models_pytorch,
    "transformers": of_transformers,
}


@dataclass
class Found:
    """What became of a network.

    Attributes:
        network: its name.
        verdict: "exact", "wrong", "refused", "too large" or "no network".
        why: of those that are not exact.
        seconds: to trace it.
        forward, gradient: deviations, relative to the largest value.
        rounding: the same of the network's own gradient in another memory format, where that had to be asked.
        deconvnet: "exact", or what needs a rule of the user's.
    """

    network: str
    verdict: str
    why: str = ""
    seconds: float = 0.0
    forward: float = 0.0
    gradient: float = 0.0
    rounding: float = 0.0
    deconvnet: str = ""


def examine(network: Network, most_parameters: float) -> Found:
    """Compares a network of a collection with itself."""
    torch.manual_seed(0)
    try:
        model = network.make().double().eval()
    except Exception as error:  # whatever a collection raises at what it cannot build here
        return Found(network.name, "no network", _line(error))
    if sum(parameter.numel() for parameter in model.parameters()) > most_parameters:
        return Found(network.name, "too large")
    images = torch.randn(2, *network.size, dtype=torch.float64)
    start = time.perf_counter()
    try:
        net = dk.Deconvnet(model, "gradient", image_size=network.size)
        found = Found(network.name, "exact", seconds=time.perf_counter() - start)
        layer = net.tape.output or net.layers[-1]
        output = _first(model(images))
        if net.tape.output is None and net.record(images[:1], layer).shape(layer)[0] != output.shape[1]:
            return Found(network.name, "refused", "it returns several tensors", found.seconds)
        record = net.record(images, layer, activations=True)
        found.forward = _deviation(record.activations[layer], output)
        unit = [1, *(random.randrange(length) for length in output.shape[1:])]
        units = dk.Units(layer, *(unit + [0, 0])[:4])
        # Of two images: for LeViT, autograd gives another gradient for one image than for it among others, and the
        # difference quotient says that the former is wrong.
        pixels = images.clone().requires_grad_()
        (exact,) = torch.autograd.grad(_first(model(pixels))[tuple(unit)], pixels)
        projected = net.project(record, units, "one").full()
        found.gradient = _deviation(projected, exact[1:])
        if found.gradient > EXACT:
            # What another memory format makes of the network's own gradient is its rounding.
            pixels = pixels.detach().to(memory_format=torch.channels_last).requires_grad_()
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            (other,) = torch.autograd.grad(_first(model(pixels))[tuple(unit)], pixels)
            found.rounding = _deviation(other[1:], exact[1:])
    except (dk.UnsupportedModule, ValueError, RuntimeError, TypeError) as error:
        return Found(network.name, "refused", _line(error), time.perf_counter() - start)
    if not max(found.forward, found.gradient) <= max(EXACT, 3 * found.rounding):
        found.verdict = "wrong"
        return found
    try:
        net = dk.Deconvnet(model, image_size=network.size)
        record = net.record(images[1:], layer)
        units = dk.Units(layer, 0, *(unit[1:] + [0, 0])[:3])
        deviation = _deviation(net.project(record, units, "one").full(), definition(net, images[1:], units))
        found.deconvnet = "exact" if deviation <= EXACT else f"off by {deviation:.0e}"
    except Undecided as error:
        found.deconvnet = f"rules for {', '.join(sorted(set(error.keys)))}"
    except (dk.UnsupportedModule, ValueError) as error:
        found.deconvnet = _line(error)
    return found


def _first(output: Any) -> Tensor:
    return next(x for x in tree_leaves(output) if isinstance(x, Tensor))


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp_min(1e-30))


def _line(error: Exception) -> str:
    if not str(error):
        return traceback.format_exception_only(error)[-1].strip()
    text = re.sub(r"(?:/[^\s/:]+)+/", "", " ".join(str(error).split()))  # files by their names alone
    return text[:150].replace("|", "/")


def chosen(networks: Iterator[Network], of: int | None, seed: int) -> list[Network]:
    """All of them, or some of every family."""
    families: dict[str, list[Network]] = {}
    for network in networks:
        families.setdefault(network.family, []).append(network)
    taken = [
        random.Random(f"{seed} {family}").sample(those, min(of or len(those), len(those)))
        for family, those in families.items()
    ]
    return [network for those in taken for network in those]


def page(results: dict[str, list[Found]], how: str) -> str:
    """docs/networks.md."""
    lines = ["# Networks", "", __doc__.strip().splitlines()[0], "", how, ""]
    lines += [
        "| collection | exact | refused | wrong | exact under deconvnet without a rule of the user's |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        counts = {verdict: sum(each.verdict == verdict for each in found) for verdict in ("exact", "refused", "wrong")}
        of = sum(counts.values())
        plain = sum(each.deconvnet == "exact" for each in found)
        lines.append(f"| {name} | {counts['exact']} of {of} | {counts['refused']} | {counts['wrong']} | {plain} |")
    for name, found in results.items():
        lines += ["", f"## {name}", "", "| network | rule gradient | forward | gradient | traced in | rule deconvnet |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for each in found:
            if each.verdict in ("exact", "wrong"):
                numbers = f"{each.forward:.0e} | {each.gradient:.0e} | {each.seconds:.1f} s | {each.deconvnet}"
                lines.append(f"| {each.network} | {each.verdict} | {numbers} |")
            else:
                lines.append(
                    f"| {each.network} | {each.verdict}: {each.why} | | | | |"
                    if each.why
                    else f"| {each.network} | {each.verdict} | | | | |"
                )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("collections", nargs=-1, type=click.Choice(list(COLLECTIONS)))
@click.option("--of", type=int, help="Networks of every family, drawn by the seed; by default all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--most", default=6e7, show_default=True, help="Parameters; larger networks are left out.")
@click.option("--write", is_flag=True, help="Rewrite docs/networks.md.")
def main(collections: tuple[str, ...], of: int | None, seed: int, most: float, write: bool) -> None:
    """Compare networks of the installed collections with themselves."""
    warnings.simplefilter("ignore")
    random.seed(seed)
    results: dict[str, list[Found]] = {}
    for name in collections or COLLECTIONS:
        if not installed(name):
            click.echo(f"{name} is not installed here")
            continue
        for network in chosen(COLLECTIONS[name](), of, seed):
            found = examine(network, most)
            results.setdefault(name, []).append(found)
            click.echo(f"{name} {found}")
    which = "all networks" if of is None else f"{of} of every family, seed {seed}"
    how = f"torch {torch.__version__}; {which}, of at most {most:.0e} parameters."
    if write:
        PAGE.write_text(page(results, how))
    else:
        click.echo(page(results, how))


if __name__ == "__main__":
    main()
