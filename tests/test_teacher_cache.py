"""The teacher's answers on disk: what comes back, what is refused, what is not computed twice."""

import fcntl
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from conftest import REPOSITORY
from small_run import KD, TAUGHT
from vidkd import cache, config_file, distiller, distributed, teacher_cache, teacher_store
from vidkd.data import index
from vidkd.errors import ConfigError, DataError
from vidkd.methods._base import BaseMethod

CPU = torch.device("cpu")


class Reads(BaseMethod):
    """A method that reads these taps."""

    def __init__(self, taps=(), needs_input=False):
        torch.nn.Module.__init__(self)
        self.taps, self.needs_input = list(taps), needs_input

    def teacher_taps(self):
        return self.taps


@pytest.fixture
def opened(root, tmp_path, monkeypatch):
    """Opens the cache of a small run; also what it said and how often the teacher was asked."""
    monkeypatch.setattr(teacher_store, "CHUNK", 10)

    def opened(*methods, **section):
        text = ", ".join(
            f"{k}: {v}" for k, v in {"views": 2, "dtype": "fp32", "dir": tmp_path / "cache", **section}.items()
        )
        run = config_file.load(KD, [*TAUGHT, f"data.root={root}", f"teacher.cache={{{text}}}"])
        data_set = index.read(run.data.root)
        torch.manual_seed(0)
        _, teacher, _ = distiller.build(run, len(data_set.classes))
        part, said, asked = data_set.part("split1", "train"), [], []
        teacher.register_forward_hook(lambda *_: asked.append(1))
        found = teacher_cache.open_cache(run, data_set, part, teacher, methods, CPU, said.append)
        return found, said, len(asked), (run, teacher, part)

    return opened


def replayed_and_live(found, run, teacher, part, needs_input=False):
    from vidkd.data import clips

    keys = [[(epoch, i) for i in (0, 7, 11)] for epoch in (0, 1, 2, 3)]
    for batch in clips.train_loader(part, run.data, run.views(), keys, run.seed, found.addresses):
        yield found.replay(batch), teacher(batch.seen_by("teacher"))


