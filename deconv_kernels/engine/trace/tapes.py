"""When a network is traced: once for all images, or for every size of them, and anew when it has changed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NeedsSizes, Undecided, UnsupportedModule, UnusedRule
from ..weights import attributes_of
from .exported import image_like
from .rules import spelled
from .tape import Tape


class Tapes:
    """A network as its steps: one tape for all images, or where it asks for sizes one for every size of its images.

    Args:
        model: the network. When more of it than its tensors has changed, it is traced anew.
        trace: makes a tape of it, for inputs like some tensors if it is given these.
        image_size: of the images, if it is known.
        usual_rules: keys of rules that are given to every network, whether it calls them or not.

    Raises:
        UnsupportedModule: it cannot be traced, or has a part without an exact rule.
    """

    def __init__(
        self,
        model: nn.Module,
        trace: Callable[[Sequence[Tensor] | None], Tape],
        image_size: Sequence[int] | None,
        usual_rules: Collection[Any],
    ) -> None:
        self._model, self._trace, self._usual_rules = model, trace, usual_rules
        self._tapes: dict[tuple[torch.Size, ...] | None, Tape] = {}  # by the shapes of the inputs, None for any
        self._made: weakref.WeakSet[Tape] = weakref.WeakSet()
        self._attributes: dict[tuple[str, str], Any] = {}
        self._like: Sequence[Tensor] | None = None
        self._last: Tape | UnsupportedModule  # why there is none yet
        try:
            self._last = self.traced(None)
        except Undecided:
            raise
        except UnsupportedModule as refused:
            surely = isinstance(refused, NeedsSizes) and refused.surely
            if image_size is None and not isinstance(refused, NeedsSizes):
                raise
            self._last = refused
            if image_size is not None:
                self._last = self.traced([image_like(model, image_size)])
            elif not surely:
                self._usual()

    def __len__(self) -> int:
        return len(self._tapes)

    def __contains__(self, tape: Tape) -> bool:
        """Whether a tape is one of this network, as it is now or was before."""
        return tape in self._made

    @property
    def ask_for_sizes(self) -> bool:
        """Whether there is one for every size of the images."""
        return None not in self._tapes

    @property
    def rank(self) -> int | None:
        """How many axes the images must have, where that is known."""
        return next((tape.rank for tape in self._tapes.values()), None)

    def traced(self, like: Sequence[Tensor] | None) -> Tape:
        """The network traced now, for inputs of the shapes of some tensors, or for any.

        Raises:
            NeedsSizes: it asks for them, and they are not given.
            UnsupportedModule: as above.
        """
        self._attributes = attributes_of(self._model)
        tape = self._trace(like)
        for key in tape.unused.difference(self._usual_rules):
            what = f"rules name {spelled(key)}, which {type(self._model).__name__} does not call"
            warnings.warn(what, UnusedRule, stacklevel=4)
        self._tapes[None if like is None else _shapes(like)] = tape
        self._made.add(tape)
        self._like = None if like is None else [x.new_empty((1, *x.shape[1:])) for x in like]
        return tape

    def last(self) -> Tape:
        """That of the images that were asked for last.

        Raises:
            UnsupportedModule: there were none, and it is one for every size of them.
        """
        self._follow_changes()
        if isinstance(self._last, UnsupportedModule):
            raise self._last
        return self._last

    def last_or_usual(self) -> Tape:
        """That of the images that were asked for last, or for usual ones as long as there were none."""
        self._follow_changes()
        return self._last if isinstance(self._last, Tape) else self._usual()

    def of(self, images: Sequence[Tensor]) -> Tape:
        """That for inputs of these shapes."""
        self._follow_changes()
        if not self.ask_for_sizes:
            return self._tapes[None]
        self._last = self._tapes.get(_shapes(images)) or self.traced(images)
        return self._last

    def only_sized(self, tape: Tape) -> None:
        """From now on there is one for every size of the images, and this is that of the last ones."""
        del self._tapes[None]
        self._last = tape

    def _usual(self) -> Tape:
        """That for images of a usual size.

        Raises:
            UnsupportedModule: why the network could not be traced at first; or what it has no rule for.
        """
        assert isinstance(self._last, UnsupportedModule)
        image = image_like(self._model)
        try:
            return self._tapes.get(_shapes([image])) or self.traced([image])
        except Undecided:
            raise
        except UnsupportedModule:
            raise self._last from None

    def _follow_changes(self) -> None:
        if self._tapes and attributes_of(self._model) != self._attributes:
            self._tapes = {}
            try:
                self._last = self.traced(self._like)
            except NeedsSizes as asked:
                self._last = asked


def _shapes(inputs: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    return tuple(x.shape[1:] for x in inputs)
