"""What to look at in a Triton model repository, one subject a file."""
