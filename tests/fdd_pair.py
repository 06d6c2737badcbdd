"""A decoder, and a run with feature-decoder distillation between two small networks."""

import torch
from torch.nn import functional as F

from conftest import CONFIGS
from vidkd import config_file, distiller
from vidkd.methods import feature_decoder as fdd
from vidkd.types import ClipBatch

SMALL = ("student.options={}", "teacher.options={}", "teacher.weights=null", "student.weights=null",
         "student.adapt=none", "student.reset_head=false", "teacher.adapt=none", "teacher.reset_head=false",
         "teacher.cache=null")  # fmt: skip


def decoder(steps=((1, 2, 2), (1, 2, 2)), k_t=1, upsample="subpixel", faithful=True, channels=96, out=3):
    return fdd.Decoder(channels, None, out, list(steps), k_t, upsample, faithful)


def made(
    *overrides,
    student="small_r3d",
    teacher="medium_r3d",
    teacher_options="{}",
    student_px=32,
    teacher_px=64,
    frames=8,
    student_frames=4,
):
    """A built run with feature_decoder alone, and one batch of two clips."""
    path = next(p for p in CONFIGS if p.stem == "motion_fmd")
    words = [
        *SMALL,
        f"student.name={student}",
        f"teacher.name={teacher}",
        f"teacher.options={teacher_options}",
        f"student.view.size_px={student_px}",
        f"teacher.view.size_px={teacher_px}",
        f"data.clip.frames={frames}",
        f"student.view.frames={student_frames}",
    ]
    section = "{kind: feature_decoder, " + ", ".join(overrides) + "}"
    run = config_file.load(path, [*words, f"methods=[{section}]"])
    torch.manual_seed(0)
    trainee, frozen, _ = distiller.build(run, 4)
    coarse = torch.randint(0, 256, (2, 3, frames, 6, 6)).float()  # smooth pictures, as of a video, not noise
    clip = F.interpolate(coarse, (frames, teacher_px, teacher_px), mode="trilinear")
    small = F.adaptive_avg_pool3d(clip, (student_frames, student_px, student_px))
    views = {"student": small.to(torch.uint8), "teacher": clip.to(torch.uint8)}
    return trainee, frozen, ClipBatch(views, torch.tensor([0, 1]), ("a", "b"))


def gradient_of(term, student):
    grads = torch.autograd.grad(term, [p for p in student.parameters()], retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None]).norm()
