"""Passes through a model with blocks bypassed, each hidden state computed once."""
