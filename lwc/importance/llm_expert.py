"""LLM expert: a chat model reads what the other methods measured and ranks the blocks, with reasons."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from lwc.core.errors import MissingDependency
from lwc.core.machine import cache_dir
from lwc.core.store import key_of, write_json
from lwc.importance.chat_client import ChatError, Reply, post_chat
from lwc.importance.fusion import usable
from lwc.importance.types import LayerImportance, Refusal
from lwc.recipe import LlmExpert

logger = logging.getLogger(__name__)
_LONGEST_REASON = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0

SYSTEM = """You rank the blocks of a transformer for depth pruning: which to keep, which to remove.
Each column of the table is a method's measured importance of every block, in the method's own unit; higher means keep.
Weigh the methods against each other. Answer with one JSON object and nothing else, no code fence:
{"ranking": [every block number once, the most important first], "reasons": {"<block number>": "<one sentence>", ...}}
"reasons" has an entry for every block."""


class ExpertError(MissingDependency):
    """The expert gave no usable answer, and the recipe requires one (exit 4)."""


@dataclass(frozen=True)
class ExpertImportance(LayerImportance):
    """``reasons`` holds one sentence a block, by block; ``usage`` the tokens the server counted."""

    reasons: tuple[str, ...] = ()
    usage: dict[str, int] = field(default_factory=dict)


class Answer(BaseModel):
    """What the expert must return, to the letter."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ranking: tuple[StrictInt, ...]
    reasons: dict[str, str]


def parse_answer(content: str, blocks: int) -> Answer:
    """The answer, if it is the JSON asked for.

    Raises:
        ValueError: not JSON, other fields, no permutation of all blocks, or a reason missing, empty or too long.
    """
    try:
        answer = Answer.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where + ': ' if where else ''}{first['msg']}") from None
    if sorted(answer.ranking) != list(range(blocks)):
        raise ValueError(f"ranking is no permutation of the blocks 0 to {blocks - 1}")
    if set(answer.reasons) != {str(block) for block in range(blocks)}:
        raise ValueError("reasons do not name every block once")
    if any(not 0 < len(reason.strip()) <= _LONGEST_REASON for reason in answer.reasons.values()):
        raise ValueError(f"a reason is empty or longer than {_LONGEST_REASON} characters")
    return answer


def evidence_table(evidence: Mapping[str, Sequence[float]], blocks: int) -> str:
    """A Markdown table of scores, a row a block; methods that say nothing are named below it.

    Raises:
        ValueError: no method says anything, or one scores another number of blocks.
    """
    if any(len(scores) != blocks for scores in evidence.values()):
        raise ValueError(f"a method does not score all {blocks} blocks")
    good, excluded = usable(evidence)
    if not good:
        raise ValueError("there is no measured evidence to rank by")
    lines = [f"| block | {' | '.join(good)} |", "|" + "---|" * (len(good) + 1)]
    for block in range(blocks):
        lines.append(f"| {block} | {' | '.join(f'{scores[block]:.4g}' for scores in good.values())} |")
    lines += [f"Left out: {name} ({reason})." for name, reason in excluded.items()]
    return "\n".join(lines)


def request_body(evidence: Mapping[str, Sequence[float]], blocks: int, config: LlmExpert) -> dict[str, Any]:
    """The chat completion request: the table, temperature 0, and the schema as ``response_format``."""
    names = [str(block) for block in range(blocks)]
    schema = {
        "type": "object",
        "properties": {
            "ranking": {"type": "array", "items": {"type": "integer"}},
            "reasons": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in names},
                "required": names,
                "additionalProperties": False,
            },
        },
        "required": ["ranking", "reasons"],
        "additionalProperties": False,
    }
    return {
        "model": config.model,
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"A transformer of {blocks} blocks.\n\n{evidence_table(evidence, blocks)}"},
        ],
        "temperature": 0.0,
        "max_tokens": config.max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "block_ranking", "strict": True, "schema": schema},
        },
    }


