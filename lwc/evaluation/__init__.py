"""The one reading of the test split."""
