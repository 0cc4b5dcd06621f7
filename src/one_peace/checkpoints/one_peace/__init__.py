"""Official ONE-PEACE checkpoints: their tensor names, their configuration, conversion."""
