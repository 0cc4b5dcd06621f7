"""Videos to clips with all that belongs to them, as shards for omni-modal pretraining."""

from one_peace.data.clip_shards.preparing import ClipSettings, PreparationReport, prepare_clips

__all__ = ["ClipSettings", "PreparationReport", "prepare_clips"]
