"""Which images of a batch each process takes."""

from __future__ import annotations

import pytest
import torch

from tcl_train.data.shares import Shares
from tcl_train.errors import RequestError
from tcl_train.runtime.processes import Processes


@pytest.mark.parametrize(
    ("batch", "chunk", "count", "places"),
    [
        (6, None, 1, [[0, 1, 2, 3, 4, 5]]),
        (6, None, 2, [[0, 1, 2], [3, 4, 5]]),
        (6, 4, 1, [[0, 1, 2, 3, 4, 5]]),
        (8, 4, 2, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (6, 4, 2, [[0, 1, 4], [2, 3, 5]]),
        (6, 99, 3, [[0, 1], [2, 3], [4, 5]]),
    ],
)
def test_each_process_takes_an_equal_part_of_every_chunk(
    batch: int, chunk: int | None, count: int, places: list[list[int]]
) -> None:
    shares = [Shares(batch, chunk, Processes(rank, count)) for rank in range(count)]
    assert [share.places().tolist() for share in shares] == places
    together = torch.tensor(places).flatten()
    for share in shares:
        assert torch.equal(together[share.order()], torch.arange(batch))
        assert share.in_order == (share.order().tolist() == list(range(batch)))
        own = torch.arange(batch // count)
        assert torch.equal(torch.cat([own[images] for images in share.chunks()]), own)


@pytest.mark.parametrize(
    ("batch", "chunk", "words"),
    [(9, None, "batch_size=9 cannot be divided among 2"), (8, 3, "chunk_size=3 cannot be divided")],
)
def test_a_batch_that_cannot_be_divided_is_refused(
    batch: int, chunk: int | None, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        Shares(batch, chunk, Processes(0, 2))
