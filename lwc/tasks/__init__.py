"""What a model learns, a file for each task."""
