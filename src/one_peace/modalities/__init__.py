"""The modalities: one file each, all behind the contract in `base`."""

from one_peace.modalities.audio import Audio
from one_peace.modalities.depth import Depth
from one_peace.modalities.image import Image
from one_peace.modalities.normals import Normals
from one_peace.modalities.registry import get_modality, list_modalities, register_modality
from one_peace.modalities.text import Text
from one_peace.modalities.video import Video

for _modality in (Text(), Image(), Audio(), Video(), Depth(), Normals()):
    register_modality(_modality)

__all__ = ["get_modality", "list_modalities", "register_modality"]
