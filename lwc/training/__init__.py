"""The training loop, fine-tuning and recovery distillation."""
