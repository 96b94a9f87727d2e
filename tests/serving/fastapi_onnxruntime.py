"""The server that one writes in an afternoon: FastAPI, Pillow and ONNX Runtime; a baseline for tests/serving/load.py.

MODEL=model.onnx python -m uvicorn --app-dir tests/serving fastapi_onnxruntime:app --port 8001

MODEL is a classifier of 224 x 224 uint8 RGB.
"""

import io
import os
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, UploadFile
from PIL import Image, UnidentifiedImageError

session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
app = FastAPI()


# Without async, FastAPI runs it in its pool of threads.
@app.post("/predict")  # type: ignore[untyped-decorator]
def predict(file: UploadFile) -> dict[str, Any]:
    """Returns the five best classes of an image."""
    try:
        image = Image.open(io.BytesIO(file.file.read())).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError) as error:
        raise HTTPException(400, str(error)) from None
    (probabilities,) = session.run(None, {"images": np.asarray(image)[None]})
    best = np.argsort(-probabilities[0])[:5]
    return {"classes": [{"class_id": int(k), "score": round(float(probabilities[0, k]), 6)} for k in best]}
