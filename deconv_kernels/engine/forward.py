"""The way up: runs batches of images forward and puts into a record what the way back needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import repeat

from torch import Tensor

from ..ops.layout import empty, is_channels_last
from .record import Peaks, Record
from .steps.base import Step
from .steps.pointwise import Identity
from .trace.tape import Link, Tape


def fused(tape: Tape, steps: Mapping[int, Step], wanted: Collection[int], keeps: bool) -> list[tuple[Link, Step]]:
    """The steps as they run forward: a rectifier that only a max pool reads is left to the pool.

    Args:
        tape: of the network.
        steps: of it, by their numbers, in order.
        wanted: the values that have to be there.
        keeps: whether what rectifiers keep for the way back is needed.
    """
    links = [tape.links[number] for number in steps]
    readers = Counter(source for link in links for source in link.sources)
    running = dict(steps)
    for link in links:
        step, below = steps[link.number], tape.maker(link.sources[0])
        if below is None or below.value in wanted or readers[below.value] > 1 or below.number not in steps:
            continue
        if steps[below.number].fuses(keeps) and (rectifying := step.rectifying()) is not None:
            running[below.number], running[link.number] = Identity(below.step.name), rectifying
    return [(link, running[link.number]) for link in links]


class Recording:
    """Runs batches of images forward.

    Args:
        tape: of the network.
        record: to fill.
        asked: the values of the layers asked for.
        activations: keep theirs.
        rank: how many axes the images have.
    """

    def __init__(self, tape: Tape, record: Record, asked: set[int], activations: bool, rank: int) -> None:
        self.tape, self.record, self.asked, self.activations, self.rank = tape, record, asked, activations, rank
        self.running = fused(tape, record.steps, asked, keeps=True)
        self.last_reader = {source: link.value for link, _ in self.running for source in link.sources}

    def batch(self, inputs: Sequence[Tensor], start: int) -> None:
        """Records one batch, the first of whose images is number `start`."""
        record = self.record
        alive = dict(enumerate(inputs))
        shapes: list[tuple[int, ...] | None] = [tuple(x.shape[1:]) for x in inputs]
        shapes += [None] * len(self.tape.steps)
        given = {memory_of(x) for x in inputs}
        foreign = set(given)

        def own(x: Tensor) -> Tensor:
            """The same, in memory that the caller cannot change."""
            return x.clone() if memory_of(x) in given else x

        for (number, value, _, sources), step in self.running:
            read = [alive[source] for source in sources]
            for source in set(sources):
                if self.last_reader[source] == value:
                    del alive[source]
            memory = memory_of(read[0])
            owned = memory not in foreign and all(memory_of(x) != memory for x in (*alive.values(), *read[1:]))
            x, kept = step.run(read, owned)
            del read
            shapes[value] = tuple(x.shape[1:])
            alive[value] = x
            if kept:
                kept = tuple(map(own, kept))
                foreign.update(map(memory_of, kept))
                stores = record.kept[number] or [None] * len(kept)
                record.kept[number] = tuple(map(self._store, stores, kept, repeat(start)))
            if value in self.asked:
                self._keep_layer(step.name, own(x) if self.activations else x, start)
                if self.activations:
                    foreign.add(memory_of(x))
            if value not in self.last_reader:
                del alive[value]
        record.shapes = shapes

    def _keep_layer(self, name: str, x: Tensor, start: int) -> None:
        record, batch = self.record, Peaks.of(x, self.rank)
        stored = record.peaks.get(name)
        stores = (None, None) if stored is None else (stored.value, stored.place)
        record.peaks[name] = Peaks(*map(self._store, stores, (batch.value, batch.place), repeat(start)))
        if self.activations:
            record.activations[name] = self._store(record.activations.get(name), x, start)

    def _store(self, store: Tensor | None, batch: Tensor, start: int) -> Tensor:
        """Puts something of a batch with the same of the others."""
        images = len(self.record)
        if len(batch) == images:
            return batch
        if store is None:
            channels_last = batch.dim() == self.rank + 2 and is_channels_last(batch, self.rank)
            store = empty((images, *batch.shape[1:]), batch.dtype, batch.device, channels_last, self.rank)
        store[start : start + len(batch)] = batch
        return store


def memory_of(x: Tensor) -> int:
    """Where the memory of a tensor begins."""
    return x.untyped_storage().data_ptr()
