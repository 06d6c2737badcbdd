"""The section that shows feature maps: what the decoder drew from the student's shallow map, and the deep maps of both
networks over time, all at the same moments of a clip."""

from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vidkd import checkpoint, distiller
from vidkd.data import colours
from vidkd.distiller import Trainee
from vidkd.methods import feature_consistency, feature_decoder
from vidkd.methods._maps import at_frames
from vidkd.report import cards, pictures
from vidkd.report.material import Cell, LeftOut, Material
from vidkd.report.svg import esc
from vidkd.taps import Frozen, Tapped
from vidkd.types import View

COMPARING = {"feature_decoder", "feature_consistency"}  # maps
SHOWN = 4  # videos
SIDE_PX = 64  # of one picture of a strip
COLD, HOT = (0.27, 0.0, 0.33), (0.99, 0.91, 0.14)  # RGB of the smallest and the largest value
MIDDLE = (0.13, 0.57, 0.55)


def maps(m: Material) -> str:
    """For a few scored videos, strips of the same moments: the teacher's input and its drawing from the student's map,
    then the deep maps of teacher and student, each clip scaled by itself, of the best row that compares maps; "" where
    none does."""
    row = cards.best_with(m, lambda run: bool(COMPARING & {section.kind for section in run.methods}))
    if row is None:
        return ""
    source = cards.shown(m, row)
    trainee, teacher = _trained(source.cell, len(source.classes))

    def drawn(i: int, views: cards.Views) -> str:
        del i
        with torch.no_grad():
            middle = {who: seen[len(seen) // 2].unsqueeze(0) for who, seen in views.items()}
            rows = compared(trainee, teacher.tapped, trainee.student(middle["student"]), teacher(middle["teacher"]))
        return "".join(
            f'<figure class="seen"><figcaption>{esc(caption)}</figcaption>'
            f'<img class="strip pixels alone" alt="{esc(caption)}, side by side" src="{pictures.webp(row)}"></figure>'
            for caption, row in rows
        )

    note = (
        '<p class="note">Drawings are the decoder’s at the last checkpoint; it is no part of the student. Maps [T, H, '
        "W]: how far the features of a place are from their means over the clip (root mean square over channels), dark "
        f"to bright from the clip’s smallest to its largest; under each frame the one of its time. {source.said()}</p>"
    )
    return f"{note}{cards.cards(source, SHOWN, drawn)}"


def compared(trainee: Trainee, teacher: Tapped, own: View, seen: View) -> list[tuple[str, Image.Image]]:
    """(caption, strip of moments) of everything that the methods compare, for one clip; drawings before maps."""
    assert seen.video is not None
    t, h, w = seen.video.shape[2:]
    drawn = [("teacher: input", strip(in_colour(seen.video, teacher)))]
    maps: list[tuple[str, Image.Image]] = []
    for method in trainee.each_method():
        if isinstance(method, feature_decoder.Method) and method.config.target == "clip":
            shallow = own.taps[method.config.student_tap]
            for form, decoder in method.decoders.items():
                drawing = cast(Tensor, decoder(shallow, (shallow.shape[2] if form == "per_frame" else t, h, w)))
                caption = f"drawn ({form}) from the student’s {method.config.student_tap} map"
                drawn.append((caption, strip(in_colour(at_frames(drawing, t), teacher))))
        if isinstance(method, feature_consistency.Method):
            taps = ("teacher", method.config.teacher_tap, seen), ("student", method.config.student_tap, own)
            for who, tap, view in taps:
                size = "x".join(map(str, view.taps[tap].shape[2:]))
                maps.append((f"{who}: {tap} map, {size}", strip(as_heat(at_frames(view.taps[tap], t)))))
    return list(dict(drawn + maps).items())


def strip(video: Tensor) -> Image.Image:
    """[3, T, H, W] uint8 -> frames side by side."""
    return pictures.strip([Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in video.unbind(1)])


def in_colour(video: Tensor, teacher: Tapped) -> Tensor:
    """[1, C, T, H, W], normalised as for `teacher` -> [3, T, h, w] uint8, small enough to show."""
    plain = (video * teacher.std + teacher.mean).clamp(0, 1)[0]
    if plain.shape[2] > 2 * SIDE_PX:
        plain = F.interpolate(plain.transpose(0, 1), (SIDE_PX, SIDE_PX), mode="area").transpose(0, 1)
    return colours.rgb((255 * plain).round().to(torch.uint8).transpose(0, 1)).transpose(0, 1)


def as_heat(maps: Tensor) -> Tensor:
    """[1, C, T, h, w] -> [3, T, H, W] uint8, from COLD over MIDDLE to HOT: the root mean square over channels of what
    the features at a place are beside their means over the clip.

    Not their mean: of signed maps that is the mean of biases, and shows the zeros at the borders, not the clip.
    """
    deviation = maps[0].float() - maps[0].float().mean((1, 2, 3), keepdim=True)
    size = deviation.square().mean(0).sqrt()
    share = ((size - size.min()) / (size.max() - size.min()).clamp_min(1e-12)).unsqueeze(0)
    cold, middle, hot = (torch.tensor(c).view(3, 1, 1, 1) for c in (COLD, MIDDLE, HOT))
    colour = torch.where(share < 0.5, cold + 2 * share * (middle - cold), middle + (2 * share - 1) * (hot - middle))
    times = max(SIDE_PX // size.shape[1], 1)
    return (255 * colour).round().to(torch.uint8).repeat_interleave(times, 2).repeat_interleave(times, 3)


def _trained(cell: Cell, num_classes: int) -> tuple[Trainee, Frozen]:
    """The run's student and methods as of its last checkpoint, and its teacher."""
    found = checkpoint.newest(cell.dir / "checkpoints")
    if found is None:
        raise LeftOut(f"{cell.dir} has no checkpoint left, and the decoder is kept nowhere else.")
    trainee, teacher, _ = distiller.build(cell.run, num_classes)
    assert teacher is not None
    trainee.load_state_dict(found[0].groups["trainee"])
    return trainee.eval(), teacher