def test_taps_and_logits_come_back_as_the_live_teacher_gives_them(opened):
    found, said, _, rest = opened(Reads(["late"]))
    for stored, live in replayed_and_live(found, *rest):
        torch.testing.assert_close(stored.logits, live.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(stored.taps["late"], live.taps["late"], atol=1e-5, rtol=1e-5)
        assert stored.video is None
    assert "logits + late of 2 views" in said[0]


def test_the_input_is_made_anew_for_a_method_that_reads_it(opened):
    found, *_, rest = opened(Reads(needs_input=True))
    for stored, live in replayed_and_live(found, *rest):
        assert torch.equal(stored.video, live.video)


def test_what_is_there_is_not_computed_again(opened):
    first = opened()[2]
    again = opened()[2]
    assert again < first  # the sample that is verified, nothing more
    with_a_tap = opened(Reads(["early"]))[2]
    assert with_a_tap == first
    assert opened(taps="[early]")[2] == again


def test_an_interrupted_build_goes_on(opened, tmp_path):
    asked = opened()[2]
    shards = sorted((tmp_path / "cache").glob("*/logits/*.json"))
    assert len(shards) == 2 * 3  # views x chunks of 10 of 24 clips
    shards[0].unlink()
    assert opened()[2] < asked
    assert len(sorted((tmp_path / "cache").glob("*/logits/*.json"))) == 6


def flipped(shard):
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def cut(shard):
    shard.write_bytes(shard.read_bytes()[:-10])


def of_other_clips(shard):
    shutil.copyfile(other := shard.with_name("a0001_c00002.safetensors"), shard)
    shutil.copyfile(other.with_suffix(".json"), shard.with_suffix(".json"))


DAMAGE = {
    flipped: "its checksum is wrong; delete",
    cut: "its checksum is wrong; delete",
    Path.unlink: "cannot be read .*; delete",
    of_other_clips: "not the clips of this data set; delete",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_tap_that_is_not_whole_is_found(opened, tmp_path, damage):
    opened(Reads(["late"]))
    damage(next((tmp_path / "cache").glob("*/late/a0001_c00001.safetensors")))
    with pytest.raises(DataError, match=DAMAGE[damage]):
        opened(Reads(["late"]))


def test_a_shard_that_was_damaged_alone_is_built_again(opened, tmp_path):
    asked = opened(Reads(["late"]))[2]
    shard = next((tmp_path / "cache").glob("*/late/a0001_c00001.safetensors"))
    flipped(shard)
    with pytest.raises(DataError, match=re.escape(f"delete {shard.with_suffix('.*')}, and the same command builds")):
        opened(Reads(["late"]))
    for path in shard.parent.glob(f"{shard.stem}.*"):
        path.unlink()
    assert opened(Reads(["late"]))[2] < asked


def test_a_disk_that_is_too_small_is_said_before_anything_is_built(opened, tmp_path, monkeypatch):
    free = [0]
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    with pytest.raises(ConfigError, match=r"has 0 bytes free, the cache takes 768 more; make room"):
        opened()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    free[0] = 768  # 4 logits of 4 bytes, of 24 clips and 2 views
    opened()
    free[0] = 0
    opened()  # nothing is missing


def test_another_teachers_answers_are_found(opened, tmp_path, monkeypatch):
    opened()
    monkeypatch.setattr(torch, "manual_seed", lambda seed: torch.random.default_generator.manual_seed(seed + 1))
    with pytest.raises(DataError, match="the live teacher disagrees on the logits of"):
        opened()


@pytest.mark.parametrize(("section", "least"), [({"dtype": "int8"}, 0.999), ({"dtype": "fp16"}, 0.999999)])
def test_smaller_forms_stay_close_and_say_how_close(opened, section, least):
    found, *_, rest = opened(Reads(["late"]), **section)
    assert "smallest cosine: logits 1.0" in found.verdict
    for stored, live in replayed_and_live(found, *rest):
        cosine = cosine_similarity(stored.taps["late"].flatten(1), live.taps["late"].flatten(1))
        assert float(cosine.min()) > least


def test_pooled_taps(opened):
    found, *_, rest = opened(Reads(["late"]), pool="[2, 1, 1]")
    for stored, live in replayed_and_live(found, *rest):
        expected = torch.nn.functional.adaptive_avg_pool3d(live.taps["late"], (2, 1, 1))
        torch.testing.assert_close(stored.taps["late"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("section", [{"dtype": "int8"}, {"dtype": "fp16"}, {"dtype": "fp32", "pool": "[2, 1, 1]"}])
def test_the_announced_size_is_that_of_what_is_stored(opened, tmp_path, section):
    _, said, *_ = opened(Reads(["late"]), **section)
    shards = [load_file(path) for path in (tmp_path / "cache").rglob("*.safetensors")]
    stored = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    assert f"{stored // 24:,} bytes a clip" in said[0]


def test_what_is_lost_by_storing_it_so_is_said(opened):
    def error(**section):
        return float(re.search(r"own\): .*late ([\d.e+-]+)", opened(Reads(["late"]), **section)[0].verdict)[1])

    assert error(dtype="fp32") < 0.001 < error(dtype="fp16") < 0.1 < error(dtype="int8") < 2
    assert error(dtype="fp32", pool="[2, 1, 1]") > 20  # most of a map is where in the picture it is
    live = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    pooled = live.mean((2, 3), keepdim=True)
    assert teacher_cache.lost_share(live, pooled) == pytest.approx((5 / 30) ** 0.5)  # 5: the squares about 2.5


def test_int8_by_hand():
    rows = torch.tensor([[[1.27, -0.5, 0.0], [0.0, 0.0, 0.0]]])
    stored = teacher_store.encoded(rows, "int8")
    assert stored["rows"].tolist() == [[[127, -50, 0], [0, 0, 0]]]
    torch.testing.assert_close(teacher_store.decoded(stored["rows"][0], stored["scale"][0]), rows[0])


def test_what_depends_on_the_batch_is_not_cached():
    section = "teacher.cache={views: 1}"
    attended = config_file.load(KD, [*TAUGHT, section, "teacher.attention={head: gap, reweight: parity}"])
    with pytest.raises(ConfigError, match="depends on the others of its batch"):
        teacher_cache.check(attended)
    with pytest.raises(ConfigError, match="holds single clips"):
        teacher_cache.check(config_file.load(KD, [*TAUGHT, section, "data.augment.mixup_alpha=0.2"]))


def test_a_tap_that_is_not_there(opened):
    with pytest.raises(ConfigError, match="tiny16: no tap 'lat'; did you mean 'late'"):
        opened(taps="[lat]")


def test_the_command(root, tmp_path, capsys):
    section = f"teacher.cache={{views: 1, taps: [late], dir: {tmp_path}}}"
    words = [str(KD), *TAUGHT, f"data.root={root}", "teacher.allow_weak=true", section]
    assert cache.main(words) == 0
    assert "1 of 1 shards to build" in capsys.readouterr().out
    assert cache.main(words) == 0
    assert "0 of 1 shards to build" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"it has no teacher\.cache section"):
        cache.main([str(KD)])


@pytest.mark.slow
def test_two_processes_build_what_one_does(root, tmp_path):
    def words(folder):
        section = f"teacher.cache={{views: 3, taps: [late], dir: {tmp_path / folder}}}"
        return [str(KD), *TAUGHT, f"data.root={root}", "teacher.allow_weak=true", section]

    assert cache.main(words("one")) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "vidkd.cache"]
    done = subprocess.run([*launch, *words("two")], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("3 of 3 shards to build") == 1
    one, two = ({p.relative_to(tmp_path / f): p for p in (tmp_path / f).rglob("*.safetensors")} for f in ("one", "two"))
    assert one.keys() == two.keys()
    assert len(one) == 2 * 3  # logits and late, of three views
    for name, path in one.items():
        for tensor, expected in load_file(path).items():
            torch.testing.assert_close(load_file(two[name])[tensor], expected)


def _hold(path: Path, held, release) -> None:
    with path.open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        held.set()
        release.wait(60)


def test_a_cache_that_another_run_builds_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "POLL_S", 0.01)
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / ".lock", held, release))
    other.start()
    assert held.wait(60)
    threading.Timer(0.2, release.set).start()
    with teacher_cache._builder(tmp_path):
        assert release.is_set()
    other.join(60)
    assert other.exitcode == 0


def test_b4_processes_that_build_a_cache_stay_in_step(opened, monkeypatch):
    """One that is a little faster would be more than processes.PATIENCE_S ahead at the end of a long build."""
    done, together, build = [], distributed.together, teacher_cache._build
    monkeypatch.setattr(teacher_cache, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "together", lambda do: (together(do), done.append("met"))[0])
    monkeypatch.setattr(teacher_cache, "_build", lambda *a, **k: (build(*a, **k), done.append("built"))[0])
    with pytest.raises(DataError, match="cannot be read"):  # the other process's half
        opened(Reads(["late"]))
    own = done[done.index("built") :]
    assert own == ["built", "met"] * 3
