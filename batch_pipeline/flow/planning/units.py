"""What open units are to those who plan: where they come from does not show."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.flow.planning import sampling


class Units(ABC):
    """The open units of a night, in the order of its snapshot; as columns those of a manifest,
    with `cut_off` in place of `max_tokens`."""

    @abstractmethod
    def all(self) -> Iterator[pa.Table]: ...

    @abstractmethod
    def sizes(self) -> Iterator[pa.Table]:
        """Of all units `ordinal`, `unit` and `request_bytes` alone."""

    @abstractmethod
    def cut_off(self, size: int) -> pa.Table:
        """The first `size` units whose last answer was cut off at `max_tokens`."""

    def count(self) -> int:
        return sum(table.num_rows for table in self.sizes())

    def sample(self, size: int, seed: int) -> pa.Table:
        """A seeded sample over all lengths: the long tail is in it."""
        sizes, ordinals, lots = [], [], []
        for table in self.sizes():
            sizes.append(table.column("request_bytes"))
            ordinals.append(table.column("ordinal"))
            lots.append(sampling.lots(table.column("unit").to_pylist(), str(seed)))
        found = sampling.drawn(sampling.joined(sizes), np.concatenate(lots), size)
        wanted = pa.array(sampling.joined(ordinals)[found])
        return pa.concat_tables(
            table.filter(pc.is_in(table.column("ordinal"), wanted)) for table in self.all()
        )
