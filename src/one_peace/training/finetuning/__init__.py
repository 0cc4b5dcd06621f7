"""Fine-tuning on tables of examples, and what all training from tables shares."""
