"""The predict method of ultralytics, with its classifier YOLO11n-cls."""

import json
import sys
from pathlib import Path

from ultralytics import YOLO

folder, output = sys.argv[1:]
model = YOLO("yolo11n-cls.yaml")
paths = sorted(map(str, Path(folder).iterdir()))
with open(f"{output}/predictions.jsonl", "w") as lines:
    for result in model.predict(paths, imgsz=224, device="cpu", stream=True, verbose=False):
        probs = result.probs
        best = [
            {"label": result.names[i], "score": score}
            for i, score in zip(probs.top5, probs.top5conf.tolist(), strict=True)
        ]
        lines.write(json.dumps({"image": result.path, "classes": best}) + "\n")
