"""Speech to learn to hear from: recordings, synthetic voices, and both cut and put together anew."""
