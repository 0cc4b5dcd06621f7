"""The same model behind LitServe, with its own batching of requests: `python -m serving.peer PORT`."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import torch

import one_peace

BATCH, WAIT = 64, 0.01  # requests, seconds


class Text(litserve.LitAPI):
    """POST /text {"words": ...}"""

    def setup(self, device: str) -> None:
        self.model = one_peace.from_pretrained("one-peace-nano", device=device)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads the annotation itself
        return request["words"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> torch.Tensor:
        return self.model.encode_text(inputs)

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        return list(output)

    def encode_response(self, output: torch.Tensor) -> list[float]:
        return output.tolist()


class Image(Text):
    """POST /image {"data": base64}: LitServe takes no bare bytes."""

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return base64.b64decode(request["data"])

    def predict(self, inputs: list[Any]) -> torch.Tensor:
        return self.model.encode_image(inputs)


if __name__ == "__main__":
    routes = [
        Text(max_batch_size=BATCH, batch_timeout=WAIT, api_path="/text"),
        Image(max_batch_size=BATCH, batch_timeout=WAIT, api_path="/image"),
    ]
    litserve.LitServer(routes, accelerator="cpu").run(port=int(sys.argv[1]), log_level="warning")
