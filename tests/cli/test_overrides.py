import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.cli.overrides import check_keys, check_override, flatten, split_sweep
from mbv2kit.errors import UserError

KNOWN = flatten(
    {
        "backbone": {"name": "mobilenet_v2", "width": 1.0, "output_stride": 32},
        "dataset": {"name": "coco", "root": None, "train_split": "train2017"},
        "ema": {"decay": 0.9999},
        "input": {"size": [224, 224], "fill": 127},
        "optimizer": {"lr": 1e-3},
        "resume": None,
        "run_dir": "outputs/${task}",
        "seed": 0,
        "task": None,
        "trainer": {"max_epochs": 30, "channels_last": True, "precision": "32-true"},
    }
)
ALL = "Known: backbone, dataset, ema, input, optimizer, resume, run_dir, seed, task, trainer."


def check(line: str) -> None:
    check_override(OverridesParser.create().parse_override(line), KNOWN)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("datset=coco", "There is no key 'datset'. Did you mean 'dataset'?"),
        ("backbone.widht=0.5", "There is no key 'backbone.widht'. Did you mean 'backbone.width'?"),
        ("backbone.zzz=1", "There is no key 'backbone.zzz'. Known: name, output_stride, width."),
        ("zzz=1", f"There is no key 'zzz'. {ALL}"),
        ("lr=0.1", "There is no key 'lr'. Did you mean 'optimizer.lr'?"),
        ("trainer.lr=0.1", "There is no key 'trainer.lr'. Did you mean 'optimizer.lr'?"),
        ("trainer={max_epohcs: 3}", "There is no key 'trainer.max_epohcs'. Did you mean 'trainer.max_epochs'?"),
        ("seed.deep.down=1", "There is no key 'seed.deep.down'."),
        ("resume.root=x", "resume is null and has no key 'root'; give it a value first, as in resume=NAME."),
        ("+zzz=1", f"There is no key 'zzz'. {ALL}"),
        ("++zzz=1", f"There is no key 'zzz'. {ALL}"),
        ("~zzz", f"There is no key 'zzz'. {ALL}"),
        ("+seed=1", "'+seed=1': the key 'seed' is there already; leave out the '+'."),
        ("~seed", "'~seed': a key cannot be taken away; set it to a value."),
    ],
)
def test_a_slip_is_told_in_one_sentence(line: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check(line)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "line",
    [
        "ema.decay=null",
        "optimizer.lr=1",
        "seed=7",
        "task=detection",
        "dataset.root=/data/my images",
        "trainer.precision=16",
        "trainer={max_epochs: 3, channels_last: false}",
        "input.size=[96,128]",
        "optimizer.lr=${seed}",
    ],
)
def test_what_is_right_passes(line: str) -> None:
    check(line)


def test_the_origin_begins_the_message() -> None:
    with pytest.raises(UserError, match=r"^trial\.yaml: There is no key 'sede'\. Did you mean 'seed'\?$"):
        check_keys({"sede": 1}, KNOWN, "trial.yaml: ")


trees = st.recursive(
    st.none() | st.integers(),
    lambda branch: st.dictionaries(st.text("abc", min_size=1, max_size=3), branch, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), trees, max_size=4))
def test_every_dotted_name_leads_to_its_value(tree: dict[str, object]) -> None:
    for key, value in flatten(tree).items():
        found: object = tree
        for step in key.split("."):
            assert isinstance(found, dict)
            found = found[step]
        assert found == value


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_sweep_is_checked_value_by_value_and_not_combination_by_combination(counts: list[int]) -> None:
    lines = [f"key{i}={','.join(map(str, range(count)))}" for i, count in enumerate(counts)]
    jobs = list(split_sweep(OverridesParser.create().parse_overrides(lines), multirun=True))
    assert len(jobs) == 1 + sum(count - 1 for count in counts)
    assert {line for job in jobs for line in job} == {
        f"key{i}={value}" for i, count in enumerate(counts) for value in range(count)
    }
    assert all(
        sorted(line.partition("=")[0] for line in job) == sorted(f"key{i}" for i in range(len(counts))) for job in jobs
    )
