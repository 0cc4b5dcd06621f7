"""The sample library: real pictures, sounds and videos with words, from packages that install by name."""
