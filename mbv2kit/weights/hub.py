"""Fetches models from the Hugging Face Hub into the cache of its library, and publishes models there."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError, one_line
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.models.folder import DESCRIPTION_FILE, WEIGHTS_FILE
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.schema.documents import read_json
from mbv2kit.structures import MULTITASK, TASKS
from mbv2kit.weights.card import model_card

CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"
_PICKLE = "pytorch_model.bin"
# The card of published weights states their license.
_WANTED = (DESCRIPTION_FILE, METRICS_FILE, "config.json", "preprocessor_config.json", CARD_FILE, WEIGHTS_FILE)

_EVALUATE = "evaluate the model again, or remove the file"
_LOG_IN = "log in with `hf auth login` or the environment variable HF_TOKEN"


def pull(repository: str) -> Path:
    """Fetches a model's files into the Hub's cache; unchanged files are not fetched again.

    Args:
        repository: ``OWNER/NAME``, or ``OWNER/NAME@REVISION`` with a branch, a tag or a commit.

    Returns:
        The folder of that revision in the cache; without a network, the copy that is already there.

    Raises:
        UserError: The repository or revision does not exist, is closed to the user or holds no weights, or the Hub
            cannot be reached.
    """
    name, revision = _parse(repository)
    with _errors_of_the_hub(
        repository, "fetched from", "try again with a network, or fetch the folder elsewhere and give its path"
    ):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
        if not (folder / WEIGHTS_FILE).is_file():
            # The folder has the name of its commit; a branch may have moved on in the meantime.
            snapshot_download(name, revision=folder.name, allow_patterns=[_PICKLE])
    if not any((folder / file).is_file() for file in (WEIGHTS_FILE, _PICKLE)):
        raise UserError(f"{repository} on the Hugging Face Hub has no weights: neither {WEIGHTS_FILE} nor {_PICKLE}.")
    return folder


def contents(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """Collects the files of a model that are published.

    Args:
        folder: A model folder. The ``metrics.json`` in it, or else in its run, is published too. So is a ``README.md``
            in it; without one, the model card is written.
        repository: ``OWNER/NAME``, for the model card.

    Returns:
        The path or the content of each file, by its name.

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
        values = None if metrics is None else _read_metrics(metrics)
        files[CARD_FILE] = model_card(model.spec.to_dict(), values, repository).encode()
    return files


def preview(folder: Path, repository: str, output: Path) -> None:
    """Writes the files that :func:`push` would upload to a folder, from which they can be published after changes.

    Args:
        folder: A model folder.
        repository: ``OWNER/NAME``, for the model card.
        output: The folder to create.

    Raises:
        UserError: The folder holds no model, or ``output`` is not empty or cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is not empty; name a new folder with dry_run=FOLDER.")
    files = contents(folder, repository)
    with disk_errors_told(output):
        output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (output / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def push(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Publishes a model in one commit; a missing repository is created.

    Args:
        folder: A model folder; see :func:`contents` for what is uploaded.
        repository: ``OWNER/NAME``.
        private: Whether the repository must be private; one that is already public is refused.
        message: Message of the commit.

    Returns:
        The URL of the repository.

    Raises:
        UserError: The folder holds no model, the message is empty, or the Hub cannot be reached or refuses the upload.
    """
    if not message.strip():
        raise UserError("The message of the commit is empty; give one with message='...'.")
    files = contents(folder, repository)
    with _errors_of_the_hub(repository, "published on", "solve that and try again"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        # None follows the owner's settings, by which new repositories may be private.
        address = str(api.create_repo(repository, private=private or None, exist_ok=True))
        there = api.model_info(repository)
        if private and not there.private:
            raise UserError(f"{repository} exists and is public; make it private first: {address}/settings.")
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()
        ]
        # Old metrics would be taken for those of the new weights.
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
        raise UserError(f"repository={repository}: publishing makes a new revision; write OWNER/NAME without one.")


def _metrics_of(folder: Path) -> Path | None:
    whole = folder.resolve()
    run = RunFolder(whole.parent)
    candidates = [whole / METRICS_FILE, *([run.metrics] if run.model == whole else [])]
    return next((path for path in candidates if path.is_file()), None)


def _read_metrics(path: Path) -> Mapping[str, Any]:
    try:
        values = read_json(path, "hold the metrics of an evaluation")
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')}; {_EVALUATE}.") from None
    kinds = {"task": str, "dataset": str, "split": str, "images": int, "metrics": dict, "per_class": dict}
    for key, kind in kinds.items():
        if not isinstance(values.get(key), kind):
            raise UserError(f"{path} has no valid '{key}', which an evaluation writes; {_EVALUATE}.")
    if values["task"] not in (*TASKS, MULTITASK):
        raise UserError(f"{path} has the unknown task '{values['task']}'; {_EVALUATE}.")
    return values


@contextmanager
def _errors_of_the_hub(repository: str, action: str, advice: str) -> Iterator[None]:
    """Turns any error of the Hub's library into a :class:`UserError`."""
    try:
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            "The Hugging Face Hub needs the package huggingface_hub; install it with pip install 'mbv2kit[weights]'."
        ) from None
    # These clients log a line for each request, which the tools would print.
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
            f"The Hugging Face Hub has no repository {repository} that you may read; check the name or, if it "
            f"is private, {_LOG_IN}."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"The Hugging Face Hub has no revision {repository}; name an existing branch, tag or commit."
        ) from None
    # A broken connection may make the library raise anything: errors of its HTTP client, OSError, ValueError,
    # RuntimeError, ...
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, errors.LocalEntryNotFoundError | RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code in (401, 403):
            raise UserError(
                f"{repository} could not be {action} the Hugging Face Hub, because you have no permission; "
                f"{_LOG_IN}, using an account that has it."
            ) from None
        raise UserError(
            f"{repository} could not be {action} the Hugging Face Hub ({one_line(cause)}); {advice}."
        ) from None
