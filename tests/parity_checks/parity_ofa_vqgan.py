"""The VQGAN check of `parity.py`: names, codes, pictures."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file

import golden_ofa
from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.vqgan_names import NAMES, infer_config, native_tensors
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.model import Vqgan, picture_of
from parity import Check, Comparison
from parity_files import Fixture
from parity_ofa import close


@torch.no_grad()
def check_vqgan(fixture: Fixture, compare: Comparison) -> None:
    """Scores of codes, codes and decoded pictures by the weights beside the fixture."""
    facts = golden_ofa.manifest(fixture.path.parent)["files"]["vqgan_weights.safetensors"]
    state = {
        name: tensor.float() * facts["scales"][name] if tensor.dtype == torch.int8 else tensor
        for name, tensor in load_file(fixture.path.with_name("vqgan_weights.safetensors")).items()
    }
    tensors = native_tensors(state)
    compare.exact("names and back", [NAMES.to_official(name) for name in tensors], [[name] for name in state])
    config = VqganConfig.from_dict(infer_config(tensors))
    published = facts["ddconfig"]
    sizes = [published["resolution"] // 2**level for level in range(len(published["ch_mult"]))]
    compare.exact("multipliers", list(config.multipliers), published["ch_mult"])
    compare.exact("blocks", config.blocks, published["num_res_blocks"])
    wanted = [level for level, size in enumerate(sizes) if size in published["attn_resolutions"]]
    compare.exact("attention", list(config.attention), wanted)
    compare.exact("codes", [config.codes, config.code_width], [facts["n_embed"], facts["embed_dim"]])
    with torch.device("meta"):
        model = Vqgan(config)
    assign_tensors(model, tensors)
    model.eval()
    image = fixture["image"]
    close(compare, "before codes", model.before_codes(model.encoder(image)), fixture["prequant"])
    close(compare, "scores", model.code_scores(image), fixture["code_logits"])
    compare.exact("codes of the picture", model.encode(image), fixture["code_argmax"])
    decoded = model.decode(fixture["code"])
    close(compare, "decoded", decoded, fixture["decoded"])
    pictures = np.stack([np.asarray(picture_of(one)) for one in decoded]).astype(int)
    theirs = fixture["decoded_uint8_hwc"].numpy().astype(int)
    compare.exact("pictures, up to a level where float32 rounds", bool(np.abs(pictures - theirs).max() <= 1), True)
    compare.exact("nearly all pixels", bool((pictures == theirs).mean() > 0.999), True)


CHECKS: dict[str, Check] = {"vqgan_io": check_vqgan}
