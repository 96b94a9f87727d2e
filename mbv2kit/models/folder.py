"""The model folder, which training and conversion write and export extends; it is all that inference needs."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError, one_line
from mbv2kit.files.writing import write_atomically
from mbv2kit.models.exports import Export, files_of, hash_of
from mbv2kit.models.spec import SCHEMA_VERSION, ModelSpec
from mbv2kit.schema import shown
from mbv2kit.schema.documents import read_json

DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with ``model.json`` and the files that it describes; nothing else reads or writes that file.

    Every file is replaced in one step, so that an existing model stays whole if writing fails.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def description(self) -> Path:
        """``model.json``: the spec, and the exported files."""
        return self.path / DESCRIPTION_FILE

    @property
    def weights(self) -> Path:
        """The weights, by the names of the model's ``state_dict``; a folder of exported files may lack them."""
        return self.path / WEIGHTS_FILE

    @property
    def exists(self) -> bool:
        """Whether the folder describes a model."""
        return self.description.is_file()

    def read_spec(self) -> ModelSpec:
        """Reads the spec of the model.

        Raises:
            UserError: There is no ``model.json``, or it does not describe a model; the message names the file.
        """
        values = self._read()
        try:
            version = values["schema_version"]
            if version == SCHEMA_VERSION:
                return ModelSpec.from_dict(values)
        except UserError as error:
            raise UserError(f"{self.description} does not describe a model: {error}") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{self.description} does not describe a model: {error!r}.") from None
        raise UserError(f"{self.description} has schema version {shown(version)}; this mbv2kit reads {SCHEMA_VERSION}.")

    def read_exports(self) -> tuple[Export, ...]:
        """Lists the exported files that exist, in the order in which they were added.

        Raises:
            UserError: ``model.json`` or its list of exports cannot be read.
        """
        listed = self._read().get("exports", [])
        try:
            exports = tuple(Export.from_dict(each) for each in listed)
        except (LookupError, TypeError, ValueError, AttributeError, UserError) as error:
            reason = str(error).removesuffix(".") if isinstance(error, UserError) else repr(error)
            raise UserError(
                f"{self.description} has an invalid list of exports: {reason}; export the model again."
            ) from None
        there = tuple(export for export in exports if (self.path / export.file).is_file())
        for file in (file for export in there for file in files_of(self.path / export.file)):
            if not self._owns(file):
                raise UserError(f"{file} is a link that leads out of its model folder; copy the file itself there.")
        return there

    def check_export(self, export: Export) -> None:
        """Compares an exported file with the hash that ``model.json`` lists for it.

        Raises:
            UserError: It is another file, or it was cut short.
        """
        file = self.path / export.file
        try:
            same = hash_of(file) == export.sha256
        except OSError as error:
            raise UserError(f"{file} cannot be read: {one_line(error)}.") from None
        if not same:
            raise UserError(
                f"{files_of(file)[-1]} is not the file that {self.description.name} lists: its SHA-256 differs; export "
                "the model again."
            )

    def save(self, spec: ModelSpec, weights: bytes) -> None:
        """Writes a model into the folder, which is created if it is missing.

        Exported files stay listed if the weights are the same, byte for byte; otherwise they are removed from the list.

        Args:
            spec: Spec of the model.
            weights: Content of the ``safetensors`` file.
        """
        exports: tuple[Export, ...] = ()
        if self.exists and self._holds(weights):
            exports = self.read_exports()
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.weights, weights)
        self._write(spec.to_dict(), exports)

    def describe(self, spec: ModelSpec) -> None:
        """Writes only ``model.json``, for a folder of exported files; an existing one is kept."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.exists:
            self._write(spec.to_dict(), ())

    def add_export(self, export: Export, source: Path) -> None:
        """Copies an exported file into the folder and lists it; it replaces a file of the same name.

        Args:
            export: Description of the file.
            source: Folder of the file, which may be on another file system.
        """
        others = [each for each in self.read_exports() if each.file != export.file]
        for path in files_of(source / export.file):
            write_atomically(self.path / path.name, path.read_bytes())
        self._write(self._read(), [*others, export])

    def _holds(self, weights: bytes) -> bool:
        if not self.weights.is_file():
            return False
        with self.weights.open("rb") as file:
            return file_digest(file, "sha256").digest() == sha256(weights).digest()

    def _owns(self, file: Path) -> bool:
        """Whether a file lies in the folder, all links followed; the cache of the Hub keeps files in a third folder."""
        folder, real = self.path.resolve(), file.resolve()
        blobs = folder.parent.parent / "blobs"
        return real.parent == folder or (folder.parent.name == "snapshots" and real.parent == blobs)

    def _read(self) -> dict[str, Any]:
        if not self.exists:
            raise UserError(f"{self.path} is no model folder: it has no {DESCRIPTION_FILE}.")
        return read_json(self.description, "describe a model")

    def _write(self, values: dict[str, Any], exports: Iterable[Export]) -> None:
        listed = [export.to_dict() for export in exports]
        content = {key: value for key, value in values.items() if key != "exports"} | (
            {"exports": listed} if listed else {}
        )
        write_atomically(self.description, json.dumps(content, indent=2) + "\n")
