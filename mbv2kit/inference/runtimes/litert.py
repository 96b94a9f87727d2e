"""LiteRT, formerly TensorFlow Lite, with XNNPACK on the CPU."""

from pathlib import Path

from ai_edge_litert.interpreter import Interpreter

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.inference.runtimes.straight import check_straight
from mbv2kit.models.exports import Export
from mbv2kit.process import silence_stderr
from mbv2kit.structures import Input

SIGNATURE = "serving_default"


class _LiteRTSession:
    def __init__(self, interpreter: Interpreter, export: Export) -> None:
        self._interpreter = interpreter
        self._input = interpreter.get_input_details()[0]["index"]
        # The converter decides the order of the outputs, so they are identified by their names in the signature.
        details = interpreter.get_signature_runner(SIGNATURE).get_output_details()
        self._outputs = {name: details[name]["index"] for name in export.outputs}

    def __call__(self, images: Input) -> Outputs:
        self._interpreter.set_tensor(self._input, images)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}


def open_session(path: Path, export: Export, threads: int) -> _LiteRTSession:
    """Opens a .tflite file, which has a fixed batch size.

    See :func:`mbv2kit.inference.runtimes.open_session`.
    """
    try:
        with silence_stderr():
            interpreter = Interpreter(model_path=path, num_threads=threads)
            check_straight(path, (operation["op_name"] for operation in interpreter._get_ops_details()))
            interpreter.allocate_tensors()
        return _LiteRTSession(interpreter, export)
    except UserError:
        raise
    except Exception as error:  # a damaged file may make the binding raise anything
        reason = one_line(error)
        raise UserError(f"{path} is not a network that LiteRT can read ({reason}); export the model again.") from None
