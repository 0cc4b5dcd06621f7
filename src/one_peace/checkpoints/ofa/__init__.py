"""Published OFA checkpoints: their tensor names, their configuration, conversion."""
