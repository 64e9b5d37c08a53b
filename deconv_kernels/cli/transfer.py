"""`deconv-kernels transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import options
from .answer import Answer
from .transfer_settings import DATA, Settings


@options.command("transfer", Settings)
def command(settings: Settings) -> Answer:
    """Train linear classifiers on the frozen features of layers, with few images per class of a new data set.

    Prints and writes the accuracy of every layer, and draws it by layer and by number of training images. An
    interrupted run goes on where it stopped. Needs scikit-learn.

    \b
    Example:
        deconv-kernels transfer --weights vgg16.pth --data faces --layers pool3,pool5 --per-class 1,10
    """
    from ..data.tables import write_csv
    from ..data.writing import write_json
    from ..experiments.common.files import Parts, files_in, written_at_once
    from ..experiments.transfer import transfer, untrained
    from ..plot.transfer import draw_transfer
    from ..terminal import aligned
    from .shown import show_labelled
    from .subject import layers_of

    model, size, output = settings.network.model, settings.size, Path(settings.output)
    options.check_seed(settings.seed)
    numbers = options.numbers("--per-class", settings.per_class, int)
    images = settings.images + settings.more_images
    if (settings.data is None) == (not images):
        raise ValueError(f"give either --data ({', '.join(DATA)}) or --images")
    shown = show_labelled(settings.network, settings.data or images, size)
    dataset = shown.dataset
    chosen = layers_of(shown.model, settings.layers) if settings.layers else ()
    dataset.check_counts(max(numbers, default=0))
    networks = {"given" if settings.network.weights in (None, "random") else "trained": shown.model}
    if settings.untrained:
        try:
            networks["untrained"] = untrained(shown.model, settings.seed)
        except ValueError as error:
            raise ValueError(f"{error}: leave that out with --no-untrained") from error
    parts = Parts(output / ".parts-transfer", "transfer")
    how: dict[str, Any] = {"per_class": numbers, "folds": settings.folds, "test_per_class": settings.test}
    how |= {"C": settings.loss_weight, "scaling": settings.scaling, "grid": settings.grid or None}
    how |= options.values(settings, "pooling", "overlap", "seed")
    of_what = {"model": model, "weights": shown.source, "data": dataset.source, "classes": dataset.classes}
    told = {**of_what, "size": shown.size, **how}
    with written_at_once(output) as draft:
        result = transfer(
            networks,
            dataset.images,
            dataset.labels,
            chosen,
            groups=dataset.groups,
            classifiers=options.names(settings.classifiers),
            preprocess=shown.preprocess,
            parts=parts,
            **options.values(settings, "pixels", "batch_size"),
            **how,
        )
        write_json(draft / "transfer.json", {"settings": told, **result.as_dict()})
        write_csv(draft / "transfer.csv", *result.rows())
        draw_transfer(draft / "transfer.png", result, told)
        files = files_in(draft)
    parts.remove()
    lines = [*aligned(result.table()), *result.remarks()]
    lines.append(f"figure and numbers: {output / 'transfer.png'}, transfer.csv, transfer.json")
    return Answer(lines, output, files, {"settings": told, **result.as_dict()})
