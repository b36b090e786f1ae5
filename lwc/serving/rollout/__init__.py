"""New versions beside the live one: tried, switched to, taken back."""
