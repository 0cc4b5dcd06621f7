"""The training loop and what it needs: recipes, optimiser, schedule, resumable state."""
