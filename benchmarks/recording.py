"""What recording costs beyond the bare forward pass of torch up to the same layer of VGG16.

    python benchmarks/recording.py

The bare pass is torch's at its best: channels_last, inference mode, and nothing above the layer. Ours runs the same
images in the same batch and keeps switches and peaks. Times are the processor time of one thread, smallest and median
of interleaved rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import click
import clock
import torch
from torch import nn

from deconv_kernels import Deconvnet, models


@click.command()
@click.option("--layers", default="conv2_2,conv3_3,conv5_3", show_default=True)
@click.option("--images", default=4, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(layers: str, images: int, rounds: int) -> None:
    """Measures, and prints a Markdown table."""
    torch.set_num_threads(1)
    batch = torch.randn(images, 3, 224, 224)
    model = models.VGG16(features_only=True).eval()
    net = Deconvnet(model)
    print("| layers up to | forward, ms an image | recording, ms | ratio of medians | of smallest |")
    print("| --- | --- | --- | --- | --- |")
    for layer in layers.split(","):
        bare = below(model, layer).to(memory_format=torch.channels_last)
        inputs = batch.to(memory_format=torch.channels_last)
        runs: list[Callable[[], object]] = [
            lambda: torch.inference_mode()(bare)(inputs),  # noqa: B023
            lambda: net.record(batch, layer, progress=False),  # noqa: B023
        ]
        times = [[clock.seconds(run) / images * 1e3 for run in runs] for _ in range(rounds)]
        forward, ours = zip(*times, strict=True)
        ratio = statistics.median(ours) / statistics.median(forward)
        print(f"| {layer} | {min(forward):.1f} | {min(ours):.1f} | {ratio:.2f} | {min(ours) / min(forward):.2f} |")


def below(model: nn.Module, layer: str) -> nn.Sequential:
    """The layers of a sequential network up to one."""
    found = nn.Sequential()
    for name, module in model.named_children():
        found.add_module(name, module)
        if name == layer:
            return found
    raise SystemExit(f"the network is no sequence with a layer {layer!r}")


if __name__ == "__main__":
    main()
