"""Pictures of clips, small enough for the page."""

import base64
import io
from typing import Any

from PIL import Image
from torch import Tensor

from vidkd.data import colours

IN_STRIP = 6  # frames
LARGEST_PX = 112  # side of an embedded picture


def frames(views: Tensor) -> list[Image.Image]:
    """Those of the middle one of the views [V, C, T, H, W] uint8, at most LARGEST_PX a side."""
    seen = colours.rgb(views[len(views) // 2].transpose(0, 1))
    pictures = [Image.fromarray(f) for f in seen.permute(0, 2, 3, 1).numpy()]
    if views.shape[3] > LARGEST_PX:
        pictures = [p.resize((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS) for p in pictures]
    return pictures


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Up to IN_STRIP frames side by side, from the first to the last."""
    n = min(IN_STRIP, len(pictures))
    chosen = [pictures[round(i * (len(pictures) - 1) / max(n - 1, 1))] for i in range(n)]
    w, h = chosen[0].size
    gap = max(w // 32, 1)
    strip = Image.new("RGBA", (n * (w + gap) - gap, h))
    for i, picture in enumerate(chosen):
        strip.paste(picture, (i * (w + gap), 0))
    return strip


def webp(picture: Image.Image, **options: Any) -> str:
    """The picture as a data: address."""
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=75, method=4, **options)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"
