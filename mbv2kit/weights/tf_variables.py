"""Writes the variables of a TensorFlow checkpoint into an .npz file, as a process of its own.

python -m mbv2kit.weights.tf_variables PREFIX FILE

TensorFlow and torch may crash each other within one process.
"""

import sys
from typing import Any

import numpy as np


def main(prefix: str, file: str) -> None:
    """Reads all variables of floats.

    Args:
        prefix: What the files of the checkpoint begin with.
        file: The file to write.
    """
    from tensorflow import train

    reader = train.load_checkpoint(prefix)
    names = [name for name, kind in reader.get_variable_to_dtype_map().items() if kind.is_floating]
    values: Any = {name: np.asarray(reader.get_tensor(name), dtype=np.float32) for name in names}
    np.savez(file, **values)


if __name__ == "__main__":
    main(*sys.argv[1:])
