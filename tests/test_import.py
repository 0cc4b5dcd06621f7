"""`import one_peace` and the command line start fast and load nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch", "numpy", "scipy", "PIL", "tokenizers", "safetensors", "soundfile", "soxr", "yaml",
    "lancedb", "pyarrow", "av", "resvg_py", "transformers", "huggingface_hub", "tensorboard",
    "torchvision", "torchaudio",
)  # fmt: skip
OPTIONAL = ("lancedb", "pyarrow", "av", "resvg_py", "transformers", "huggingface_hub", "tensorboard")
NEVER = ("torchvision", "torchaudio", "timm", "open_clip")


def loaded_by(statement: str) -> tuple[float, list[str]]:
    """CPU seconds that a statement takes in a fresh interpreter, and the top-level modules loaded after it."""
    program = (
        "import json, sys, time; start = time.process_time()\n"
        f"{statement}\n"
        "took = time.process_time() - start\n"
        "print(json.dumps([took, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    took, modules = json.loads(done.stdout.splitlines()[-1])
    return took, modules


@pytest.mark.parametrize("statement", ["import one_peace", "import one_peace.cli.main"])
def test_starts_fast_and_loads_nothing_heavy(statement: str) -> None:
    # CPU time, and the best of three: other processes on the machine must not fail the test.
    runs = [loaded_by(statement) for _ in range(3)]
    assert min(took for took, _ in runs) < 1.0
    assert set(runs[0][1]).isdisjoint(HEAVY)


def test_models_need_no_optional_package() -> None:
    _, modules = loaded_by("import one_peace; one_peace.from_pretrained; one_peace.list_models()")
    assert set(modules).isdisjoint(OPTIONAL + NEVER)
