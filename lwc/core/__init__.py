"""Errors, the store, the machine and several processes. Imports no other package of lwc."""
