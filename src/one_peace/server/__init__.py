"""The service: an HTTP API over encoding and search, and a page to use them with."""
