"""How features develop while a network learns, as a Lightning callback: `ProjectionCallback`.

    trainer = Trainer(callbacks=[ProjectionCallback(images, "layer3")], logger=TensorBoardLogger("logs"))

It serves the package `lightning` as well as `pytorch_lightning`, whichever is installed; of both, the one that has been
imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..checks import at_least
from ..engine.deconvnet import Deconvnet
from ..engine.projections import Projections
from .tensorboard import add_projections

__all__ = ["ProjectionCallback"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callback() -> Any:
    """The class Callback of the Lightning that is in use.

    Raises:
        ModuleNotFoundError: none is installed.
    """
    installed = [name for name in _PACKAGES if find_spec(name.partition(".")[0]) is not None]
    if not installed:
        raise ModuleNotFoundError("ProjectionCallback needs lightning or pytorch_lightning: pip install lightning")
    used = next((name for name in installed if name in sys.modules), installed[0])
    return import_module(used).Callback


if TYPE_CHECKING:

    class Callback:
        """Lightning's."""

else:
    Callback = _callback()


class ProjectionCallback(Callback):
    """Projects the strongest unit of some maps at the end of epochs, always over the same images.

    Args:
        images: (N, C, H, W) as the network takes them.
        layer: whose maps.
        maps: which; by default all.
        every_n_epochs: after how many epochs.
        network: the attribute of the LightningModule that holds the network, such as "model" or "encoder.body"; by
            default the module itself.
        rule: what a rectifier does backwards: "deconvnet", "guided" or "gradient".
        to_rgb: as for `Projections.images`.

    Attributes:
        history: the number of the epoch, from 0 on, and the projections, (maps, C, h, w) on the host, of each time.

    Every logger of the trainer whose `experiment` has `add_image`, as TensorBoard's has, gets them as a picture
    "projections/<layer>"; without such a logger they are in `history` alone. Training is not touched: the network is
    read as in eval mode and no gradient or random number is used.

    Raises:
        ValueError, UnknownLayer, UnsupportedModule: when training begins; see `Deconvnet`.

    Source: Zeiler & Fergus 2013, section 4.1 and Fig 4.
    """

    def __init__(
        self,
        images: Tensor,
        layer: str,
        *,
        maps: Sequence[int] | None = None,
        every_n_epochs: int = 1,
        network: str = "",
        rule: str = "deconvnet",
        to_rgb: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        at_least("every_n_epochs", every_n_epochs, 1)
        self.images, self.layer, self.maps, self.every_n_epochs = images, layer, maps, every_n_epochs
        self.network, self.rule, self.to_rgb = network, rule, to_rgb
        self.history: list[tuple[int, Projections]] = []
        self._net: Deconvnet | None = None

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Traces the network, so that what cannot be projected is refused before anything is trained."""
        self._net = Deconvnet(
            pl_module.get_submodule(self.network), rule=self.rule, image_size=tuple(self.images.shape[1:])
        )
        self._net.layer(self.layer)

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Projects with the weights of this moment, on one process of several."""
        epoch = int(trainer.current_epoch)
        if (epoch + 1) % self.every_n_epochs or not trainer.is_global_zero:
            return
        assert self._net is not None
        record = self._net.record(self.images, self.layer, progress=False)
        found = self._net.project(record, record.strongest(self.layer, 1, self.maps), progress=False)
        found = Projections(found.units, found.windows.cpu(), found.boxes, found.shape)
        self.history.append((epoch, found))
        for logger in trainer.loggers:
            if callable(getattr(logger.experiment, "add_image", None)):
                tag = f"projections/{self.layer}"
                add_projections(logger.experiment, tag, found, trainer.global_step, to_rgb=self.to_rgb)
