"""A mistake is named where it is, all of them at once; what is written is what is read."""

import pytest

from conftest import CONFIGS
from vidkd import config_file
from vidkd.errors import ConfigError
from vidkd.section import Ramp, in_steps

KD = next(p for p in CONFIGS if p.stem == "motion_kd")


def test_every_shipped_config_is_valid_and_named_as_its_file(shipped):
    assert config_file.load(shipped).name == shipped.stem


def test_every_shipped_config_says_its_command(shipped):
    assert f"configs/{shipped.name}" in shipped.read_text().splitlines()[0]


def test_a_dumped_config_loads_to_an_equal_one(shipped, tmp_path):
    run = in_steps(config_file.load(shipped), 7)
    (tmp_path / "again.yaml").write_text(config_file.dump(run))
    assert config_file.load(tmp_path / "again.yaml") == run


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.weigth_decay=0.1", "optim.weigth_decay: no such key; did you mean 'weight_decay'?"),
        ("train.batch_size=ten", "train.batch_size: Input should be a valid integer"),
        ("optim.lr=0", "optim.lr: Input should be greater than 0 (got 0)"),
        ("log.wandb_project=a/b", "log.wandb_project: String should match"),
        ("student.name=tiny5", "student.name: no network 'tiny5'; did you mean 'tiny4'?"),
        ("methods.0.kind=logit", "no distillation method 'logit'; did you mean 'logits'?"),
        ("methods.0.temperatur=2", "temperatur: no such key; did you mean 'temperature'?"),
        ("task.kind=recogniton", "task: no task 'recogniton'; did you mean 'recognition'?"),
        ("train.steps=10", "say either steps or epochs, and not both"),
        ("train.accumulate=3", "must be a multiple of train.accumulate (3)"),
        ("data.augment.crop_scale=[1.0, 0.5]", "crop_scale [1.0, 0.5] must be two positive numbers"),
        ("data.short=cut", "data.short: Input should be 'loop' or 'hold' (got 'cut')"),
        ("teacher=null", "methods need a teacher"),
        ("methods=[]", "a teacher without methods has nothing to say"),
        ("optim.lr=.inf", "optim.lr: Input should be a finite number"),
        ("train.epochs=1e300", "train.epochs: Input should be less than or equal to 1000000 (got 1e+300)"),
        (
            "train={steps: 1000000000000000000, batch_size: 8}",
            "train.steps: Input should be less than or equal to 1000",
        ),
        ("data.workers=100000", "data.workers: Input should be less than or equal to 1024"),
        ("seed=9223372036854775808", "seed: Input should be less than 9223372036854775808"),
        ("data.clip.frames=1000000000000", "data.clip.frames: Input should be less than or equal to 1000000"),
        ("data.timeout_s=1e300", "data.timeout_s: Input should be less than or equal to 1000000"),
    ],
)
def test_a_mistake_is_named_where_it_is(override, message):
    with pytest.raises(ConfigError) as caught:
        config_file.load(KD, [override])
    assert message in str(caught.value)


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ConfigError, match="3 mistake") as caught:
        config_file.load(KD, ["optim.lr=-1", "train.batch_size=0", "data.rot=x"])
    assert all(key in str(caught.value) for key in ("optim.lr", "train.batch_size", "data.rot"))


@pytest.mark.parametrize("item", ["lr", "=3", "methods.7.kind=logits", "name.deeper=1", "methods.x=1"])
def test_an_override_that_is_none_is_a_mistake(item):
    with pytest.raises(ConfigError, match="override"):
        config_file.load(KD, [item])


def test_numbers_and_names_are_what_they_look_like(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(KD.read_text().replace("lr: 3.0e-3", "lr: 1e-4").replace("name: motion_kd", "name: no"))
    run = config_file.load(path, ["optim.weight_decay=2e-3", "student.view.size_px=40"])
    assert (run.optim.lr, run.name, run.optim.weight_decay, run.student.view.size_px) == (1e-4, "no", 2e-3, 40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "duplicate"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases"),
        ("a: !!python/object/apply:os.system ['touch pwned']\n", "not valid YAML"),
        ("- 1\n", "is a mapping of sections"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_yaml_is_plain(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        config_file.load(tmp_path / "x.yaml")
    assert not (tmp_path / "pwned").exists()


def test_a_missing_file_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        config_file.load(tmp_path / "none.yaml")


def test_epochs_become_steps_everywhere_once():
    run = config_file.load(KD, ["methods.0.weights={kd: {to: 2.0, epochs: 3}}", "train.epochs=10"])
    known = in_steps(run, 20)
    assert known.train.count() == 200
    assert known.optim.warmup.count() == 20
    assert known.methods[0].weights["kd"].count() == 60
    assert in_steps(known, 99) == known
    with pytest.raises(ValueError, match="call in_steps first"):
        run.train.count()


def test_a_ramp_reaches_its_weight_and_stays():
    assert [Ramp(to=0.5, steps=4).at(s) for s in (0, 2, 4, 9)] == [0.0, 0.25, 0.5, 0.5]
    assert [Ramp(start=1, to=0, steps=2).at(s) for s in (0, 1, 2)] == [1.0, 0.5, 0.0]
