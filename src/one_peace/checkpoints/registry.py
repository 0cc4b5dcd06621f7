"""From the name of a model to a file or folder on this machine, fetched first where need be."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote
from urllib.request import url2pathname

from one_peace.cache import cache_folder
from one_peace.checkpoints.download import download
from one_peace.errors import DownloadError, MissingExtraError

URL_VARIABLE = "ONE_PEACE_WEIGHTS_URL"
HUB_FILES = ["*.json", "*.safetensors", "*.pt", "*.bin", "*.txt", "*.md"]  # .bin and .txt: transformers-style models

OFFICIAL: dict[str, str] = {
    "ONE-PEACE": "one-peace.pt",
    "ONE-PEACE_Vision": "one_peace_checkpoints/one-peace-vision.pkl",
    "ONE-PEACE_Grounding": "one_peace_checkpoints/finetune_refcocog.pt",
    "ONE-PEACE_RefCOCO": "one_peace_checkpoints/finetune_refcoco.pt",
    "ONE-PEACE_RefCOCO+": "one_peace_checkpoints/finetune_refcoco%2B.pt",
    "ONE-PEACE_VGGSound": "one_peace_checkpoints/finetune_vggsound.pt",
    "ONE-PEACE_FSD50K": "one_peace_checkpoints/finetune_fsd50k.pt",
    "ONE-PEACE_AudioRetrieval": "one_peace_checkpoints/finetune_al_retrieval.pt",
    "ONE-PEACE_AQA": "one_peace_checkpoints/finetune_aqa.pt",
    "ONE-PEACE_COCO": "one_peace_checkpoints/finetune_coco.pt",
    "ONE-PEACE_Flickr30k": "one_peace_checkpoints/finetune_flickr.pt",
    "ONE-PEACE_NLVR2": "one_peace_checkpoints/finetune_nlvr2.pt",
    "ONE-PEACE_VQA": "one_peace_checkpoints/finetune_vqa.pt",
    "OFA-tiny": "checkpoints/ofa_tiny.pt",
    "OFA-medium": "checkpoints/ofa_medium.pt",
    "OFA-base": "checkpoints/ofa_base.pt",
    "OFA-large": "checkpoints/ofa_large.pt",
    "OFA-huge": "checkpoints/ofa_huge.pt",
    "OFA-large_Captions": "checkpoints/caption_large_best_clean.pt",
    "OFA-large_Captions-Stage1": "checkpoints/caption_stage1_best.pt",
    "OFA-large_RefCOCO": "checkpoints/refcoco_large_best.pt",
    "OFA-large_RefCOCO+": "checkpoints/refcocoplus_large_best.pt",
    "OFA-large_RefCOCOg": "checkpoints/refcocog_large_best.pt",
    "OFA-large_VQA": "checkpoints/vqa_large_best.pt",
    "OFA-large_SNLI-VE": "checkpoints/snli_ve_large_best.pt",
    "OFA-large_ImageNet": "checkpoints/imagenet_1k_large_best.pt",
}
"""Published checkpoints: name -> where the file lies below the address of its host (each family has its own)."""


def built_in_models() -> dict[str, Path]:
    """Names and folders of the weights inside the package."""
    root = Path(str(files("one_peace"))) / "weights"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def list_models() -> list[str]:
    """Every name that `from_pretrained` knows besides paths and hub ids: built-in weights, then published ones."""
    return [*built_in_models(), *OFFICIAL]


def resolve(name_or_path: str | os.PathLike[str], *, download_root: Path | None = None) -> Path:
    """The file or folder for a path, a file:// address, a built-in name, an official name or a hub id `owner/name`.

    What lies on this machine under that path goes first. Official files are downloaded once, to `download_root`
    (default: `cache_folder()`), from the host in $ONE_PEACE_WEIGHTS_URL.

    Raises:
        ValueError: no such name; the message has the nearest ones.
        FileNotFoundError: no such path.
        DownloadError: the weights have to be fetched and cannot be; the message says what to do.
    """
    name = os.fspath(name_or_path)
    if name.startswith("file://"):
        name = url2pathname(name.removeprefix("file://"))
    path = Path(name).expanduser()
    if name and path.exists():
        return path
    if name in built_in_models():
        return built_in_models()[name]
    if name in OFFICIAL:
        return _official(name, download_root or cache_folder())
    if (
        isinstance(name_or_path, Path)
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1  # a hub id has one
        or name.endswith((".pt", ".pkl", ".safetensors"))
    ):
        raise FileNotFoundError(f"{name}: no such file or folder")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _from_hub(name)
    known = {n.lower(): n for n in list_models()}
    near = [known[n] for n in difflib.get_close_matches(name.lower(), known, n=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known.values())};"
    raise ValueError(f"unknown model {name!r}; {hint} A path or a hub id such as owner/name also works")


def _official(name: str, folder: Path) -> Path:
    below = OFFICIAL[name]
    target = folder / Path(unquote(below)).name
    if target.exists():
        return target
    base = os.environ.get(URL_VARIABLE, "").rstrip("/")
    if not base:
        raise DownloadError(
            f"the weights of {name} are not on this machine: put {target.name} into {folder}, or pass its path, or set "
            f"{URL_VARIABLE} to the address below which {below} is served"
        )
    url = f"{base}/{below}"
    return download(url, target, _published_checksum(url, target))


def _published_checksum(url: str, target: Path) -> str | None:
    """The sha256 in `URL.sha256`, where the host has one: the official files come without checksums."""
    listing = target.with_name(target.name + ".sha256")
    listing.unlink(missing_ok=True)  # of an earlier version
    try:
        words = download(f"{url}.sha256", listing).read_text(encoding="ascii", errors="replace").split()
    except DownloadError:
        return None  # an unreachable host shows itself at the file
    return words[0] if words and re.fullmatch(r"[0-9a-fA-F]{64}", words[0]) else None


def _from_hub(name: str) -> Path:
    snapshot_download = _hub(name)
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client has many error classes, and those of its transport
        reason = str(error).split("\n")[0] or type(error).__name__
        raise DownloadError(
            f"{name}: no such path here, and the hub did not deliver it ({reason}). Without a network, download the "
            "model's folder elsewhere and pass its path"
        ) from error


def _hub(name: str) -> Callable[..., str]:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(f"loading {name!r} from the hub (no such path exists)", "hf") from error
    found: Callable[..., str] = snapshot_download
    return found
