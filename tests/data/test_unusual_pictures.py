"""Pictures of which decoders do not make the same pixels: the exact one reads them, the others refuse to."""

from pathlib import Path

import pytest
import torch

from data import films, numbered
from data_prep.pipeline import ffmpeg
from data_prep.pipeline.listing import Item
from data_prep.pipeline.transcode import Settings, transcode
from vidkd.data import decode
from vidkd.errors import DataError

PLAIN = "-c:v libx264 -bf 0 -g 16"
UNUSUAL = {
    "ten_bit": f"{PLAIN} -pix_fmt yuv420p10le",
    "interlaced": f"{PLAIN} -pix_fmt yuv420p -flags +ilme+ildct -x264opts interlaced=1",
    "cut_at_the_left": f"{PLAIN} -pix_fmt yuv420p -bsf:v h264_metadata=crop_left=16",
}
AT = [0, 7, 19]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_decoders_show_differently_only_the_exact_one_reads(tmp_path: Path, kind: str, suffix: str):
    path = numbered.encode(tmp_path / f"film{suffix}", UNUSUAL[kind], frames=20)
    with decode.open_video(path) as video:
        assert video.decoder == "pyav"
        assert numbered.numbers(video.get(AT)) == AT
    for decoder in ("decord", "torchcodec"):
        if decoder in decode.BACKENDS and decode._installed(decoder):
            with pytest.raises(DataError, match=f"{decoder} returns other frames"):
                decode.open_video(path, decoder)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_border_that_the_header_cuts_off_is_not_seen(tmp_path: Path, suffix: str):
    whole = films.film(tmp_path / f"whole{suffix}", PLAIN, frames=20)
    cut = tmp_path / f"cut{suffix}"
    numbered.ffmpeg(["-i", str(whole), "-c", "copy", "-bsf:v", "h264_metadata=crop_left=16:crop_top=8", str(cut)])
    with decode.open_video(whole, "pyav") as seen, decode.open_video(cut) as less:
        assert torch.equal(less.get(AT), seen.get(AT)[..., 8:, 16:])
        expected, size = seen.get(AT)[..., 8:, 16:].float(), (less.width, less.height)

    kind = {".mp4": "mov", ".mkv": "matroska", ".ts": "mpegts"}[suffix]
    report = ffmpeg.read(cut, kind, timeout_s=60)
    assert (report.width, report.height) == size
    facts = transcode(Settings(short_side=0, crf=4), Item("made.mp4", str(cut), "a"), tmp_path / "prepared.mp4")
    assert (facts.status, facts.frames, facts.width, facts.height) == ("ok", 20, *size)
    with decode.open_video(tmp_path / "prepared.mp4") as prepared:
        assert (prepared.get(AT).float() - expected).abs().mean() < 4
