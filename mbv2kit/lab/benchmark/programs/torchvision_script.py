"""The script of most tutorials: Pillow, torchvision's transforms and network, one image at a time."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

folder, output = sys.argv[1:]
weights = MobileNet_V2_Weights.IMAGENET1K_V2
transform = weights.transforms()
names = weights.meta["categories"]
model = mobilenet_v2().eval()
with open(f"{output}/predictions.jsonl", "w") as lines, torch.inference_mode():
    for path in sorted(Path(folder).iterdir()):
        image = transform(Image.open(path).convert("RGB")).unsqueeze(0)
        scores, classes = model(image)[0].softmax(0).topk(5)
        best = [{"label": names[i], "score": score} for i, score in zip(classes.tolist(), scores.tolist(), strict=True)]
        lines.write(json.dumps({"image": str(path), "classes": best}) + "\n")
