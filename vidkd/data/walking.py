"""One pass over a video for all spans that slide over it, with no more frames in memory than a few of them have."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from vidkd.data.decode import Video


def portions(
    video: Video, spans: Sequence[Sequence[int]], batch: int, made: Callable[[int, Tensor], Tensor], also: set[int]
) -> Iterator[list[Tensor]]:
    """For every `batch` spans, source frames each and in the order of their beginnings: what `made` made of each frame
    [3, H, W], stacked to [T, ...]. `made` is called once a frame, ascending, and for the frames of `also` too."""
    needed = sorted({i for span in spans for i in span} | also)
    walk = zip(needed, video.walk(needed), strict=True)
    held: dict[int, Tensor] = {}
    for at in range(0, len(spans), batch):
        portion = spans[at : at + batch]
        first, last = min(map(min, portion)), max(map(max, portion))
        held = {i: frame for i, frame in held.items() if i >= first}
        if last not in held:
            for i, frame in walk:
                held[i] = made(i, frame)
                if i >= last:
                    break
        yield [torch.stack([held[i] for i in span]) for span in portion]
    for i, frame in walk:  # those of `also` behind the last span
        made(i, frame)
