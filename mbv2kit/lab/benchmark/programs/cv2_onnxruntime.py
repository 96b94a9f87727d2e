"""OpenCV decodes and resizes, ONNX Runtime runs an exported file, one image at a time."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

folder, output, network = sys.argv[1:]
mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)
std = np.array([0.229, 0.224, 0.225], dtype=np.float32)
session = ort.InferenceSession(network, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
with open(f"{output}/predictions.jsonl", "w") as lines:
    for path in sorted(Path(folder).iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        scale = 256 / min(image.shape[:2])
        image = cv2.resize(
            image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        image = (image[top : top + 224, left : left + 224] / np.float32(255) - mean) / std
        logits = session.run(None, {name: image.transpose(2, 0, 1)[None]})[0][0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = [{"class_id": int(i), "score": float(scores[i])} for i in np.argsort(-scores)[:5]]
        lines.write(json.dumps({"image": str(path), "classes": best}) + "\n")
