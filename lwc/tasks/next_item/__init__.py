"""Which items come next for a user: a causal transformer over item ids, compressed like any other model."""
