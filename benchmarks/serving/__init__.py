"""What `serve.py` measures with: a small HTTP client, and the handler that ours is compared with."""
