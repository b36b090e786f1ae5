"""Load tests over HTTP and gRPC that check every answer. Locust runs in its own process."""
