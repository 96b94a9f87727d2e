import json
import re
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import close_session, constants

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.hub import preview, pull, push
from tests.fake_hub import Commit, FakeHub, Repository
from tests.norms import randomize_norms

METRICS = {
    "task": "classification",
    "dataset": "folder",
    "split": "val",
    "images": 7,
    "seconds": 0.5,
    "metrics": {"top1": 0.75},
    "per_class": {"cat": {"top1": 0.75}},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that the library takes for the real one, with an empty cache and no login."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    home = tmp_path / "home"
    # The library reads its environment when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "agents.json"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with FakeHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()
        yield server
    close_session()


def save_model(folder: Path, names: tuple[str, ...] = ("cat", "dog")) -> VisionModel:
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.1},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": names},
        input=Preprocess((64, 64)),
        origin={"source": "here", "licence": "mit"},
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    model.save(folder)
    return model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The model folder of a finished run."""
    save_model(tmp_path / "run" / "model")
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(METRICS))
    return tmp_path / "run" / "model"


def publish(hub: FakeHub, name: str, **files: bytes) -> None:
    hub.repositories[name] = Repository(commits=[Commit("by somebody", files)])


def other_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))


def test_a_pushed_model_comes_back_byte_for_byte(hub: FakeHub, run: Path) -> None:
    assert push(run, "me/cats", private=False, message="First") == f"{hub.url}/me/cats"
    folder = pull("me/cats")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "metrics.json",
        "model.json",
        "model.safetensors",
    ]
    for name in ("model.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    assert json.loads((folder / "metrics.json").read_text()) == METRICS
    assert (folder / "README.md").read_text().startswith("---\nlicense: mit\n")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found, expected = (VisionModel.load(path)(images)["classification"]["logits"] for path in (folder, run))
    assert torch.equal(found, expected)


def test_a_push_is_one_commit_with_its_message(hub: FakeHub, run: Path) -> None:
    push(run, "me/cats", private=False, message="First metrics")
    push(run, "me/cats", private=False, message="Again")
    assert [commit.message for commit in hub.repositories["me/cats"].commits] == [
        "initial commit",
        "First metrics",
        "Again",
    ]
    assert list(hub.large) == [sha256((run / "model.safetensors").read_bytes()).hexdigest()]


def test_metrics_of_several_tasks_are_published(hub: FakeHub, run: Path) -> None:
    values = METRICS | {"task": "multitask", "metrics": {"mean": 0.5, "top1": 0.5}}
    values["per_class"] = {"classification/cat": {"top1": 0.5}}
    (run / "metrics.json").write_text(json.dumps(values))
    push(run, "me/cats", private=False, message="Several")
    assert "class of classification" in (pull("me/cats") / "README.md").read_text()


def test_metrics_of_older_weights_are_removed(hub: FakeHub, run: Path, tmp_path: Path) -> None:
    push(run, "me/cats", private=False, message="With metrics")
    save_model(tmp_path / "converted", ("owl",))
    push(tmp_path / "converted", "me/cats", private=False, message="Without")
    _, before, after = hub.repositories["me/cats"].commits
    assert before.files.keys() - after.files.keys() == {"metrics.json"}
    assert b"owl" in after.files["model.json"]


def test_metrics_next_to_another_folder_are_not_published(hub: FakeHub, run: Path) -> None:
    moved = run.rename(run.with_name("weights"))
    push(moved, "me/cats", private=False, message="First")
    assert "metrics.json" not in hub.repositories["me/cats"].commits[-1].files


def test_a_card_in_the_folder_is_published_unchanged(hub: FakeHub, run: Path) -> None:
    (run / "README.md").write_text("Mine.\n")
    push(run, "me/cats", private=False, message="First")
    assert hub.repositories["me/cats"].commits[-1].files["README.md"] == b"Mine.\n"


def test_a_private_repository_is_made_private(hub: FakeHub, run: Path) -> None:
    push(run, "me/cats", private=True, message="First")
    assert hub.repositories["me/cats"].private
    push(run, "me/cats", private=False, message="Second")
    assert hub.repositories["me/cats"].private


def test_a_private_model_does_not_go_to_a_public_repository(hub: FakeHub, run: Path) -> None:
    publish(hub, "me/cats")
    with pytest.raises(UserError, match=f"me/cats exists and is public; .*{hub.url}/me/cats/settings"):
        push(run, "me/cats", private=True, message="First")
    assert len(hub.repositories["me/cats"].commits) == 1


def test_nothing_is_uploaded_of_a_folder_without_a_whole_model(hub: FakeHub, run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"photos is no model folder: it has no model\.json"):
        push(tmp_path / "photos", "me/cats", private=False, message="First")
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match="does not fit"):
        push(run, "me/cats", private=False, message="First")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "does not hold the metrics of an evaluation: Expecting"),
        ("[]", "does not hold the metrics of an evaluation: it holds no JSON object"),
        (json.dumps(METRICS | {"metrics": 3}), "has no valid 'metrics'"),
        (json.dumps(METRICS | {"task": "juggling"}), "has the unknown task 'juggling'"),
    ],
)
def test_nothing_is_uploaded_with_damaged_metrics(hub: FakeHub, run: Path, content: str, message: str) -> None:
    (run.parent / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=rf"metrics\.json {message}.*; evaluate the model again, or remove the file"):
        push(run, "me/cats", private=False, message="First")
    assert hub.asked == []


def test_an_empty_message_is_refused(hub: FakeHub, run: Path) -> None:
    with pytest.raises(UserError, match="message of the commit is empty"):
        push(run, "me/cats", private=False, message=" ")
    assert hub.asked == []


def test_a_user_without_permission_is_asked_to_log_in(hub: FakeHub, run: Path) -> None:
    hub.read_only = True
    with pytest.raises(
        UserError, match=r"me/cats could not be published .*; log in with `hf auth login` or .*HF_TOKEN"
    ):
        push(run, "me/cats", private=False, message="First")


def test_a_preview_holds_the_files_to_upload_and_can_be_pushed(hub: FakeHub, run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "card"
    preview(run, "me/cats", output)
    assert hub.asked == []
    push(run, "me/cats", private=False, message="From the run")
    push(output, "me/cats", private=False, message="From the preview")
    first, second = hub.repositories["me/cats"].commits[1:]
    assert {path.name: path.read_bytes() for path in output.iterdir()} == first.files == second.files


def test_a_preview_overwrites_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for output in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(UserError, match=r"is not empty; name a new folder with dry_run=FOLDER"):
            preview(run, "me/cats", output)
    with pytest.raises(UserError, match="cannot be written"):
        preview(run, "me/cats", tmp_path / "full" / "mine.txt" / "below")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_revision_is_the_state_at_that_time(hub: FakeHub, run: Path, tmp_path: Path) -> None:
    push(run, "me/cats", private=False, message="First")
    save_model(tmp_path / "later", ("owl",))
    push(tmp_path / "later", "me/cats", private=False, message="Second")
    first = hub.repositories["me/cats"].commits[1].sha
    assert VisionModel.load(pull(f"me/cats@{first}")).class_names["classification"] == ("cat", "dog")
    for name in ("me/cats", "me/cats@main"):
        assert VisionModel.load(pull(name)).class_names["classification"] == ("owl",)


def test_only_what_belongs_to_a_model_is_fetched(hub: FakeHub) -> None:
    files = {name: name.encode() for name in ("config.json", "preprocessor_config.json", "README.md")}
    files |= dict.fromkeys(("model.safetensors", "pytorch_model.bin", "model.ckpt", "photo.jpg"), b"large")
    publish(hub, "somebody/net", **files)
    folder = pull("somebody/net")
    expected = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == hub.fetched() == expected


def test_a_pickle_is_fetched_if_there_are_no_safetensors(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "somebody/net", **{"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    folder = pull("somebody/net")
    assert (folder / "pytorch_model.bin").read_bytes() == b"pickle"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull("somebody/net") == folder


def test_cached_files_are_not_fetched_again(hub: FakeHub, run: Path) -> None:
    push(run, "me/cats", private=False, message="First")
    pull("me/cats")
    fetched = hub.fetched()
    pull("me/cats")
    assert hub.fetched() == fetched


def test_a_repository_without_weights_is_refused(hub: FakeHub) -> None:
    publish(hub, "somebody/texts", **{"notes.txt": b"hello"})
    with pytest.raises(UserError, match=r"somebody/texts .* has no weights: neither model\.safetensors nor pytorch"):
        pull("somebody/texts")


@pytest.mark.parametrize("name", ["cats", "", "me/my/cats", "me/c ats", "/cats", "me/cats@", "me/ca--ts", "-me/cats"])
def test_a_malformed_name_is_refused(hub: FakeHub, run: Path, name: str) -> None:
    message = re.escape(f"'{name}' names no repository of the Hugging Face Hub")
    with pytest.raises(UserError, match=message):
        pull(name)
    with pytest.raises(UserError, match=message):
        push(run, name, private=False, message="First")
    assert hub.asked == []


def test_publishing_to_a_revision_is_refused(hub: FakeHub, run: Path) -> None:
    with pytest.raises(UserError, match="repository=me/cats@main: publishing makes a new revision"):
        push(run, "me/cats@main", private=False, message="First")
    assert hub.asked == []


def test_a_missing_repository_is_reported(hub: FakeHub) -> None:
    with pytest.raises(
        UserError, match="has no repository me/cats that you may read; check the name or, if it is private, log in with"
    ):
        pull("me/cats")


def test_a_missing_revision_is_reported(hub: FakeHub, run: Path) -> None:
    push(run, "me/cats", private=False, message="First")
    with pytest.raises(UserError, match="has no revision me/cats@v2; name an existing branch, tag or commit"):
        pull("me/cats@v2")


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            (401, "RepoNotFound"),
            "has no repository me/cats that you may read; check .* if it is private, log in with `hf auth login`",
        ),
        ((403, "GatedRepo"), "me/cats .* is gated: ask its owner for access on its page, then log in with `hf auth"),
        ((401, ""), "me/cats could not be fetched .* because you have no permission; log in with `hf auth login`"),
        ((403, ""), "me/cats could not be fetched .* because you have no permission; log in with `hf auth login`"),
        ((500, ""), r"me/cats could not be fetched .*500 .*; try again with a network, or fetch the folder elsewhere"),
    ],
)
def test_a_closed_repository_is_reported(hub: FakeHub, refused: tuple[int, str], message: str) -> None:
    hub.repositories["me/cats"] = Repository(refused=refused)
    with pytest.raises(UserError, match=message) as caught:
        pull("me/cats")
    assert "\n" not in str(caught.value)


def test_without_a_network_the_cached_copy_is_used(
    hub: FakeHub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, "me/cats", private=False, message="First")
    folder = pull("me/cats")
    hub.shutdown()
    hub.server_close()
    assert pull("me/cats") == folder
    other_cache(monkeypatch, tmp_path / "elsewhere")
    gone = "could not be {} the Hugging Face Hub .*[Rr]efused.*; {}"
    with pytest.raises(UserError, match=gone.format("fetched from", "try again with a network, or fetch the folder")):
        pull("me/cats")
    with pytest.raises(UserError, match=gone.format("published on", "solve that and try again")):
        push(run, "me/cats", private=False, message="Second")


def test_offline_the_cached_copy_is_used(
    hub: FakeHub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, "me/cats", private=False, message="First")
    folder = pull("me/cats")
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull("me/cats") == folder
    other_cache(monkeypatch, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"could not be fetched .*HF_HUB_OFFLINE.* give its path"):
        pull("me/cats")
    assert len(hub.asked) == asked


def test_an_incomplete_copy_in_the_cache_is_not_used(hub: FakeHub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(run, "me/cats", private=False, message="First")
    (pull("me/cats") / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    # Clients before 2.0 return the incomplete folder.
    with pytest.raises(UserError, match=r"me/cats (could not be fetched from|on) the Hugging Face Hub"):
        pull("me/cats")


def test_a_broken_connection_is_reported_in_one_sentence(
    hub: FakeHub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        try:
            raise ConnectionResetError("peer is gone")
        except ConnectionResetError as error:
            raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.") from error

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", broken)
    with pytest.raises(
        UserError, match=r"me/cats could not be published on the Hugging Face Hub \(peer is gone\); solve"
    ):
        push(run, "me/cats", private=False, message="First")


def test_objections_of_the_hub_to_a_card_are_reported(hub: FakeHub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError('Invalid metadata in README.md.\n- "license" must be one of [apache-2.0, mit]')

    monkeypatch.setattr(huggingface_hub.HfApi, "_validate_yaml", refuse)
    with pytest.raises(
        UserError, match=r'\(Invalid metadata in README\.md\. - "license" must be one of .*\); solve that'
    ):
        push(run, "me/cats", private=False, message="First")
    assert len(hub.repositories["me/cats"].commits) == 1


def test_a_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"install it with pip install 'mbv2kit\[weights\]'"):
        pull("me/cats")
