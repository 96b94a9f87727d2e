"""Models on the Hugging Face Hub: fetched into the cache of its own library, and published there."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError, one_line
from mbv2kit.models.folder import DESCRIPTION_FILE, WEIGHTS_FILE
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS
from mbv2kit.weights.card import model_card

CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"
_PICKLE = "pytorch_model.bin"
# The card is where the license of weights stands that others published.
_WANTED = (DESCRIPTION_FILE, METRICS_FILE, "config.json", "preprocessor_config.json", CARD_FILE, WEIGHTS_FILE)

_EVALUATE = "evaluate the model again, or take the file away"
_LOG_IN = "log in with `hf auth login` or the environment variable HF_TOKEN"


def pull(repository: str) -> Path:
    """Fetches a model's files into the Hub's cache, where what has not changed is not fetched again.

    Args:
        repository: ``OWNER/NAME``, or ``OWNER/NAME@REVISION`` with a branch, a tag or a commit.

    Returns:
        The folder of that revision in the cache; without a network the copy that is there.

    Raises:
        UserError: There is no such repository or revision, it is closed to the user or holds no weights, or the Hub
            cannot be reached.
    """
    name, revision = _parse(repository)
    with _told_in_one_sentence(
        repository, "fetched from", "try again with a network, or fetch the folder elsewhere and give its path"
    ):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
        if not (folder / WEIGHTS_FILE).is_file():
            # The folder is called after its commit: a branch may have moved on since.
            snapshot_download(name, revision=folder.name, allow_patterns=[_PICKLE])
    if not any((folder / file).is_file() for file in (WEIGHTS_FILE, _PICKLE)):
        raise UserError(f"{repository} on the Hugging Face Hub has no weights: neither {WEIGHTS_FILE} nor {_PICKLE}.")
    return folder


def contents(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """Gathers what the Hub gets of a model.

    Args:
        folder: A model folder; the ``metrics.json`` in it, or of the run that it belongs to, goes along. So does a
            ``README.md`` in it; without one the model card is written.
        repository: ``OWNER/NAME``, for the model card.

    Returns:
        For each name of a file the file, or its content.

    Raises:
        UserError: The folder holds no model, or a file in it is damaged.
    """
    _parse_to_publish(repository)
    model = VisionModel.load(folder)
    metrics, card = _metrics_of(folder), folder / CARD_FILE
    files: dict[str, Path | bytes] = {name: folder / name for name in (DESCRIPTION_FILE, WEIGHTS_FILE)}
    if metrics is not None:
        files[METRICS_FILE] = metrics
    if card.is_file():
        files[CARD_FILE] = card
    else:
        figures = None if metrics is None else _read_metrics(metrics)
        files[CARD_FILE] = model_card(model.spec.to_dict(), figures, repository).encode()
    return files


def preview(folder: Path, repository: str, output: Path) -> None:
    """Writes what :func:`push` would upload into a folder, to be looked at or changed, and published from there.

    Args:
        folder: A model folder.
        repository: ``OWNER/NAME``, for the model card.
        output: The folder to make.

    Raises:
        UserError: The folder holds no model, or ``output`` holds something already or cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty; name a new folder with dry_run=FOLDER.")
    files = contents(folder, repository)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (output / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror or error}); name another folder.") from None


def push(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Publishes a model in one commit; the repository is made where there is none.

    Args:
        folder: A model folder; see :func:`contents` for what is uploaded.
        repository: ``OWNER/NAME``.
        private: Whether only those may see it whom its owner lets; a repository that is public already is refused.
        message: Of the commit.

    Returns:
        The address of the repository.

    Raises:
        UserError: The folder holds no model, the message is empty, or the Hub cannot be reached or refuses the upload.
    """
    if not message.strip():
        raise UserError("The message of the commit is empty; give one with message='...'.")
    files = contents(folder, repository)
    with _told_in_one_sentence(repository, "published on", "see to that and try again"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        # None leaves it to the owner's settings, by which new repositories may be private.
        address = str(api.create_repo(repository, private=private or None, exist_ok=True))
        there = api.model_info(repository)
        if private and not there.private:
            raise UserError(f"{repository} is there already and public; make it private first: {address}/settings.")
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()
        ]
        # They would be taken for the figures of the new weights.
        if METRICS_FILE not in files and any(file.rfilename == METRICS_FILE for file in there.siblings or ()):
            operations.append(CommitOperationDelete(path_in_repo=METRICS_FILE))
        api.create_commit(repository, operations, commit_message=message)
    return address


def _parse(repository: str) -> tuple[str, str | None]:
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(\S+))?", repository)
    if found is None:
        raise UserError(f"'{repository}' names no repository of the Hugging Face Hub; write OWNER/NAME[@REVISION].")
    return found[1], found[2]


def _parse_to_publish(repository: str) -> None:
    _, revision = _parse(repository)
    if revision is not None:
        raise UserError(f"repository={repository}: what is published is a new revision; write OWNER/NAME alone.")


def _metrics_of(folder: Path) -> Path | None:
    whole = folder.resolve()
    run = RunFolder(whole.parent)
    candidates = [whole / METRICS_FILE, *([run.metrics] if run.model == whole else [])]
    return next((path for path in candidates if path.is_file()), None)


def _read_metrics(path: Path) -> Mapping[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {_EVALUATE}.") from None
    kinds = {"task": str, "dataset": str, "split": str, "images": int, "metrics": dict, "per_class": dict}
    for key, kind in kinds.items():
        if not isinstance(values, dict) or not isinstance(values.get(key), kind):
            raise UserError(f"{path} does not say '{key}' as the figures of an evaluation do; {_EVALUATE}.")
    if values["task"] not in TASKS:
        raise UserError(f"{path} is of a task '{values['task']}' that is not known; {_EVALUATE}.")
    return values


@contextmanager
def _told_in_one_sentence(repository: str, deed: str, advice: str) -> Iterator[None]:
    """Turns whatever the Hub's library raises into a :class:`UserError`."""
    try:
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            "The Hugging Face Hub needs the package huggingface_hub; install it with pip install 'mbv2kit[weights]'."
        ) from None
    # A line for each request, which the tools would show.
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    try:
        yield
    except UserError:
        raise
    except errors.HFValidationError as error:
        raise UserError(
            f"'{repository}' names no repository of the Hugging Face Hub ({one_line(error)}); write OWNER/NAME."
        ) from None
    except errors.GatedRepoError:
        raise UserError(
            f"{repository} on the Hugging Face Hub is gated: ask its owner for access on its page, then {_LOG_IN}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"The Hugging Face Hub has no repository {repository} that is open to you; check the name, or {_LOG_IN} "
            "where it is private."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"The Hugging Face Hub has no revision {repository}; name a branch, a tag or a commit that is there."
        ) from None
    # What a broken connection makes the library raise cannot be foreseen: errors of its HTTP client, OSError,
    # ValueError, RuntimeError, ...
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, errors.LocalEntryNotFoundError | RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code in (401, 403):
            raise UserError(
                f"{repository} could not be {deed} the Hugging Face Hub, which does not let you; {_LOG_IN} as somebody "
                "whom it does."
            ) from None
        raise UserError(
            f"{repository} could not be {deed} the Hugging Face Hub ({one_line(cause)}); {advice}."
        ) from None
