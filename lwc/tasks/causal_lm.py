"""Task causal_lm."""

from __future__ import annotations

from lwc.tasks.text_endpoint import TextEndpoint


class CausalLM:
    """The next token."""

    endpoint = TextEndpoint()


TASK = CausalLM()
