"""The line of stages: what runs, why, and under which key."""
