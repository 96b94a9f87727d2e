"""Exports a trained model to files that run without torch: ONNX, OpenVINO, LiteRT, ExecuTorch."""
