"""`deconv-kernels unsupervised`."""

from __future__ import annotations

from pathlib import Path

from ..checks import at_least
from . import options
from .answer import Answer
from .unsupervised_settings import Settings


@options.command("unsupervised", Settings)
def command(settings: Settings) -> Answer:
    """Learn a deconvolutional network from photographs, without labels: sparse maps, switches and filters.

    Writes a figure per layer (the first layer's filters; above, the strongest units of some maps in pixels beside the
    patches), reconstructions of whole photographs from every layer, the curves of learning, all numbers as JSON, and
    the filters. Finished epochs are kept until the end: an interrupted run goes on where it stopped.

    \b
    Example:
        deconv-kernels unsupervised --images photos/ --maps 32,64 --epochs 6
    """
    from dataclasses import asdict

    import torch

    from ..data.crops import cut, plan_centres, plan_crops
    from ..data.photographs import load_photographs
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, files_in, fingerprint, written_at_once
    from ..experiments.reconstructions import CONTRAST_FLOOR, learning_table, reconstruct, seen
    from ..plot.unsupervised import draw_network, draw_reconstructions
    from ..terminal import aligned
    from .shown import check_photographs
    from .sparse_layers import network_of
    from .subject import device_of

    check_photographs(settings.photographs.sources, "the networks that unsupervised trains learn from photographs")
    for name in ("size", "shown_size", "shown", "shown_maps"):
        at_least(name.replace("_", "-"), getattr(settings, name), 1)
    options.check_seed(settings.seed)
    device, size, output = device_of(settings.machine), settings.size, Path(settings.output)
    network = network_of(settings).to(device, torch.float32)
    photographs = load_photographs(settings.photographs.sources)
    planned = plan_crops(photographs, size, settings.crops)
    pixels = cut(photographs, planned, size)
    learned_from = seen(pixels, network.channels, device)
    inference = options.values(settings, "steps", "method", "pooling", "batch_size")
    told = {"layers": [asdict(layer) for layer in network.layers], "channels": network.channels, "crops": len(planned)}
    told |= {"size": size, "epochs": settings.epochs, **inference, "seed": settings.seed}
    told |= {"contrast_floor": CONTRAST_FLOOR, "filters": None if settings.filters is None else str(settings.filters)}
    parts = Parts(output / ".parts-unsupervised", [told, str(device), fingerprint(pixels)])
    with written_at_once(output) as draft:
        history = []
        if settings.filters is None:
            history = network.fit(learned_from, epochs=settings.epochs, seed=settings.seed, parts=parts, **inference)
        features = network.infer(learned_from, **inference, progress=True)
        centres = plan_centres(photographs[: settings.shown], settings.shown_size)
        names = [photographs[crop.photograph].name for crop in centres]
        squares = cut(photographs, centres, settings.shown_size)
        shown = reconstruct(network, seen(squares, network.channels, device), **inference, progress=True)
        of = f"{len(planned)} crops of {size}x{size} of {len(photographs)} photographs"
        source = f"learned without labels from {of}"
        if settings.filters is not None:
            source = f"of {settings.filters.name}, on {of}"
        draw_network(draft, source, network, features, learned_from, settings.shown_maps, history)
        draw_reconstructions(draft / "reconstructions.png", names, squares, shown)
        network.save(draft / "filters.npz")
        numbers = {
            "settings": told,
            "photographs": [photograph.name for photograph in photographs],
            "history": [asdict(epoch) for epoch in history],
            "shown_size": settings.shown_size,
            "reconstructions": shown.numbers(names),
        }
        write_json(draft / "unsupervised.json", numbers, indent=1)
        files = files_in(draft)
    parts.remove()
    lines = [*aligned(learning_table(history, shown.errors)), f"figures, numbers and filters in {output}"]
    return Answer(lines, output, files, numbers)
