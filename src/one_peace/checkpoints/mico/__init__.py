"""Published MiCo checkpoints: their tensor names, their configuration, conversion."""
