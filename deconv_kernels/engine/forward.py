"""The way up: runs batches of images forward and puts into a record what the way back needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .record import Peaks, Record
from .steps.base import Kept
from .steps.pointwise import Rectifier
from .steps.pooling import MaxPool
from .trace.tape import Tape


class Recording:
    """Runs batches of images forward.

    Args:
        tape: of the network.
        record: to fill.
        asked: the values of the layers asked for.
        activations: keep theirs.
    """

    def __init__(self, tape: Tape, record: Record, asked: set[int], activations: bool) -> None:
        self.tape, self.record, self.asked, self.activations = tape, record, asked, activations
        self.needed = self.tape.needed(asked)
        self.last_reader = {source: index for index in self.needed for source in self.tape.sources[index]}
        readers = [source for index in self.needed for source in self.tape.sources[index]]
        # A rectifier of which nothing is kept and that only a max pool reads is left to the pool.
        self.fused = {
            value
            for index in self.needed
            if (value := self.tape.inputs + index) not in asked
            and isinstance(rectifier := self.tape.steps[index], Rectifier)
            and rectifier.fuses
            and readers.count(value) == 1
            and isinstance(self.tape.steps[self.last_reader[value]], MaxPool)
        }

    def batch(self, inputs: Sequence[Tensor], start: int) -> None:
        """Records one batch, the first of whose images is number `start`."""
        record, tape = self.record, self.tape
        shapes: list[tuple[int, ...] | None] = [None] * (tape.inputs + len(tape.steps))
        alive = dict(enumerate(inputs))
        shapes[: tape.inputs] = [tuple(x.shape[1:]) for x in inputs]
        given = {_memory(x) for x in inputs}
        foreign = set(given)

        def own(x: Tensor) -> Tensor:
            """The same, in memory that the caller cannot change."""
            return x.clone() if _memory(x) in given else x

        for index in self.needed:
            step, sources, value = record.steps[index], tape.sources[index], tape.inputs + index
            read = [alive[source] for source in sources]
            for source in set(sources):
                if self.last_reader[source] == index:
                    del alive[source]
            kept: Kept = None
            if value in self.fused:
                x = read[0]
            elif isinstance(step, MaxPool):
                x, kept = step.forward(read[0], False, relu=sources[0] in self.fused)
            else:
                memory = _memory(read[0])
                owned = memory not in foreign and all(
                    _memory(other) != memory for other in (*alive.values(), *read[1:])
                )
                x, kept = step.run(read, owned)
            del read
            shapes[value] = tuple(x.shape[1:])
            alive[value] = x
            if kept is not None:
                kept = tuple(own(part) for part in kept) if isinstance(kept, tuple) else own(kept)
                foreign.update(_memory(part) for part in (kept if isinstance(kept, tuple) else (kept,)))
                record.kept[index] = _store(record.kept[index], kept, start, len(record))
            if value in self.asked:
                self._keep_layer(step.name, own(x) if self.activations else x, start)
                if self.activations:
                    foreign.add(_memory(x))
            if value not in self.last_reader:
                del alive[value]
        record.shapes = shapes

    def _keep_layer(self, name: str, x: Tensor, start: int) -> None:
        record, batch = self.record, Peaks.of(x)
        stored = record.peaks.get(name, Peaks(None, None, None))  # type: ignore[arg-type]
        parts = (
            _store(getattr(stored, part), getattr(batch, part), start, len(record)) for part in ("value", "y", "x")
        )
        record.peaks[name] = Peaks(*parts)  # type: ignore[arg-type]
        if self.activations:
            activations = _store(record.activations.get(name), x, start, len(record))
            assert isinstance(activations, Tensor)
            record.activations[name] = activations


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _store(store: Kept, batch: Kept, start: int, total: int) -> Kept:
    """Puts what was kept of a batch with what was kept of the others."""
    if isinstance(batch, tuple):
        stores = store if isinstance(store, tuple) else (None,) * len(batch)
        parts = (_store(*pair, start, total) for pair in zip(stores, batch, strict=True))
        return tuple(part for part in parts if isinstance(part, Tensor))
    if batch is None or len(batch) == total:
        return batch
    if not isinstance(store, Tensor):
        channels_last = batch.dim() == 4 and not batch.is_contiguous() and batch.stride(1) == 1
        store = torch.empty(
            (total, *batch.shape[1:]),
            dtype=batch.dtype,
            device=batch.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
    store[start : start + len(batch)] = batch
    return store
