"""The simplest FastAPI handler of the same model: what one writes in five minutes. `python -m serving.simple PORT`."""

from __future__ import annotations

import sys
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI

import one_peace

app = FastAPI()
model = one_peace.from_pretrained("one-peace-nano")


@app.post("/text")
def text(words: Annotated[str, Body(embed=True)]) -> list[float]:
    """Embeds a text."""
    return model.encode_text(words)[0].tolist()


@app.post("/image")
def image(data: Annotated[bytes, Body(media_type="application/octet-stream")]) -> list[float]:
    """Embeds a picture."""
    return model.encode_image(data)[0].tolist()


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
