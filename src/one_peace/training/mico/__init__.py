"""MiCo: one run of omni-modal pretraining or fine-tuning through the loop."""
