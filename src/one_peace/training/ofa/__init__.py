"""OFA: sequence-to-sequence training through the loop."""
