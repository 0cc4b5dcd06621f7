"""Pictures as sequences of codes and back."""
