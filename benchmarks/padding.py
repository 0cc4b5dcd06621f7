"""How much of the batches is padding, of pictures with captions and of sounds with captions, grouped by length or not.

    python benchmarks/padding.py LIBRARY/library/stamps/manifest.jsonl [--batch 64] [--steps 16]

Real pairs go through the loader of `one-peace pretrain` with `files` and texts of up to 20 tokens, the default. The
tokens are those of one-peace-nano, whose pictures have only 16: the published 256 leave a tenth of the share.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from one_peace.data.decoding import PairDecoder
from one_peace.data.opening import SourceRecipe, open_pairs
from one_peace.data.prefetch import PrefetchedPairs
from one_peace.data.shard_cache import ShardCache
from one_peace.modalities.text import TextProcessor
from one_peace.models.one_peace.loading import from_pretrained

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "manifest", type=Path, help="manifest of a sample library, or anything else that a recipe reads"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    chosen = parser.parse_args()
    processors = from_pretrained("one-peace-nano").processors
    text = processors["text"]
    assert isinstance(text, TextProcessor)
    print(f"{'pairs':12} {'batches':10} {'text':>8} {'partner':>8} {'joint':>8}")
    for partner in ("image", "audio"):
        decoder = PairDecoder(text, partner, processors[partner], augmentation=0.0, caption_tokens=20)
        with tempfile.TemporaryDirectory() as cache:
            grouped = open_pairs({"pairs": SourceRecipe(str(chosen.manifest))}, decoder, SEED, ShardCache(Path(cache)))
            mixed = PrefetchedPairs(type(grouped.loader)(grouped.loader.mixture, decoder), 0)
            for name, pairs in (("grouped", grouped), ("as drawn", mixed)):
                for step in range(chosen.steps):
                    pairs.batch(chosen.batch, SEED, step)
                share = pairs.report.padding
                print(f"{partner + '-text':12} {name:10} {share.text:8.1%} {share.partner:8.1%} {share.total:8.1%}")


if __name__ == "__main__":
    main()
