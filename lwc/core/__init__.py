"""What every wing stands on: errors, the store, the machine, several processes. Imports nothing of lwc above it."""