def _cached(file: Path, blocks: int) -> Reply | None:
    """An earlier answer to the very same request; one that is damaged is asked for anew."""
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        parse_answer(stored["content"], blocks)
        return Reply(stored["content"], dict(stored["usage"]))
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s: not a usable cached answer (%s); asking again", file, error)
        return None


def _key(config: LlmExpert) -> str:
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ChatError(f"the environment variable {config.api_key_env} is not set", again=False)
    if not (key.isascii() and key.isprintable()):
        raise ChatError(f"the environment variable {config.api_key_env} is not a plain ASCII key", again=False)
    return key


def check_key(config: LlmExpert) -> None:
    """Raise `ExpertError` where the environment has no usable key."""
    try:
        _key(config)
    except ChatError as error:
        raise ExpertError(
            f"llm_expert: {error}", f"export {config.api_key_env}=…, or leave llm_expert out of the recipe"
        ) from error


def _ask(body: dict[str, Any], blocks: int, config: LlmExpert) -> Reply:
    """Ask until there is a usable answer, ``retries`` times more at most; a refused one is told why."""
    key = _key(config)
    complaint: list[dict[str, str]] = []
    attempt = 0
    while True:
        asked = {**body, "messages": [*body["messages"], *complaint]}
        try:
            reply = post_chat(config.base_url, key, asked, config.timeout_seconds)
            parse_answer(reply.content, blocks)
            return reply
        except ChatError as error:
            if error.schema_refused and "response_format" in body:
                # Not every server knows it. The schema is in the prompt too, and the answer is held to it here.
                logger.info("the server knows no response_format; the schema goes in the prompt only")
                body = {name: value for name, value in body.items() if name != "response_format"}
                continue
            if not error.again:
                raise
            problem = str(error)
        except ValueError as error:
            problem = f"malformed answer: {error}"
            complaint = [{"role": "user", "content": f"An earlier answer was refused: {error}."}]
        attempt += 1
        logger.info("LLM expert, attempt %d of %d: %s", attempt, config.retries + 1, problem)
        if attempt > config.retries:
            raise ChatError(f"{problem} (attempts: {attempt})", again=False)
        time.sleep(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE))


def rank_with_expert(
    evidence: Mapping[str, Sequence[float]], blocks: int, config: LlmExpert
) -> ExpertImportance | Refusal:
    """s_b = n − position of block b in the expert's ranking (most important first): n … 1, no unit but rank.

    ``evidence`` are the raw scores (L,) of the other methods; the model, its texts and labels are never sent. Answers
    are kept in the user's cache under a digest of endpoint and request; the key is in neither, nor in any message. No
    paper: an expert's guess, as good as its correlation with measured loss says it is.

    At most ``retries`` + 1 requests of ``max_tokens`` each, ``timeout_seconds`` each.

    Raises:
        ExpertError: no usable answer, and ``config.required``. Otherwise a `Refusal` gives the reason.
    """
    try:
        body = request_body(evidence, blocks, config)
        file = cache_dir() / "llm_expert" / f"{key_of({'endpoint': config.base_url, 'body': body})}.json"
        reply = _cached(file, blocks)
        if reply is None:
            reply = _ask(body, blocks, config)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"request": body, "content": reply.content, "usage": reply.usage})
    except (ChatError, ValueError) as error:
        if config.required:
            raise ExpertError(
                f"llm_expert: {error}", "fix the endpoint, or leave `required` out of the recipe"
            ) from error
        logger.warning("llm_expert is left out: %s", error)
        return Refusal(str(error))
    answer = parse_answer(reply.content, blocks)
    position = {block: place for place, block in enumerate(answer.ranking)}
    return ExpertImportance(
        "llm_expert",
        tuple(float(blocks - position[block]) for block in range(blocks)),
        "rank",
        reasons=tuple(answer.reasons[str(block)].strip() for block in range(blocks)),
        usage=reply.usage,
    )
